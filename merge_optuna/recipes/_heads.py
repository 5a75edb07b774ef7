"""Models with a head beside models without one: what is inside is merged, heads stay."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache

from merge_optuna.checkpoints import Checkpoint, base_model_prefix, named_as
from merge_optuna.errors import RecipeError, few


def under_one_name(
    frame: Checkpoint, leaves: tuple[Checkpoint, ...], *, bound: bool
) -> Mapping[Checkpoint, Checkpoint]:
    """How the checkpoints of a recipe are read, by what they are views of.

    Args:
        frame: Whose names the tensors of the merged model have.
        leaves: All checkpoints.
        bound: Whether the recipe has something else that goes by the names of tensors.

    Returns:
        Nothing where all tensors that are the same are called the same.

    Raises:
        RecipeError: If the names are needed as they were.
    """
    if bound:
        _check_names(frame.origin, [leaf.origin for leaf in leaves])
        return {}
    seen = _under_one_name(frame, leaves, tuple(leaf.store for leaf in (frame, *leaves)))
    return seen if any(seen[leaf.origin] is not leaf for leaf in leaves) else {}


@lru_cache(maxsize=64)
def _under_one_name(
    frame: Checkpoint,
    leaves: tuple[Checkpoint, ...],
    stores: tuple[object, ...],  # only for the cache: equal weights may lie at another place
) -> Mapping[Checkpoint, Checkpoint]:
    """The same; what is left out is said."""
    seen = {leaf.origin: named_as(leaf, frame) for leaf in leaves}
    renamed = [leaf for leaf in leaves if seen[leaf.origin] is not leaf]
    if renamed and base_model_prefix(frame) is None:
        _say_left_out(frame, *renamed)
    return seen


@lru_cache(maxsize=64)  # once, also where the same checkpoints are opened again
def _say_left_out(frame: Checkpoint, *renamed: Checkpoint) -> None:
    heads, are, them = ("heads", "are", "them") if len(renamed) > 1 else ("head", "is", "it")
    warnings.warn(
        f"The {heads} of {few([leaf.name for leaf in renamed])} {are} left out: {frame.name} has "
        f"none. Evaluators take {them} as head=.",
        stacklevel=2,
    )


def _check_names(frame: Checkpoint, leaves: Sequence[Checkpoint]) -> None:
    renamed = next((leaf for leaf in leaves if named_as(leaf, frame) is not leaf), None)
    if renamed is None:
        return
    whole, bare = (frame, renamed) if base_model_prefix(frame) else (renamed, frame)
    raise RecipeError(
        f"{whole.name} has a head and {bare.name} has none, so their tensors have other names, by "
        "which tokenizer= and statistics= go. Merge what both have: "
        f"mo.Checkpoint({whole.ref!r}, part={base_model_prefix(whole)!r})."
    )
