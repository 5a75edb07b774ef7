"""Runs mergekit on request, in the Python that has it; knows nothing of merge_optuna.

Reads one JSON object per line, ``{"config": {...}, "out": folder, "masks": file or null}``, merges
through mergekit's Python API, and answers with one line each: ``{"error": null}`` or its text.

``masks`` is a safetensors file with random masks to be used in place of those that mergekit draws
from torch's global generator; each is named by the digest of the task vector it belongs to.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import mergekit.sparsify
import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file


@contextlib.contextmanager
def given_masks(file: str | None) -> Iterator[None]:
    """Lets mergekit's bernoulli dropping use the masks of a file."""
    if file is None:
        yield
        return
    masks, used = load_file(file), set()
    original = mergekit.sparsify.bernoulli

    def bernoulli(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        digest = hashlib.sha256(tensor.float().contiguous().numpy().tobytes()).hexdigest()
        mask = masks[digest].to(torch.float32)
        used.add(digest)
        with mock.patch.object(torch, "bernoulli", return_value=mask):
            return original(tensor, *args, **kwargs)

    with mock.patch.object(mergekit.sparsify, "bernoulli", bernoulli):
        yield
    if unused := masks.keys() - used:
        raise RuntimeError(f"{len(unused)} of {len(masks)} masks were not asked for")


def main() -> None:
    replies = sys.stdout
    sys.stdout = sys.stderr  # mergekit prints
    options = MergeOptions(quiet=True, copy_tokenizer=False, write_model_card=False)
    print(json.dumps({"error": None}), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        error = None
        try:
            with given_masks(request["masks"]):
                config = MergeConfiguration.model_validate(request["config"])
                run_merge(config, request["out"], options)
        except Exception as e:  # whatever it is, the test shows it
            error = f"{type(e).__name__}: {e}"
        print(json.dumps({"error": error}), file=replies, flush=True)


if __name__ == "__main__":
    main()
