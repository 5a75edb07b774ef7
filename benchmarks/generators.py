"""Do all generators write the same tokens? Greedy, against a checkpoint on the disk.

    python benchmarks/generators.py --data DIR --lm FOLDER --adapters FOLDER FOLDER
    python benchmarks/generators.py --models qwen2 gpt2 --generators vllm   # where vLLM is

For every model a number of recipes (five methods, other numbers each time) is loaded one after
another into one engine: the same live model, or the same running vLLM engine, refilled in place.
Each is also written to the disk, loaded with ``from_pretrained`` and asked prompt by prompt with
transformers' own ``generate``: that is what the replies are compared with, token by token.

Where a reply differs, what came before is given to the model from the disk, and its logits of the
two tokens are compared. Sums in another order round otherwise, so tokens that are equally likely
but for rounding may change places: such a tie is counted with its gap, which must be below --tie.
After a tie the reply is another text, and is not compared further. Any other difference is an
error, and the program says so in the end. Every model has a process of its own. (vLLM on a CPU
needs heads of at least 32 numbers: it cannot run ``stories``, whose heads have 8. Where its
threads cannot be bound to cores, set VLLM_CPU_OMP_THREADS_BIND=nobind.)
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import _replies
import numpy as np
import torch
import transformers

import merge_optuna as mo
from merge_optuna.evaluators._generator import BatchGenerator, Generator, Request
from merge_optuna.evaluators._generators import GENERATORS
from merge_optuna.evaluators._served import ServedGenerator

R = mo.recipes
Ids = list[int]
METHODS: Sequence[Callable[..., mo.Recipe]] = (
    lambda s, w, d: R.linear(s, weight=[1 - sum(w), *w]),
    lambda s, w, d: R.task_arithmetic(s[0], s[1:], weight=w),
    lambda s, w, d: R.ties(s[0], s[1:], weight=w, density=d),
    lambda s, w, d: R.dare_ties(s[0], s[1:], weight=w, density=d),
    lambda s, w, d: R.slerp(s[1], s[2], t=w[0]),
)
SEVERAL = 8  # requests that are asked for together, of a batch


class Way(NamedTuple):
    """Something that loads recipes, and what makes it write."""

    engine: Any
    generate: Generator
    together: int


def ways(options: argparse.Namespace) -> dict[str, Callable[[], Way]]:
    """How replies are generated, by name."""
    live = mo.Engine(dtype=options.dtype)
    return {
        "unbatched": lambda: Way(live, BatchGenerator(), 1),
        "batched": lambda: Way(live, BatchGenerator(), SEVERAL),
        "continuous": lambda: Way(live, GENERATORS["continuous"]((), None), 1 << 30),
        "vllm": lambda: Way(_vllm(options), ServedGenerator(), 1 << 30),
    }


def _vllm(options: argparse.Namespace) -> Any:
    return mo.engine.VLLM(
        dtype=options.dtype, max_model_len=256, kv_cache_memory_bytes=1 << 28, enforce_eager=True
    )


def main() -> None:
    """Compares what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _replies.add_arguments(parser)
    names = ["unbatched", "batched", "continuous", "vllm"]
    parser.add_argument("--models", nargs="+", choices=_replies.SETTINGS, default=["stories"])
    parser.add_argument("--generators", nargs="+", choices=names, default=names[:3])
    parser.add_argument("--recipes", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--tie", type=float, default=1e-3, help="largest gap of logits of a tie")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--one", choices=_replies.SETTINGS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        torch.set_num_threads(options.threads)
        print(json.dumps(compared(options)))
        return
    results = {}
    for name in options.models:
        command = [sys.executable, __file__, *sys.argv[1:], "--one", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results[name] = json.loads(done.stdout.splitlines()[-1])
        _print(name, results[name])
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=2), encoding="utf-8")
    if any(row["differences"] for found in results.values() for row in found.values()):
        sys.exit("Replies differ, and not for rounding.")


def recipes(sources: Sequence[mo.Checkpoint], n: int) -> list[mo.Recipe]:
    """Recipes of all methods, with numbers of their own."""
    rng = np.random.default_rng(0)
    return [
        METHODS[i % len(METHODS)](sources, rng.uniform(0.1, 0.6, 2).tolist(), rng.uniform(0.3, 1))
        for i in range(n)
    ]


def compared(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """For each generator, how often it wrote what the checkpoint on the disk does."""
    setting = _replies.setting(options.one, options, options.prompts)
    prompts = setting.prompts()
    requests = [Request(i, prompt, options.tokens) for i, prompt in enumerate(prompts)]
    made = ways(options)
    used = {name: made[name]() for name in options.generators}
    results: dict[str, dict[str, Any]] = {
        name: {"replies": 0, "tokens": 0, "ties": [], "differences": 0, "seconds": 0.0}
        for name in used
    }
    for recipe in recipes(setting.sources, options.recipes):
        folder = options.folder / f"written-{options.one}"
        mo.write(recipe, folder, force=True, dtype=options.dtype)
        fresh: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, options.dtype)
        )
        wanted = [_alone(fresh, prompt, options.tokens) for prompt in prompts]
        for name, way in used.items():
            start = time.perf_counter()
            found = _written(way, recipe, setting.tokenizer, requests)
            results[name]["seconds"] += time.perf_counter() - start
            for prompt, one, other in zip(prompts, wanted, found, strict=True):
                _note(results[name], fresh, prompt, one, other, options.tie)
    return results


def _alone(model: Any, prompt: Ids, most: int) -> Ids:
    """What transformers writes after one prompt, without the token that ends it."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False
        )
    end = model.generation_config.eos_token_id
    reply: Ids = output[0, len(prompt) :].tolist()
    return reply[: reply.index(end)] if end in reply else reply


def _written(way: Way, recipe: mo.Recipe, tokenizer: Any, requests: list[Request]) -> list[Ids]:
    model = way.engine.load(recipe)
    starts = range(0, len(requests), way.together)
    parts = [requests[start : start + way.together] for start in starts]
    return [reply.ids for part in parts for reply in way.generate(model, tokenizer, part)]


def _note(
    result: dict[str, Any], fresh: Any, prompt: Ids, wanted: Ids, found: Ids, tie: float
) -> None:
    """Compares a reply, up to the first token that differs."""
    result["replies"] += 1
    longest = max(len(wanted), len(found))
    ends = [fresh.generation_config.eos_token_id]
    pairs = list(zip([*wanted, *ends * longest], [*found, *ends * longest], strict=False))
    same = next((i for i, (a, b) in enumerate(pairs[:longest]) if a != b), longest)
    result["tokens"] += same
    if same == longest:
        return
    with torch.inference_mode():
        logits = fresh(torch.tensor([[*prompt, *wanted[:same]]])).logits[0, -1].double()
    one, other = pairs[same]
    gap = float(logits[one] - logits[other])
    if abs(gap) <= tie:
        result["ties"].append(gap)
    else:
        result["differences"] += 1


def _print(model: str, results: dict[str, dict[str, Any]]) -> None:
    print(f"\n{model:12}  replies  tokens alike  ties  largest gap  differences  seconds")
    for name, row in results.items():
        gap = max(map(abs, row["ties"]), default=0.0)
        print(
            f"{name:12}  {row['replies']:7}  {row['tokens']:12}  {len(row['ties']):4}  "
            f"{gap:11.2g}  {row['differences']:11}  {row['seconds']:7.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
