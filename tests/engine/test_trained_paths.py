"""Live paths and written checkpoints of models that are trained, 50 random paths per family.

Minutes, so marked as slow: ``pytest -m slow -s tests/engine/test_trained_paths.py``. The models
learn bytes of Python's own modules. A folder of trained checkpoints of one architecture in
``MERGE_OPTUNA_PATHS`` is one more family.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import os
import random
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

import merge_optuna as mo
from merge_optuna.errors import InfeasibleRecipe
from merge_optuna.recipes import Hop, LayerPath
from tests import toys

optuna.logging.set_verbosity(optuna.logging.ERROR)
pytestmark = pytest.mark.slow

PATHS, TOKENS, CLOSE = 50, 64, 1e-4
GIVEN = os.environ.get("MERGE_OPTUNA_PATHS")
FORMS: list[dict[str, Any]] = [{}, {"repeats": 1, "blocks": 2}, {"layout": "blocks"}]
ENDS = "embeddings_from", "head_from"
SIZE: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 48,
    "intermediate_size": 96,
    "max_position_embeddings": 160,
}
FAMILIES: dict[str, Callable[[int, int], nn.Module]] = {
    "llama": lambda seed, n: toys.llama(seed, layers=n, **SIZE),
    "mistral": lambda seed, n: toys.decoder("Mistral", seed, layers=n, **SIZE),
    "qwen2": lambda seed, n: toys.decoder("Qwen2", seed, layers=n, **SIZE),
    "qwen3": lambda seed, n: toys.decoder("Qwen3", seed, layers=n, **SIZE),
    "gpt2": lambda seed, n: toys.gpt2(seed, layers=n, vocab_size=256, n_embd=48, n_positions=160),
    "bert": lambda seed, n: toys.encoder(
        "Bert", seed, head="MaskedLM", num_hidden_layers=n, **SIZE
    ),
    "roberta": lambda seed, n: toys.encoder(
        "Roberta", seed, head="MaskedLM", num_hidden_layers=n, **SIZE
    ),
}


def text() -> Tensor:
    modules = (typing, inspect, random)
    content = b"".join(Path(str(module.__file__)).read_bytes() for module in modules)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).long()


def trained(model: nn.Module, seed: int, steps: int = 150) -> nn.Module:
    """Next bytes, or for an encoder those that are hidden."""
    data, generator = text(), torch.Generator().manual_seed(seed)
    part = data[seed % 2 * (len(data) // 2) :][: len(data) // 2]
    causal = model.can_generate()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        starts = torch.randint(len(part) - 64, (16,), generator=generator)
        ids = torch.stack([part[s : s + 64] for s in starts])
        hidden = torch.rand(ids.shape, generator=generator) < 0.15
        labels = ids if causal else torch.where(hidden, ids, -100)
        given = ids if causal else ids.masked_fill(hidden, 0)
        optimizer.zero_grad()
        model(input_ids=given, labels=labels).loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module", params=[*FAMILIES, "given"])
def models(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[mo.Checkpoint]:
    """Two, of four and five layers."""
    if request.param == "given":
        if GIVEN is None:
            pytest.skip("MERGE_OPTUNA_PATHS names no folder of checkpoints")
        return [mo.Checkpoint(place, name=place.name) for place in sorted(Path(GIVEN).iterdir())]
    root = tmp_path_factory.mktemp("trained")
    return [
        mo.Checkpoint(
            toys.save(trained(FAMILIES[request.param](seed, 4 + seed), seed), root / str(seed)),
            name=f"m{seed}",
        )
        for seed in (0, 1)
    ]


def random_path(rng: random.Random, models: list[mo.Checkpoint], number: int) -> LayerPath:
    """Any, and those of spaces: layers by depth, with blocks beside them, blocks of one model."""
    target = ("branch", "stream")[number % 2]
    ends = rng.randrange(len(models)), rng.randrange(len(models))
    if number % 5 > 1:
        form = FORMS[number % 5 - 2]
        one = number % 5 == 4
        options: dict[str, Any] = {} if one else dict(zip(ENDS, ends, strict=True))
        space = mo.spaces.LayerPath(
            models[:1] if one else models, max_hops=14, scale_target=target, **form, **options
        )
        return drawn(space, rng)
    places = [(m, i) for m, model in enumerate(models) for i in range(model.depth)]
    length = rng.randint(2, 2 * models[0].depth)
    hops = tuple(Hop(*rng.choice(places), rng.uniform(0.4, 1.5)) for _ in range(length))
    return LayerPath(hops, target, *ends)  # type: ignore[arg-type]


def drawn(space: mo.spaces.LayerPath, rng: random.Random) -> LayerPath:
    """The first path of random parameters that is none too long."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(rng.randrange(2**32)))
    while True:
        with contextlib.suppress(InfeasibleRecipe):
            path = space(study.ask()).path
            assert path is not None
            if len(path.hops) > 1:
                return path


def test_fifty_paths(models: list[mo.Checkpoint], tmp_path: Path) -> None:
    rng, live = random.Random(0), mo.engine.LivePath(models)
    vocabulary = int((models[0].config or {})["vocab_size"])
    rows = torch.randint(3, vocabulary, (3, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(rows)
    mask[0, :13] = mask[1, :2] = 0
    asked: dict[str, Any] = {"input_ids": rows, "attention_mask": mask}
    before = [
        {n: t.clone() for n, t in model.module.state_dict().items()} for model in live._models
    ]
    worst, tokens, ties, seen = 0.0, 0, 0, []
    for number in range(PATHS):
        way = random_path(rng, models, number)
        folder = mo.write(mo.recipes.path(way, models), tmp_path / str(number))
        model: Any = live.load(way)
        loader = AutoModelForCausalLM if model.can_generate() else AutoModelForMaskedLM
        written = loader.from_pretrained(folder).eval()
        executed = count(model.get_submodule(live._models[way.embeddings_from].stack))
        with torch.no_grad():
            wanted, found = written(**asked).logits, model(**asked).logits
        assert executed == list(range(len(way.hops)))
        here = mask.bool()
        wanted, found = wanted[here], found[here]
        reach = float(wanted.max() - wanted.min())
        worst = max(worst, float((wanted - found).abs().max()) / reach)
        seen.append(wanted)
        if model.can_generate():
            for cached in (True, False):
                same, tied = generated(model, written, asked, reach, cached)
                tokens, ties = tokens + same, ties + tied
    print(
        f"\n{type(model).__name__}: worst {worst:.1e}, {tokens} tokens, {ties} rows end in a tie"
    )
    assert worst <= CLOSE
    others = [(a - b).abs().max() for a, b in itertools.pairwise(seen)]
    assert min(others) > 1e-2
    for model, tensors in zip(live._models, before, strict=True):
        for name, tensor in model.module.state_dict().items():
            assert torch.equal(tensor, tensors[name]), name


def count(stack: nn.Module) -> list[int]:
    """The hops that are executed, in the next pass and all further ones."""
    executed: list[int] = []

    def hook(place: int) -> Callable[..., None]:
        return lambda *_: executed.append(place)

    for place, hop in enumerate(stack.children()):
        hop.register_forward_hook(hook(place))
    return executed


def generated(
    model: Any, written: Any, asked: dict[str, Any], reach: float, cached: bool
) -> tuple[int, int]:
    """How many greedy tokens agree, and rows in which two were too close to tell.

    A row is compared up to the first token whose two best logits are closer than 1e-4 of the
    range.
    """
    options = {
        "max_new_tokens": TOKENS,
        "min_new_tokens": TOKENS,
        "do_sample": False,
        "pad_token_id": 0,
        "use_cache": cached,
    }
    mine = model.generate(**asked, **options)
    theirs = written.generate(**asked, **options, return_dict_in_generate=True, output_logits=True)
    agreed, tied = 0, 0
    start = asked["input_ids"].shape[1]
    for row in range(len(mine)):
        for step in range(TOKENS):
            best = theirs.logits[step][row].topk(2).values
            if float(best[0] - best[1]) < CLOSE * reach:
                tied += 1
                break
            assert mine[row, start + step] == theirs.sequences[row, start + step], (row, step)
            agreed += 1
    return agreed, tied
