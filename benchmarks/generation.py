"""Rounds of a search that generates: a model refilled in place, beside one written and loaded.

    python benchmarks/generation.py --data DIR                        # stories260K, a minute
    python benchmarks/generation.py --data DIR --model chat --lm FOLDER --adapters FOLDER FOLDER
    python benchmarks/generation.py ... --ways vllm-refilled vllm-written      # where vLLM is

In every round there is another recipe (TIES of two experts, other weights and densities), and the
model writes --tokens tokens at most after each of --prompts prompts, greedily. (``chat`` has no
token that ends a reply.)

- ``refilled`` fills the live model and asks ``mo.evaluators.Generation``; ``continuous`` does so
  with transformers' continuous batching, ``vllm-refilled`` with a running vLLM engine.
- ``written`` is what mergekit-evolve does: the merge is written to the disk (by mergekit itself
  with --mergekit, else by ``mo.write``), loaded with ``from_pretrained``, and ``generate`` runs
  batches of equal size, sorted by length. ``vllm-written`` makes a vLLM engine of the folder.

Every way has a process of its own. Prints the median seconds of a round and its parts, how many
times as long it takes as the first way, the tokens written, and how many replies are those of the
last way, letter by letter; what is done once (imports, building the first model) is told apart.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import _replies
import torch
import transformers
from _mergekit import Mergekit

import merge_optuna as mo

Seconds = dict[str, float]
Round = Callable[[float, Seconds], Sequence[str]]
"""From a number in (0, 1), which moves the recipe, to replies; notes the seconds of each part."""


@contextmanager
def noted(seconds: Seconds, part: str) -> Iterator[None]:
    """Adds the seconds of a block."""
    start = time.perf_counter()
    yield
    seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - start


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _replies.add_arguments(parser)
    parser.add_argument("--model", choices=_replies.SETTINGS, default="stories")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["refilled", "written"])
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--mergekit", help="Python that has mergekit, to write with")
    parser.add_argument("--compile", action="store_true", help="let vLLM compile the model")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        torch.set_num_threads(options.threads)
        print(json.dumps(measured(options)))
        return
    results = {}
    for way in options.ways:
        command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results[way] = json.loads(done.stdout.splitlines()[-1])
    _print(results)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=2), encoding="utf-8")


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """The rounds of one way."""
    setting = _replies.setting(options.model, options, options.prompts)
    once: Seconds = {}
    with noted(once, "once"):
        run = WAYS[options.way](setting, options)
    rounds, replies = [], []
    for number in range(options.rounds):
        rounds.append(Seconds())
        replies.append([*run((number + 1) / (options.rounds + 1), rounds[-1])])
    lengths = [len(setting.tokenizer(text)["input_ids"]) for some in replies for text in some]
    tokens = sum(lengths) / options.rounds
    return {**once, "rounds": rounds, "replies": replies, "tokens": tokens}


def _recipe(setting: _replies.Setting, x: float) -> mo.Recipe:
    base, *experts = setting.sources
    return mo.recipes.ties(base, experts, **_numbers(x))


def _numbers(x: float) -> dict[str, list[float]]:
    return {"weight": [1 - x, x], "density": [0.3 + x / 2, 0.8 - x / 2]}


# -- refilled in place ----------------------------------------------------------------------------


def _refilled(engine: Any, setting: _replies.Setting, options: Any, **kind: str) -> Round:
    evaluator = setting.evaluator(
        max_new_tokens=options.tokens, batch_size=options.batch_size, **kind
    )
    evaluator.check(engine.load(_recipe(setting, 0.5)))

    def run(x: float, seconds: Seconds) -> Sequence[str]:
        with noted(seconds, "refill"):
            model = engine.load(_recipe(setting, x))
        with noted(seconds, "generate"):
            return [row["reply"] for row in evaluator.replies(model)]

    return run


def _vllm_refilled(setting: _replies.Setting, options: Any) -> Round:
    return _refilled(mo.engine.VLLM(dtype=options.dtype, **_of_vllm(options)), setting, options)


# -- written and loaded ---------------------------------------------------------------------------


def _writer(setting: _replies.Setting, options: Any) -> Callable[[float], Path]:
    out = options.folder / "written"
    if not options.mergekit:
        return lambda x: mo.write(_recipe(setting, x), out, force=True, dtype=options.dtype)
    kit = Mergekit(options.mergekit, options.threads)
    base, *experts = [str(source.folder) for source in setting.sources]

    def write(x: float) -> Path:
        rows = zip(experts, *_numbers(x).values(), strict=True)
        models = [
            {"model": folder, "parameters": {"weight": weight, "density": density}}
            for folder, weight, density in rows
        ]
        config = {"merge_method": "ties", "base_model": base, "models": models}
        kit.merge({**config, "dtype": options.dtype}, out)
        return out

    return write


def _written(setting: _replies.Setting, options: Any) -> Round:
    write, prompts = _writer(setting, options), setting.prompts()
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    dtype = getattr(torch, options.dtype)

    def run(x: float, seconds: Seconds) -> Sequence[str]:
        with noted(seconds, "write"):
            folder = write(x)
        with noted(seconds, "load"):
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        if setting.tokenizer.eos_token is None:
            model.generation_config.eos_token_id = None
        replies = [""] * len(prompts)
        with noted(seconds, "generate"), torch.inference_mode():
            for start in range(0, len(order), options.batch_size):
                rows = order[start : start + options.batch_size]
                texts = _generated(model, setting.tokenizer, [prompts[i] for i in rows], options)
                for row, text in zip(rows, texts, strict=True):
                    replies[row] = text
        return replies

    return run


def _generated(model: Any, tokenizer: Any, prompts: list[list[int]], options: Any) -> list[str]:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(one)) + one for one in prompts])
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts])
    output = model.generate(
        ids, attention_mask=mask, max_new_tokens=options.tokens, do_sample=False, pad_token_id=0
    )
    texts = tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
    return [text.strip() for text in texts]


def _vllm_written(setting: _replies.Setting, options: Any) -> Round:
    import vllm

    write, prompts = _writer(setting, options), setting.prompts()
    endless, dtype = setting.tokenizer.eos_token is None, options.dtype
    how = vllm.SamplingParams(temperature=0, max_tokens=options.tokens, ignore_eos=endless)
    tokenizer = str(options.folder / "tokenizer")
    setting.tokenizer.save_pretrained(tokenizer)

    def run(x: float, seconds: Seconds) -> Sequence[str]:
        with noted(seconds, "write"):
            folder = str(write(x))
        with noted(seconds, "load"):
            engine = vllm.LLM(folder, tokenizer=tokenizer, dtype=dtype, **_of_vllm(options))
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        with noted(seconds, "generate"):
            found = engine.generate(asked, how, use_tqdm=False)
        with noted(seconds, "load"):  # its memory is needed for the next one
            del engine
            gc.collect()
        return [one.outputs[0].text.strip() for one in found]

    return run


def _of_vllm(options: Any) -> dict[str, Any]:
    return {
        "max_model_len": 512,
        "kv_cache_memory_bytes": 1 << 30,
        "enforce_eager": not options.compile,
    }


WAYS: dict[str, Callable[[_replies.Setting, Any], Round]] = {
    "refilled": lambda setting, options: _refilled(
        mo.Engine(dtype=options.dtype), setting, options
    ),
    "continuous": lambda setting, options: _refilled(
        mo.Engine(dtype=options.dtype), setting, options, generator="continuous"
    ),
    "written": _written,
    "vllm-refilled": _vllm_refilled,
    "vllm-written": _vllm_written,
}


def _print(results: dict[str, Any]) -> None:
    totals = {
        way: statistics.median(sum(one.values()) for one in found["rounds"])
        for way, found in results.items()
    }
    first, last = next(iter(totals)), [*totals][-1]
    print(f"\n{'way':14}  seconds a round   ratio  tokens  same replies  once  parts")
    for way, found in results.items():
        parts = {
            part: statistics.median(one[part] for one in found["rounds"])
            for part in found["rounds"][0]
        }
        pairs = [
            (one, other)
            for mine, theirs in zip(found["replies"], results[last]["replies"], strict=True)
            for one, other in zip(mine, theirs, strict=True)
        ]
        same = f"{sum(one == other for one, other in pairs)} of {len(pairs)}"
        told = ", ".join(f"{part} {seconds:.2f}" for part, seconds in parts.items())
        print(
            f"{way:14}  {totals[way]:15.2f}  {totals[way] / totals[first]:6.2f}  "
            f"{found['tokens']:6.0f}  {same:>12}  {found['once']:4.0f}  {told}"
        )


if __name__ == "__main__":
    main()
