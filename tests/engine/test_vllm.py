"""A vLLM engine that is refilled, against transformers on written and freshly loaded checkpoints.

vLLM lives in an environment of its own: ``MERGE_OPTUNA_VLLM`` names its Python, and
``pytest -m vllm`` runs these tests there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import merge_optuna as mo
from merge_optuna.errors import (
    CheckpointError,
    EngineError,
    EvaluationError,
    InfeasibleRecipe,
    StudyError,
)
from tests import processes, toys
from tests.vocabularies import word_level

VARIABLE = "MERGE_OPTUNA_VLLM"
INSTALLED = find_spec("vllm") is not None
WITHOUT_MIND = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_LOGGING_LEVEL": "ERROR"}

here = pytest.mark.skipif(not INSTALLED, reason=f"needs vLLM in this environment, see {VARIABLE}")
elsewhere = pytest.mark.skipif(INSTALLED, reason="vLLM is here")

# vLLM's attention on a CPU needs heads of at least 32 numbers.
SIZES: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
LONG = {"max_position_embeddings": 160}
FAMILIES: dict[str, Callable[..., Any]] = {
    "llama": partial(toys.llama, **SIZES, **LONG),
    "llama, tied": partial(toys.llama, tied=True, **SIZES, **LONG),
    "qwen3": partial(toys.decoder, "Qwen3", **{**SIZES, **LONG, "head_dim": 32}),
    "gpt2": partial(toys.gpt2, n_embd=64, n_positions=160),
}
TIE = 1e-4  # of logits: what two ways of adding float32 numbers differ by, and more
MOST = 12


def engine(**options: Any) -> mo.engine.VLLM:
    small: dict[str, Any] = {"enforce_eager": True, "kv_cache_memory_bytes": 64 << 20}
    own = {"block_size": 32, **options.pop("options", {})}
    return mo.engine.VLLM(**{**small, "max_num_seqs": 8, **options}, options=own)


def fresh(recipe: Any, folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        mo.write(recipe, folder), dtype=torch.float32
    ).eval()


def written(model: Any, prompt: Sequence[int], most: int) -> list[int]:
    """The likeliest tokens, one after the other, everything read again for each."""
    ids = [*prompt]
    for _ in range(most):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def gap(model: Any, prompt: Sequence[int], reply: Sequence[int], other: Sequence[int]) -> float:
    """By how much the first token in which replies differ is likelier; 0 if they do not."""
    at = next((i for i, (a, b) in enumerate(zip(reply, other, strict=True)) if a != b), None)
    if at is None:
        return 0.0
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *reply[:at]]])).logits[0, -1]
    return float(logits[reply[at]] - logits[other[at]])


def prompts(long: int) -> list[list[int]]:
    """Some begin alike, so that what was read for one is kept for the next."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(3, 63, (n,), generator=generator).tolist() for n in (1, 3, 7, 20)]
    common = torch.randint(3, 63, (long,), generator=generator).tolist()
    return [*drawn, [*common, 5], [*common, 9, 4]]


def recipes(base: mo.Checkpoint, experts: Sequence[mo.Checkpoint]) -> list[Any]:
    """Twenty, of several methods, and checkpoints as they are."""
    rng = np.random.default_rng(0)
    found: list[Any] = [base, *experts]
    while len(found) < 20:
        weight = rng.uniform(-1, 2, len(experts)).round(2).tolist()
        found += [
            mo.recipes.task_arithmetic(base, experts, weight=weight),
            mo.recipes.ties(base, experts, weight=weight, density=0.4, normalize=False),
            mo.recipes.linear(experts, weight=rng.uniform(0.1, 1, len(experts)).tolist()),
        ]
    return found[:20]


class Family(NamedTuple):
    base: mo.Checkpoint
    experts: list[mo.Checkpoint]
    engine: mo.engine.VLLM


def alone(function: Callable[..., None], *args: object, cwd: Path) -> None:
    """Runs it in a process of its own, as there is one engine in each."""
    done = processes.call(function, *args, cwd=cwd).wait(580)
    print(done.out[-2000:])
    assert done.code == 0, done.err[-4000:]


# -- in the environment of vLLM ------------------------------------------------------------------


@pytest.mark.vllm
@elsewhere
def test_in_its_own_environment() -> None:
    """Runs this file there."""
    python = os.environ.get(VARIABLE)
    if not python:
        pytest.skip(f"set {VARIABLE} to a Python that has vLLM 0.32")
    root = Path(__file__).parents[2]
    environment = {**os.environ, **WITHOUT_MIND, "PYTHONPATH": str(root)}
    command = [python, "-m", "pytest", "-q", "-o", "addopts=-m vllm", __file__]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.vllm
@here
@pytest.mark.parametrize("name", FAMILIES)
def test_refills_of_a_family(name: str, tmp_path: Path) -> None:
    alone(refill_a_family, name, tmp_path, cwd=tmp_path)


def refill_a_family(name: str, folder: Path) -> None:
    base, *experts = toys.family(folder, FAMILIES[name], experts=2, scale=0.1)
    family = Family(base, experts, engine())
    twenty_refills_reply_as_written_checkpoints(family, folder)
    a_refill_that_ends_early_leaves_nothing_behind(family, folder)
    ends_lengths_and_what_is_no_number(family)
    what_is_no_number_is_gone_with_the_next_refill(family)
    weights_that_are_not_sent_are_an_error(family)
    other_shapes_are_refused(family, folder)
    with pytest.raises(EngineError, match="one engine in a process, and there is one"):
        engine().load(base)


def twenty_refills_reply_as_written_checkpoints(family: Family, folder: Path) -> None:
    asked, differing = prompts(70), 0
    for n, recipe in enumerate(recipes(family.base, family.experts)):
        served = family.engine.load(recipe)
        first = served.serve(asked[:-1], [MOST] * 5, ends=[])
        last = served.serve(asked[-1:], [MOST], ends=[])  # begins with what was read before
        differing += compared(fresh(recipe, folder / f"m{n}"), asked, [*first, *last])
    assert differing <= 2  # ties, of 120 replies


def compared(
    model: Any, asked: Sequence[list[int]], replies: Sequence[Any], tie: float = TIE
) -> int:
    """How many replies differ from those of a model; by ties alone, else it fails."""
    differing = 0
    for prompt, reply in zip(asked, replies, strict=True):
        expected = written(model, prompt, len(reply))
        differing += reply != expected
        assert abs(gap(model, prompt, expected, reply)) < tie
    return differing


def a_refill_that_ends_early_leaves_nothing_behind(family: Family, folder: Path) -> None:
    def broken() -> Iterator[tuple[str, torch.Tensor]]:
        yield from named(family.base)[:9]
        raise InfeasibleRecipe("in the middle")

    recipe = mo.recipes.task_arithmetic(family.base, family.experts, weight=[0.5, 0.8])
    served = family.engine.load(family.base)
    with pytest.raises(InfeasibleRecipe, match="in the middle"):
        served.refill(broken())
    replies = family.engine.load(recipe).serve([[5, 9, 3]], [MOST], ends=[])
    compared(fresh(recipe, folder / "early"), [[5, 9, 3]], replies)


def ends_lengths_and_what_is_no_number(family: Family) -> None:
    served = family.engine.load(family.base)
    [free] = served.serve([[5, 9, 3]], [MOST], ends=[])
    assert free is not None
    assert len(free) == MOST
    assert served.serve([[5, 9, 3]] * 2, [3, 1], ends=[]) == [free[:3], free[:1]]
    [ended] = served.serve([[5, 9, 3]], [MOST], ends=[free[4], 63])
    assert ended == free[: free.index(free[4]) + 1]
    assert served.serve([[5, 9, 3]], [MOST], ends=[], stops=["w1"]) == [free]  # no tokenizer
    served.refill((name, torch.full_like(t, float("nan"))) for name, t in named(family.base))
    assert served.serve([[5, 9, 3]], [2], ends=[]) == [None]


def what_is_no_number_is_gone_with_the_next_refill(family: Family) -> None:
    asked = prompts(70)
    served = family.engine.load(family.base)
    healthy = served.serve(asked, [MOST] * 6, ends=[])
    served.refill((name, torch.full_like(t, float("nan"))) for name, t in named(family.base))
    assert served.serve(asked, [MOST] * 6, ends=[]) == [None] * 6
    served = family.engine.load(family.base)
    assert served.serve(asked, [MOST] * 6, ends=[]) == healthy


def named(checkpoint: mo.Checkpoint) -> list[tuple[str, torch.Tensor]]:
    return list(mo.engine.tensors(checkpoint))


def weights_that_are_not_sent_are_an_error(family: Family) -> None:
    served = family.engine.load(family.base)
    tensors = named(family.base)
    for lacking in (next(name for name, t in tensors if t.ndim == 1), tensors[-1][0]):
        rest = [(name, t) for name, t in tensors if name != lacking]
        with pytest.raises(
            EngineError, match=f"no numbers for [12] of its weights: .*{lacking.split('.')[-1]}"
        ):
            served.refill(iter(rest))


def other_shapes_are_refused(family: Family, folder: Path) -> None:
    family.engine.load(family.base)
    for name, other in {"deeper": {"layers": 3}, "words": {"vocab_size": 96}}.items():
        checkpoint = mo.Checkpoint(toys.save(toys.llama(**SIZES, **other), folder / name))
        with pytest.raises(CheckpointError, match=r"Use a new mo\.engine\.VLLM"):
            family.engine.load(checkpoint)


@pytest.mark.vllm
@here
def test_a_head_that_is_stored_beside_its_embedding(tmp_path: Path) -> None:
    """Both are in the file of a model whose config ties them, and differ."""
    alone(head_beside_embedding, tmp_path, cwd=tmp_path)


def head_beside_embedding(folder: Path) -> None:
    place = toys.save(toys.llama(tied=True, **SIZES), folder / "m")
    tensors = load_file(place / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(tensors, place / "model.safetensors", {"format": "pt"})
    checkpoint = mo.Checkpoint(place)
    replies = engine(max_model_len=32).load(checkpoint).serve([[5, 9, 3]], [MOST], ends=[])
    compared(mo.Engine().load(checkpoint), [[5, 9, 3]], replies)


@pytest.mark.vllm
@here
def test_heads_that_it_lacks_are_an_error_of_the_load(tmp_path: Path) -> None:
    alone(small_heads, tmp_path, cwd=tmp_path)


def small_heads(folder: Path) -> None:
    sizes = {**SIZES, "num_attention_heads": 4}  # heads of 16 numbers
    checkpoint = mo.Checkpoint(toys.save(toys.llama(**sizes), folder / "m"))
    with pytest.raises(EngineError, match=r"does not start .*head_dim.*with mo\.Engine"):
        engine(max_model_len=32).load(checkpoint)


@pytest.mark.vllm
@here
def test_bfloat16(tmp_path: Path) -> None:
    alone(in_bfloat16, tmp_path, cwd=tmp_path)


def in_bfloat16(folder: Path) -> None:
    """Rounded once, in the engine's data type; the arithmetic need not be that of transformers."""
    base, *experts = toys.family(folder, FAMILIES["llama"], experts=2)
    recipe = mo.recipes.task_arithmetic(base, experts, weight=[0.5, 0.8])
    served = engine(dtype="bfloat16", max_model_len=32).load(recipe)
    replies = served.serve([[5, 9, 3]], [MOST], ends=[])
    compared(fresh(recipe.with_fields(dtype="bfloat16"), folder / "m"), [[5, 9, 3]], replies, 0.1)


def worded(folder: Path) -> list[mo.Checkpoint]:
    """A family whose folders have a tokenizer, and settings of generation that must not count."""
    family = toys.family(folder, FAMILIES["llama, tied"], experts=2, scale=0.1)
    words = word_level([f"w{i}" for i in range(61)])
    settings = {"do_sample": True, "temperature": 5.0, "repetition_penalty": 3.0}
    for checkpoint in family:
        words.save_pretrained(checkpoint.folder)
        text = json.dumps({**settings, "eos_token_id": 2})
        Path(str(checkpoint.folder), "generation_config.json").write_text(text)
    return [mo.Checkpoint(str(one.folder), name=one.name) for one in family]


def dev() -> datasets.Dataset:
    texts = [f"w{3 * i} w{60 - i} w{i}" for i in range(12)]
    answers = [f"w{i} w{i + 1} w{i + 2} w{i + 3}" for i in range(12)]
    return datasets.Dataset.from_dict({"question": texts, "answer": answers})


@pytest.mark.vllm
@here
@pytest.mark.parametrize("stop", [(), ("w20", "w33 w")], ids=["free", "stop"])
def test_a_search_is_that_on_transformers(tmp_path: Path, stop: tuple[str, ...]) -> None:
    alone(search, tmp_path, stop, cwd=tmp_path)


def search(folder: Path, stop: tuple[str, ...]) -> None:
    base, *experts = worded(folder)
    space = mo.recipes.task_arithmetic(base, experts, weight=mo.free(-1.0, 2.0))
    evaluator = mo.evaluators.Generation(dev(), max_new_tokens=9, stop=stop, scorer="token_f1")
    served, found = engine(max_model_len=32), {}
    for name, held in {"live": mo.Engine(), "vllm": served}.items():
        objective = mo.MergeObjective(space, evaluator, engine=held)
        sampler = space.sampler(seed=0)
        declared = mo.MergeStudy("search", objective, 8, sampler=sampler, test=evaluator)
        study = declared.run(mo.storage(f"sqlite:///{folder}/{name}.db"))
        board = mo.leaderboard(study, test=evaluator, engine=held)
        place = mo.export(study, folder / name)
        assert objective.score(mo.recipe_of(study)) == study.best_value
        assert objective.score(mo.Checkpoint(str(place))) == study.best_value
        tokens = [trial.user_attrs["value/reply_tokens"] for trial in study.trials]
        baselines = [(row.name, row.value) for row in mo.baselines(study)]
        found[name] = [t.value for t in study.trials], tokens, baselines, board.to_markdown()
    assert found["vllm"][:3] == found["live"][:3]
    assert len({*found["vllm"][0]}) > 3
    texts = datasets.Dataset.from_dict({"text": ["w1 w2 w3"]})
    with pytest.raises(EvaluationError, match="ServedModel"):
        mo.MergeObjective(space, mo.evaluators.Perplexity(texts), engine=served)


@pytest.mark.vllm
@pytest.mark.slow
@here
def test_a_model_of_135_million_parameters(tmp_path: Path) -> None:
    folder = os.environ.get("MERGE_OPTUNA_DECODER")
    if not folder:
        pytest.skip("set MERGE_OPTUNA_DECODER to the folder of a decoder, e.g. SmolLM2-135M")
    alone(large, folder, tmp_path, cwd=tmp_path)


def large(folder: str, place: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expert = toys.save(toys.noised(model, 1, 0.002), place / "expert")
    base, other = mo.Checkpoint(folder, name="base"), mo.Checkpoint(expert, name="expert")
    held = engine(dtype="float32", max_model_len=256, kv_cache_memory_bytes=256 << 20)
    asked, differing = [[1, 4093, 28, 339], [19556, 314, 260, 1080, 282]], 0
    for n, weight in enumerate(np.linspace(-0.5, 1.0, 20).round(2).tolist()):
        recipe = mo.recipes.task_arithmetic(base, [other], weight=weight)
        recipe = recipe.with_fields(dtype="float32")
        replies = held.load(recipe).serve(asked, [24] * 2, ends=[])
        if n % 5 == 0:
            differing += compared(fresh(recipe, place / f"{n}"), asked, replies, 1e-3)
    print(f"{differing} of 8 replies differ")
    assert differing <= 1


# -- anywhere ------------------------------------------------------------------------------------


@pytest.fixture
def of_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a package with the name and a version of vLLM, and nothing else, where Python looks."""

    def put(version: str) -> None:
        package = tmp_path / "site" / "vllm"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"__version__ = {version!r}\n")
        monkeypatch.syspath_prepend(str(package.parent))
        monkeypatch.delitem(sys.modules, "vllm", raising=False)

    return put


@elsewhere
def test_without_vllm_the_extra_is_named() -> None:
    with pytest.raises(EngineError, match=r"pip install 'merge_optuna\[vllm\]'"):
        mo.engine.VLLM()


@elsewhere
@pytest.mark.parametrize("version", ["0.31.2", "0.33.0", "0.3.2", "dev"])
def test_another_version_is_refused(of_version: Callable[[str], None], version: str) -> None:
    of_version(version)
    with pytest.raises(EngineError, match=f"tested with vLLM 0.32, and this is {version}"):
        mo.engine.VLLM()


@elsewhere
@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("tensor_parallel_size", "within one process"),
        ("generation_config", "evaluators say it"),
        ("load_format", "filled by recipes"),
        ("quantization", "as merged"),
        ("model", "recipes say it"),
    ],
)
def test_options_that_are_not_for_callers(
    of_version: Callable[[str], None], option: str, why: str
) -> None:
    of_version("0.32.0")
    with pytest.raises(EngineError, match=f"'{option}' is no option of mo.engine.VLLM.*{why}"):
        mo.engine.VLLM(options={option: 2})


@elsewhere
def test_what_cannot_be_refilled_is_refused(
    of_version: Callable[[str], None], tmp_path: Path
) -> None:
    of_version("0.32.1")
    held = mo.engine.VLLM()
    mixture = mo.Checkpoint(toys.save(toys.decoder("Mixtral"), tmp_path / "mixture"))
    with pytest.raises(EngineError, match="once a mixture of experts was refilled"):
        held.load(mixture)
    models = toys.family(tmp_path, experts=2)
    path = mo.spaces.LayerPath(models)
    evaluator = mo.evaluators.Function(lambda model: 0.0)
    with pytest.raises(EngineError, match="A layer path has another number of layers"):
        mo.MergeObjective(path, evaluator, engine=held)


def test_engine_in_place_of_device_and_dtype(tmp_path: Path) -> None:
    base, expert = toys.family(tmp_path, experts=1)
    space = mo.recipes.task_arithmetic(base, [expert], weight=mo.free(0.0, 1.0))
    held = mo.Engine(dtype="bfloat16")
    objective = mo.MergeObjective(space, lambda model: float(model.dtype.itemsize), engine=held)
    assert objective.engine is held
    assert objective.score(base) == 2.0
    with pytest.raises(StudyError, match="give them to it"):
        mo.MergeObjective(space, lambda model: 0.0, engine=held, dtype="float32")
    with pytest.raises(StudyError, match="engine must be "):
        mo.MergeObjective(space, lambda model: 0.0, engine="vllm")  # type: ignore[arg-type]
