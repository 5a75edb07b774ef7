"""The digest of earlier versions: of large tensors a sample, of config and tokenizer nothing.

What was recorded with it is still compared with it, and a checkpoint without a name is still
called after it: names key random masks and parameters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from merge_optuna.checkpoints._store import Store


def sampled_digest(store: Store) -> str:
    """Digest of names, dtypes, shapes and samples of the content: 32 hexadecimal digits.

    Small tensors are read whole, of larger ones sixteen blocks of 1 KiB spread evenly. That of a
    module of a model covers the rest of the model too.
    """
    state = hashlib.blake2b(digest_size=16)
    if (around := getattr(store, "whole", None)) is not None:
        state.update(sampled_digest(around).encode())
    for name, (dtype, shape) in sorted(store.specs().items()):
        state.update(f"{name}|{dtype}|{shape}|".encode())
        for block in _blocks(store.tensor(name)):
            state.update(block)
    return state.hexdigest()


def _blocks(tensor: Tensor) -> Iterable[bytes]:
    if tensor.numel() == 0:
        return
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    if flat.size <= 1 << 16:
        yield flat.tobytes()
        return
    for i in range(16):
        start = (flat.size - 1024) * i // 15
        yield flat[start : start + 1024].tobytes()
