"""Feeds every reader with damaged documents, and says which of them was not refused properly.

    python benchmarks/fuzz.py --minutes 10 [--only yaml --only bin] [--seed 0]

A reader must return, or raise an error of ``merge_optuna.errors``, within 2 s of processor time
and 200 MB. Anything else is a finding: it is printed with its smallest input, and the exit status
is 1.
Every reader runs in a process of its own, one after the other, and gets an equal part of the time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st

ROOT = Path(__file__).parents[1]

SECONDS, MEGABYTES = 2.0, 200
NUMBERS = (0, -1, 1, 2, 7, 2**31, 2**63, 2**64, 10**9, 10**30, 10**400)
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        "",
        "x",
        "a/b",
        "../x",
        "/dev/zero",
        "\x00",
        "\ud800",
        "é",
        "*",
        "[",
        "(",
    ),
    *(0.5, 1e308, -1e-320, float("nan"), float("inf"), [], {}, [[]], [None], {"*": 1}, {"": {}}),
    *("1", "yes", "12:30:00", "module:x", "A0-B1", "A[0:99]", "depth(3)", "x" * 5000, [1] * 300),
    *NUMBERS,
)
CARD = """---
license: other
license_name: llama3
license_link: https://example.org/licence
tags:
- merge
base_model: [org/a, org/b]
---

# A model
"""
WORDS = (
    "[",
    "]",
    "{",
    "}",
    ":",
    ",",
    "- ",
    "\n",
    "  ",
    "&a ",
    "*a",
    "!!int ",
    "'",
    '"',
    "<<: ",
    "?",
)

THEIRS = """models:
- model: ROOT/a
- model: ROOT/b
  parameters:
    density: [0.1, 0.9]
    weight: [{filter: mlp, value: 0.5}, {value: 1}]
merge_method: ties
base_model: ROOT/a
parameters: {normalize: true}
dtype: bfloat16
"""

Draw = Callable[[random.Random], Any]
Reader = Callable[[Any], object]


# -- damage -----------------------------------------------------------------------------------


def damaged(value: Any, rng: random.Random) -> Any:
    """A document with a few of its values, keys and items changed, moved or removed."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        places = list(containers(value))
        if not places:
            return rng.choice(ODD)
        place = rng.choice(places)
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            continue
        key = rng.choice(keys)
        match rng.randrange(6):
            case 0:
                del place[key]
            case 1:
                place[key] = rng.choice(places)  # may now be in itself
            case 2 if isinstance(place, dict):
                place[str(rng.choice(ODD))] = place.pop(key)
            case 3:
                place[key] = [place[key]] * rng.choice((1, 2, 50))
            case _:
                place[key] = rng.choice(ODD)
        try:
            value = json.loads(json.dumps(value))
        except (ValueError, RecursionError):
            return rng.choice(ODD)
    return value


def containers(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from containers(inner)


def damaged_text(text: str, rng: random.Random) -> str:
    """A text with words put in, parts removed, doubled or repeated very often."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        a, b = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        b = min(b, a + rng.choice((1, 5, 200)))
        match rng.randrange(5):
            case 0:
                text = text[:a] + text[b:]
            case 1:
                text = text[:a] + rng.choice(WORDS) * rng.choice((1, 1, 5, 3000)) + text[a:]
            case 2:
                text = text[:a] + text[a:b] * rng.choice((2, 2, 300)) + text[b:]
            case 3:
                text = text[:a] + str(rng.choice(ODD)) + text[b:]
            case _:
                text = text[:a] + chr(rng.choice((0, 9, 133, 0x2028, 0xFEFF, 0xD800))) + text[a:]
    return text


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes that are flipped, cut out, doubled or cut off."""
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = (
            rng.randrange(len(raw) + 1)
            if rng.random() < 0.5
            else rng.randrange(min(len(raw) + 1, 600))
        )
        size = rng.choice((1, 1, 2, 8, 64))
        match rng.randrange(4):
            case 0:
                raw[at : at + size] = bytes(rng.randrange(256) for _ in range(size))
            case 1:
                del raw[at : at + size]
            case 2:
                raw[at:at] = raw[at : at + size]
            case _:
                raw = raw[: max(at, 1)] if rng.random() < 0.2 else raw
    return bytes(raw)


# -- readers ----------------------------------------------------------------------------------


class Models:
    """Small checkpoints, and everything that is read of them."""

    def __init__(self, root: Path) -> None:
        import torch

        import merge_optuna as mo

        sys.path.insert(0, str(ROOT))  # this is a process of its own
        from tests import toys

        self.root = root
        for name, seed in (("a", 0), ("b", 1)):
            toys.llama(seed).save_pretrained(root / name)
        self.a = mo.Checkpoint(root / "a", name="a")
        self.b = mo.Checkpoint(root / "b", name="b")
        self.recipe = mo.recipes.ties(
            self.a,
            [self.b, mo.Checkpoint(root / "b", name="c")],
            density=[mo.free(0.1, 0.9, per="layer"), {"mlp": 0.5, "*": mo.per_group([0.5] * 4)}],
            weight=mo.free(0, 1, per=mo.depth(2)),
        )
        self.inner = mo.recipes.linear([self.a, self.b], weight=[0.5, 1.0], name="inner")
        self.nested = mo.recipes.slerp(self.inner, mo.Checkpoint(root / "b", name="d"), t=0.5)
        self.config = json.loads((root / "a" / "config.json").read_text())
        self.safetensors = (root / "a" / "model.safetensors").read_bytes()
        torch.save(toys.llama(0).state_dict(), root / "model.bin")
        self.bin = (root / "model.bin").read_bytes()

    def folder(self, **files: bytes | str) -> Path:
        """A copy of a checkpoint with some files replaced, dots written as ``__``."""
        made = Path(tempfile.mkdtemp(dir=self.root))
        own = {name.replace("__", "."): content for name, content in files.items()}
        for name in ("config.json", "model.safetensors"):
            if name not in own and not any("index" in other or ".bin" in other for other in own):
                os.link(self.root / "a" / name, made / name)
        for name, content in own.items():
            raw = content.encode(errors="surrogatepass") if isinstance(content, str) else content
            (made / name).write_bytes(raw)
        return made

    def opened(self, folder: Path) -> object:
        """A checkpoint, with everything that a merge asks of it."""
        import merge_optuna as mo

        one = mo.Checkpoint(folder, name="x")
        recipe = mo.recipes.linear([one, self.b], weight=mo.free(0, 1, per="layer"))
        return one.digest, recipe.slots, [one.tensor(name).shape for name in one.names()]


def readers(models: Models) -> dict[str, tuple[Draw, Reader]]:
    """What to draw and what reads it, by a name."""
    import merge_optuna as mo
    from merge_optuna.checkpoints import licence_of
    from merge_optuna.recipes import LayerPath, Recipe
    from merge_optuna.spaces import Declaration, read

    documents = [recipe.to_data() for recipe in (models.recipe, models.nested)]
    spaces = [
        mo.spaces.LayerPath([models.a, models.b], repeats=1).to_yaml(),
        mo.spaces.SplitSlerp([models.a, models.b]).to_yaml(),
        mo.spaces.AffineSwarm(models.a, [models.b]).to_yaml(),
        mo.spaces.DifferentialCrossover([models.a, models.b]).to_yaml(),
    ]
    theirs = THEIRS.replace("ROOT", str(models.root))

    def document(rng: random.Random) -> dict[str, Any]:
        found = damaged(rng.choice(documents), rng)
        return {"merge_optuna": 1, **found} if isinstance(found, dict) else found

    def used(recipe: Recipe) -> object:
        recipe = recipe.bind(recipe.start())
        return recipe.digest, [recipe.values_at(n) for n in recipe.alignment.layout.names[:3]]

    def opened(text: str) -> object:
        found = read(text)
        space = found.open() if isinstance(found, Declaration) else found
        return space.distributions(), space.digest

    def in_json(rng: random.Random, whole: Any) -> str:
        text = json.dumps(damaged(whole, rng))
        return damaged_text(text, rng) if rng.random() < 0.3 else text

    def header(rng: random.Random) -> bytes:
        size = struct.unpack("<Q", models.safetensors[:8])[0]
        content = json.loads(models.safetensors[8 : 8 + size])
        text = in_json(rng, content).encode(errors="surrogatepass")
        return struct.pack("<Q", len(text)) + text + models.safetensors[8 + size :]

    index = {"weight_map": dict.fromkeys(models.a.names(), "model.safetensors")}
    adapter = models.root / "adapter"
    _save_adapter(adapter)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    rows = "".join(json.dumps({"text": f"{i}", "label": i % 2}) + "\n" for i in range(20))
    params = models.recipe.start()

    def with_adapter(text: str) -> object:
        made = Path(tempfile.mkdtemp(dir=models.root))
        os.link(adapter / "adapter_model.safetensors", made / "adapter_model.safetensors")
        (made / "adapter_config.json").write_bytes(text.encode(errors="surrogatepass"))
        one = mo.Checkpoint(made, name="x", base=models.a)
        return one.digest, [one.tensor(name) for name in one.names()[:4]]

    def in_file(name: str, text: str) -> Path:
        path = Path(tempfile.mkdtemp(dir=models.root)) / name
        path.write_bytes(text.encode(errors="surrogatepass"))
        return path

    def merged(text: str) -> object:
        path = in_file("recipe.yml", text)
        return used(Recipe.read(path))

    def values(arguments: dict[str, Any]) -> object:
        return mo.free(**arguments), mo.per_group([mo.free(**arguments)] * 2)

    def scores(packed: Any) -> object:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study()
        attributes = {"merge_optuna:scores": packed}
        study.add_trial(optuna.trial.create_trial(value=1.0, system_attrs=attributes))
        return mo.scores(study, 0)

    def divided(stored: Any) -> object:
        import optuna

        from merge_optuna.study.plumbing import stored_parts

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study()
        study._storage.set_study_system_attr(study._study_id, "merge_optuna:parts", stored)
        return stored_parts(study)

    parts = {"names": ["mr", "subj"], "n": 4, "data": "eJxjYGAEQgYGAAASAAM="}
    packed = {"n": 4, "type": "f4", "data": "eAFjYGBgAAAABAAB"}
    return {
        "recipe": (document, lambda data: used(Recipe.from_json(json.dumps(data)))),
        "yaml": (
            lambda rng: damaged_text(rng.choice((models.recipe, models.nested)).to_yaml(), rng),
            merged,
        ),
        "mergekit": (lambda rng: damaged_text(theirs, rng), merged),
        "space": (lambda rng: damaged_text(rng.choice(spaces), rng), opened),
        "path": (
            lambda rng: damaged_text("A0-A1-B1×0.8 A[0:2] B[1:2]", rng),
            lambda text: mo.recipes.path(LayerPath.parse(text), [models.a, models.b]).digest,
        ),
        "params": (lambda rng: damaged(params, rng), lambda p: models.recipe.bind(p).digest),
        "free": (
            lambda rng: {
                "low": 0,
                "high": 1,
                **{
                    rng.choice(("low", "high", "per", "start", "log")): rng.choice(ODD)
                    for _ in range(2)
                },
            },
            values,
        ),
        "header": (header, lambda raw: models.opened(models.folder(model__safetensors=raw))),
        "safetensors": (
            lambda rng: damaged_bytes(models.safetensors, rng),
            lambda raw: models.opened(models.folder(model__safetensors=raw)),
        ),
        "bin": (
            lambda rng: damaged_bytes(models.bin, rng),
            lambda raw: models.opened(
                models.folder(pytorch_model__bin=raw, config__json=json.dumps(models.config))
            ),
        ),
        "licence": (
            lambda rng: damaged_text(CARD, rng),
            lambda text: licence_of(mo.Checkpoint(models.folder(README__md=text), name="x")),
        ),
        "config": (
            lambda rng: in_json(rng, models.config),
            lambda text: models.opened(models.folder(config__json=text)),
        ),
        "index": (
            lambda rng: in_json(rng, index),
            lambda text: models.opened(
                models.folder(
                    model__safetensors__index__json=text, config__json=json.dumps(models.config)
                )
            ),
        ),
        "adapter": (lambda rng: in_json(rng, settings), with_adapter),
        "jsonl": (
            lambda rng: damaged_text(rows, rng),
            lambda text: len(mo.evaluators.Classification(in_file("dev.jsonl", text))),
        ),
        "scores": (lambda rng: damaged(packed, rng), scores),
        "parts": (lambda rng: damaged(parts, rng), divided),
    }


def _save_adapter(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    from tests import toys

    settings = LoraConfig(r=2, target_modules=["q_proj"], alpha_pattern={"q_proj": 4})
    get_peft_model(toys.llama(0), settings).save_pretrained(folder)


# -- running ----------------------------------------------------------------------------------


class Finding(Exception):
    """A reader that did not refuse properly; the signature tells findings apart."""

    def __init__(self, signature: str, text: str, given: Any) -> None:
        super().__init__(signature)
        self.signature, self.text, self.given = signature, text, given


def fuzz(name: str, seed: int, seconds: float, pipe: Any) -> None:
    """Feeds one reader with what hypothesis draws, and tells what went wrong."""
    warnings.simplefilter("ignore")
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    tried: list[bool] = []
    known: set[str] = set()
    with tempfile.TemporaryDirectory() as root:
        models = Models(Path(root))
        draw, reader = readers(models)[name]
        kept = set(Path(root).iterdir())

        @hypothesis.settings(
            max_examples=100,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        )
        @hypothesis.given(st.randoms(use_true_random=False))
        def check(rng: random.Random) -> None:
            given = draw(rng)
            pipe.send(("trying", given))
            wrong = _wrong(reader, given, warm=bool(tried))
            tried.append(wrong is None)
            for made in set(Path(root).iterdir()) - kept:
                shutil.rmtree(made, ignore_errors=True)
            if wrong is not None and wrong[0] not in known:
                raise Finding(*wrong, given)

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                hypothesis.seed(seed)(check)()
            except Finding as finding:
                known.add(finding.signature)
                pipe.send(("wrong", (finding.text, finding.given)))
            seed += 1
        pipe.send(("done", len(tried)))


def _wrong(reader: Reader, given: Any, *, warm: bool) -> tuple[str, str] | None:
    """What went wrong, in few words and in many; the first call also imports libraries."""
    from merge_optuna.errors import MergeOptunaError

    peak, began = _peak(), time.process_time()
    try:
        with contextlib.suppress(MergeOptunaError):
            reader(given)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{type(error).__name__} at {frame.filename}:{frame.lineno}"
        return where, traceback.format_exc(limit=-4)
    spent, grown = time.process_time() - began, _peak() - peak
    if warm and spent > SECONDS:
        return "slow", f"It took {spent:.1f} s."
    if warm and grown > MEGABYTES:
        return "large", f"It took {grown:.0f} MB."
    return None


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def watched(name: str, seed: int, seconds: float) -> int:
    """Runs one reader in its own process; its number of findings."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(
        target=fuzz, args=(name, seed, seconds, theirs), daemon=True
    )
    process.start()
    theirs.close()
    found: dict[str, Any] = {}
    last: Any = None
    while True:
        if not ours.poll(60 if last is None else 20):
            found["it hangs"] = last
            break
        try:
            kind, content = ours.recv()
        except EOFError:
            found["the process died"] = last
            break
        if kind == "trying":
            last = content
        elif kind == "wrong":
            found.setdefault(content[0], content[1])
        else:
            print(f"{name}: {content:,} inputs", flush=True)
            break
    process.kill()
    process.join()
    for wrong, given in found.items():
        print(f"\nFINDING in {name}: {wrong}\n  input: {given!r:.1500}\n", flush=True)
    return len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only", action="append", help="a reader; all of them when omitted")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    names = options.only or NAMES
    seconds = 60 * options.minutes / len(names)
    findings = sum(watched(name, options.seed, seconds) for name in names)
    print(f"{findings} findings")
    sys.exit(1 if findings else 0)


NAMES = (
    *("recipe", "yaml", "mergekit", "space", "path", "params", "free", "header", "safetensors"),
    *("bin", "config", "index", "adapter", "jsonl", "scores", "parts"),
)

if __name__ == "__main__":
    main()
