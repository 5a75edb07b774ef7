"""Which models belong together: whether their weights mean the same.

Equal shapes are not enough: what the configs say of the computation and which token a row of the
embedding stands for must be the same too.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

from merge_optuna.checkpoints import (
    Checkpoint,
    Setting,
    differing,
    has_token_rows,
    rows_of_other_tokens,
)
from merge_optuna.errors import CheckpointError, CheckpointMismatch, FileTooLarge, few

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
    """What two tokenizers say otherwise of rows; None if nothing, as far as they can be read.

    Raises:
        CheckpointError: If one is whole but more than is read.
    """
    try:
        found = rows_of_other_tokens(frame, other)
    except FileTooLarge as error:
        raise CheckpointError(
            f'{_unknown(frame, other, error)} Pass tokenizer="ids" to merge rows as they are '
            "numbered."
        ) from error
    except CheckpointError as error:
        warnings.warn(_unknown(frame, other, error), stacklevel=2)
        return None
    if not found.tokens:
        return None
    listed = [f"{i} is {theirs!r} and {mine!r}" for i, (mine, theirs) in found.tokens.items()]
    return (
        f"The tokenizers of {other.name!r} and {frame.name!r} call {len(found.tokens)} of "
        f"{found.rows} rows otherwise: {few(listed, 5)}."
    )


def _unknown(frame: Checkpoint, other: Checkpoint, error: CheckpointError) -> str:
    return f"Whether {other.name!r} and {frame.name!r} have the same tokens is not known: {error}"
