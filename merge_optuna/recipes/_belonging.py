"""Which models belong together: whether their weights mean the same.

Equal shapes are not enough: what the configs say of the computation and which token a row of the
embedding stands for must be the same too.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence

from merge_optuna.checkpoints import (
    Checkpoint,
    Setting,
    differing,
    has_token_rows,
    same_ids,
    token_ids,
    vocab_size,
)
from merge_optuna.errors import CheckpointError, CheckpointMismatch, few

_REMEDY = (
    'Merge models that compute alike, or say whose config counts: config="base" or the name of a '
    "source."
)


def check_configs(
    frame: Checkpoint, others: Iterable[Checkpoint], *, stacked: bool = False
) -> None:
    """Checks that the weights of models mean the same, as far as their configs say.

    Args:
        frame: The model whose config the merged one has.
        others: The other models.
        stacked: Whether their layers follow each other.

    Raises:
        CheckpointMismatch: With every key, both its values and the models.
    """
    wrong = {
        other: found
        for other in dict.fromkeys(others)
        if (found := differing(frame, other, stacked=stacked))
    }
    if wrong:
        lines = [_of_pair(frame, other, found) for other, found in wrong.items()]
        raise CheckpointMismatch("\n".join([*lines, _REMEDY]))


def _of_pair(frame: Checkpoint, other: Checkpoint, found: Sequence[Setting]) -> str:
    listed = few([str(setting) for setting in found])
    return (
        f"The configs of {other.name!r} and {frame.name!r} give weights another meaning: {listed}."
    )


def check_vocabularies(
    frame: Checkpoint, others: Iterable[Checkpoint], merged: Sequence[str]
) -> None:
    """Checks that the rows of embeddings belong to the same tokens.

    Args:
        frame: The model whose tokenizer the merged one has.
        others: The other models.
        merged: The tensors that are merged.

    Raises:
        CheckpointMismatch: With tokens, ids and the models.
    """
    if not has_token_rows(frame, merged):
        return
    wrong = [line for other in dict.fromkeys(others) if (line := _other_tokens(frame, other))]
    if wrong:
        raise CheckpointMismatch(
            "\n".join(wrong)
            + '\nPass tokenizer="base", "union" or the name of a source to align rows by token, '
            'or tokenizer="ids" to merge them as they are numbered.'
        )


def _other_tokens(frame: Checkpoint, other: Checkpoint) -> str | None:
    """What two vocabularies say otherwise of an id; a token that only one has is no difference."""
    if same_ids(frame, other):
        return None
    try:
        mine, theirs = token_ids(frame), token_ids(other)
    except CheckpointError as error:
        warnings.warn(
            f"Whether {other.name!r} and {frame.name!r} have the same tokens is not known: "
            f"{error}",
            stacklevel=2,
        )
        return None
    rows = min(vocab_size(c.config) or len(ids) for c, ids in ((frame, mine), (other, theirs)))
    tokens, others = _by_id(mine, rows), _by_id(theirs, rows)
    differing = {i for i in tokens.keys() & others.keys() if tokens[i] != others[i]}
    differing |= {i for i, t in tokens.items() if theirs.get(t, i) != i}
    if not differing:
        return None
    listed = few([f"{i} is {others.get(i)!r} and {tokens.get(i)!r}" for i in sorted(differing)], 5)
    return (
        f"The tokenizers of {other.name!r} and {frame.name!r} call {len(differing)} of {rows} "
        f"rows otherwise: {listed}."
    )


def _by_id(ids: Mapping[str, int], rows: int) -> dict[int, str]:
    return {i: token for token, i in ids.items() if i < rows}
