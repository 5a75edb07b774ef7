"""Which tensors of a checkpoint have one row per token."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from merge_optuna.checkpoints._checkpoint import Checkpoint
from merge_optuna.errors import CheckpointError, few

# Input embeddings, output heads and the heads' biases, by the last parts of their names.
_NAMES = re.compile(
    r"(^|\.)(embed_tokens|tok_embeddings|token_embedding|word_embeddings|embeddings|embed_in|wte"
    r"|shared|lm_head|generator_lm_head|embed_out|output|output_layer|predictions"
    r"|vocab_projector|pred_layer\.proj)(\.decoder)?\.(weight|bias)$|(^|\.)final_logits_bias$"
)


def vocab_size(config: dict[str, Any] | None) -> int | None:
    """Number of rows that a config gives to tokens, padding included; None if it does not say."""
    config = config or {}
    inner = config.get("text_config") or {}
    size = config.get("vocab_size") or inner.get("vocab_size")
    return int(size) if size else None


def has_token_rows(checkpoint: Checkpoint, names: Iterable[str]) -> bool:
    """Whether any of these tensors has one row per token, as far as names and sizes tell."""
    size = vocab_size(checkpoint.config)
    return any(size in checkpoint.shape(name) and _NAMES.search(name) for name in names)


def rows_of(checkpoint: Checkpoint) -> int:
    """Number of rows that a checkpoint's config gives to tokens.

    Raises:
        CheckpointError: If it does not say.
    """
    size = vocab_size(checkpoint.config)
    if size is None:
        raise CheckpointError(
            f"The config of {checkpoint.name!r} ({checkpoint.ref}) has no vocab_size, so its "
            "embedding cannot be found. Add it to config.json."
        )
    return size


def token_axes(checkpoint: Checkpoint) -> dict[str, int]:
    """The tensors that have one row per token, with the axis of these rows.

    They are known by name and size. A tensor of that size with another name may be one or not.

    Raises:
        CheckpointError: If there is none, or it is unclear whether a tensor is one.
    """
    size = rows_of(checkpoint)
    sized = {
        name: shape.index(size)
        for name, (dtype, shape) in checkpoint.store.specs().items()
        if dtype.is_floating_point and size in shape
    }
    axes = {name: axis for name, axis in sized.items() if _NAMES.search(name)}
    unclear = sorted(sized.keys() - axes.keys())
    if unclear and size not in _other_sizes(checkpoint.config):
        raise CheckpointError(
            f"{checkpoint.name!r} has a vocabulary of {size} tokens and {len(unclear)} tensors of "
            f"that size which may or may not have one row per token: {few(unclear)}. Give all "
            "models one vocabulary first: model.resize_token_embeddings(n)."
        )
    if not axes:
        raise CheckpointError(
            f"No tensor of {checkpoint.name!r} ({checkpoint.ref}) is an embedding of "
            f"vocab_size = {size} tokens. Check its config.json."
        )
    return axes


def _other_sizes(config: Any) -> set[int]:
    """Every number in a config but the vocabulary's size: what else a tensor's size may be."""
    if isinstance(config, dict):
        parts = [_other_sizes(value) for key, value in config.items() if key != "vocab_size"]
        return set().union(*parts)
    return {config} if isinstance(config, int) else set()
