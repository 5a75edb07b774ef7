"""Runs mergekit on request, in the Python that has it; knows nothing of merge_optuna.

Reads one JSON object per line, ``{"config": {...}, "out": folder, "uniforms": file or null}``,
merges through mergekit's Python API, and answers with one line each: ``{"error": null}`` or its
text.

``uniforms`` is a safetensors file with uniform random numbers, from which mergekit's Bernoulli
masks are made in place of torch's global generator; each tensor is named by the digest of the task
vector it belongs to.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import mergekit.sparsify
import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file


@contextlib.contextmanager
def given_uniforms(file: str | None) -> Iterator[None]:
    """Lets mergekit's random dropping use the numbers of a file."""
    if file is None:
        yield
        return
    uniforms, used = load_file(file), set()

    def wrapped(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def sparsify(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            digest = hashlib.sha256(tensor.float().contiguous().numpy().tobytes()).hexdigest()
            used.add(digest)

            def bernoulli(chance: torch.Tensor) -> torch.Tensor:
                return (uniforms[digest].reshape(chance.shape) < chance).to(chance.dtype)

            with mock.patch.object(torch, "bernoulli", bernoulli):
                return original(tensor, *args, **kwargs)

        return sparsify

    dare, della = mergekit.sparsify.bernoulli, mergekit.sparsify.della_magprune
    with mock.patch.multiple(
        mergekit.sparsify, bernoulli=wrapped(dare), della_magprune=wrapped(della)
    ):
        yield
    if unused := uniforms.keys() - used:
        raise RuntimeError(f"{len(unused)} of {len(uniforms)} tensors were not asked for")


def main() -> None:
    replies = sys.stdout
    sys.stdout = sys.stderr  # mergekit prints
    options = MergeOptions(quiet=True, copy_tokenizer=False, write_model_card=False)
    print(json.dumps({"error": None}), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        error = None
        try:
            with given_uniforms(request["uniforms"]):
                config = MergeConfiguration.model_validate(request["config"])
                cache = {"lora_merge_cache": request["out"] + ".adapters"}
                run_merge(config, request["out"], options.model_copy(update=cache))
        except Exception as e:  # whatever it is, the test shows it
            error = f"{type(e).__name__}: {e}"
        print(json.dumps({"error": error}), file=replies, flush=True)


if __name__ == "__main__":
    main()
