"""What it costs to make sure that the live model is still the engine's own.

    python benchmarks/live_model.py --threads 2

For an encoder of 22 million parameters and decoders of 135 and 270 million, in bfloat16 with
random weights: the milliseconds of a refill, how many of them go into looking whether everything
of the model is as it was built, and how long it takes to put back a model that was cast to
float16. For the decoders also a layer path through two of them: to put it in place, the part of
that in which the shared tensors are read, and beside it one forward pass of a few tokens and the
two other ways to be sure of the numbers, filling the sources again and comparing with a copy.
Prints medians, all measured in turns; --json writes them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

import merge_optuna as mo

R = mo.recipes


def encoder() -> Any:
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    return BertForSequenceClassification(config)


def decoder(hidden: int, layers: int, heads: int, mlp: int, vocab: int, *, tied: bool) -> Any:
    config = LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 3 if heads % 3 == 0 else heads,
        intermediate_size=mlp,
        vocab_size=vocab,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config)


SHAPES: dict[str, Callable[[], Any]] = {
    "encoder, 22 M": encoder,
    "decoder, 135 M": lambda: decoder(576, 30, 9, 1536, 49152, tied=True),
    "decoder, 270 M": lambda: decoder(1024, 16, 16, 2816, 32000, tied=False),
}
RECIPES: dict[str, Callable[[list[mo.Checkpoint], float], mo.Recipe]] = {
    "linear of 2": lambda m, x: R.linear(m[1:], weight=[x, 1 - x]),
    "task_arithmetic of 2": lambda m, x: R.task_arithmetic(m[0], m[1:], weight=[x, 1 - x]),
    "ties of 2": lambda m, x: R.ties(m[0], m[1:], weight=[x, 1 - x], density=0.5),
}


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: dict[str, Any] = {}
    for name, make in SHAPES.items():
        with TemporaryDirectory() as folder:
            models = [checkpoint(make, i, Path(folder)) for i in range(3)]
            for recipe, build in RECIPES.items():
                found[f"{name}, {recipe}"] = shown(
                    f"{name}, {recipe}", refills(models, build, options.repeat)
                )
            if name.startswith("decoder"):
                found[f"{name}, layer path"] = shown(
                    f"{name}, layer path", paths(models[1:], options.repeat)
                )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def shown(name: str, values: dict[str, float]) -> dict[str, float]:
    print(name)
    for what, value in values.items():
        print(f"    {what:44} {value:10.3f}", flush=True)
    return values


def checkpoint(make: Callable[[], Any], seed: int, folder: Path) -> mo.Checkpoint:
    torch.manual_seed(seed)
    make().bfloat16().save_pretrained(folder / f"m{seed}")
    return mo.Checkpoint(folder / f"m{seed}", name=f"m{seed}")


def refills(
    models: list[mo.Checkpoint], build: Callable[[list[mo.Checkpoint], float], mo.Recipe], n: int
) -> dict[str, float]:
    """Milliseconds of a refill, of the look at the model in it, and the share in percent."""
    engine = mo.Engine()
    model = engine.load(build(models, 0.5))
    looks: list[float] = []
    fills: list[float] = []
    mends: list[float] = []
    for i in range(n):
        recipe = build(models, (i + 1) / (n + 2))
        fills.append(milliseconds(lambda recipe=recipe: engine.load(recipe)))
        looks.append(milliseconds(engine.put_back))
        model.half()
        mends.append(milliseconds(engine.put_back))
    return {
        "refill, ms": statistics.median(fills),
        "of that the look at the model, ms": statistics.median(looks),
        "of that, %": 100 * statistics.median(looks) / statistics.median(fills),
        "putting back a model in float16, ms": statistics.median(mends),
    }


def paths(models: list[mo.Checkpoint], n: int) -> dict[str, float]:
    """Milliseconds to put a path in place, and of its parts and of other ways."""
    live = mo.engine.LivePath(models)
    depth = live._models[0].depth
    ways = [f"A[0:{i}] B[{i}:{depth}]" for i in range(1, depth)]
    model = live.load(ways[0])
    source = live._models[0]
    copies = [t.clone() for t in source.module.parameters()]
    tokens = torch.arange(32)[None]
    work: dict[str, Callable[[int], object]] = {
        "a path in place, ms": lambda i: live.load(ways[i % len(ways)]),
        "of that reading the shared tensors, ms": lambda i: source._summed([None, *range(depth)]),
        "of that the look at the sources, ms": lambda i: [
            one._engine.put_back() for one in live._models
        ],
        "of that remembering what is around, ms": lambda i: live._shell[1].remember(),  # type: ignore[index]
        "instead: filling both sources again, ms": lambda i: [
            one._engine.load(one._source) for one in live._models
        ],
        "instead: comparing with a copy, ms": lambda i: all(
            map(torch.equal, source.module.parameters(), copies)
        ),
    }
    times: dict[str, list[float]] = {what: [] for what in work}
    with torch.inference_mode():
        for i in range(n):  # in turns
            for what, do in work.items():
                times[what].append(milliseconds(lambda do=do, i=i: do(i)))
        forward = [milliseconds(lambda: model(tokens)) for _ in range(3)]
    found = {what: statistics.median(each) for what, each in times.items()}
    return found | {"one forward pass of 32 tokens, ms": statistics.median(forward)}


def milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)


if __name__ == "__main__":
    main()
