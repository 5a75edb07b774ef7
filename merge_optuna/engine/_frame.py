"""What a source gives its result besides numbers: names, places and data types of tensors."""

from __future__ import annotations

from functools import lru_cache

import torch

from merge_optuna._bar import ProgressBar
from merge_optuna.checkpoints import Checkpoint
from merge_optuna.errors import CheckpointError, RecipeError
from merge_optuna.recipes import Recipe, leaves_of

Source = Checkpoint | Recipe


def frame_of(source: Source) -> Checkpoint:
    """The checkpoint whose names, config and unmerged tensors the result has.

    Raises:
        RecipeError: If it is neither a recipe nor a checkpoint.
    """
    if isinstance(source, Recipe):
        return source.frame
    if not isinstance(source, Checkpoint):
        raise RecipeError(f"Expected a recipe or a mo.Checkpoint, not {source!r}.")
    return source


def checkpoints_of(source: Source) -> tuple[Checkpoint, ...]:
    """Every checkpoint that is read, once."""
    if isinstance(source, Recipe):
        return source.checkpoints()
    return (source,) if isinstance(source, Checkpoint) else ()


def origins(source: Source) -> dict[str, tuple[Source, str]]:
    """Where each tensor of the whole model comes from, and its name there.

    They differ from the model's own where a part of a model is merged: the tensors of the part
    come from ``source`` under the names of the part, the others from the model around it.
    """
    frame = frame_of(source)
    whole = frame.whole
    merged = {outer: name for name, outer in frame.name_in_whole.items()}
    return {
        name: (source, merged[name]) if name in merged else (whole, name) for name in whole.names()
    }


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A data type from its name, e.g. ``"bfloat16"``.

    Raises:
        RecipeError: If there is no such float type, or nothing computes in it.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    is_float = isinstance(found, torch.dtype) and found.is_floating_point and found.itemsize > 1
    if dtype is not None and not is_float:
        raise RecipeError(f"dtype must be 'float32', 'bfloat16' or 'float16', not {dtype!r}.")
    return found


def final_dtype(stored: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    """The data type of a merged tensor: as wanted if it is a float tensor, else as stored."""
    return wanted if wanted is not None and stored.is_floating_point else stored


def wanted_dtype(source: Source, dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The data type that float tensors shall have; None: each that of the frame."""
    own = source.dtype if isinstance(source, Recipe) else None
    return as_dtype(own if dtype is None else dtype)


def check_finite(recipe: Recipe) -> None:
    """Looks for NaN and infinity in every tensor that enters a merge, once per process.

    Raises:
        CheckpointError: Naming the first such tensor.
    """
    frame, merged = recipe.frame, set(recipe.alignment.layout.names)
    routed = recipe.path is not None  # any layer may come where any other is
    todo = [
        (leaf, name)
        for leaf in dict.fromkeys(leaf for source in recipe.seen for leaf in leaves_of(source))
        for name in leaf.names()
        if (leaf == frame or name in merged or routed) and leaf.dtype(name).is_floating_point
    ]
    todo = [(leaf, name) for leaf, name in todo if name not in _found_finite(leaf)]
    for leaf, name in ProgressBar(todo, "Checking sources", delay=2, leave=False, unit="tensor"):
        bad = int((~torch.isfinite(leaf.tensor(name).float())).sum())
        if bad:
            raise CheckpointError(
                f"{name} of {leaf.name!r} ({leaf.ref}) has {bad} values that are NaN or "
                "infinite. Use another checkpoint, or leave the tensor out with exclude=[...]."
            )
        if leaf.module is None:  # which may change
            _found_finite(leaf).add(name)


@lru_cache(maxsize=64)
def _found_finite(leaf: Checkpoint) -> set[str]:
    """The tensors of a content that have been looked at, also where it is opened again."""
    return set()
