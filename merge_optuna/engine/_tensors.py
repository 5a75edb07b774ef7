"""The stream of merged tensors: the plain path, one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from tqdm import tqdm

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.engine._cuts import model_cuts
from merge_optuna.errors import CheckpointError, RecipeError
from merge_optuna.methods import Cut, mask_key
from merge_optuna.recipes import Recipe

Source = Checkpoint | Recipe


def tensors(
    recipe: Source, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> Iterator[tuple[str, Tensor]]:
    """Yields the name and value of every tensor of the merged model, in the frame's order.

    Task vectors and merging are computed in float32 (float64 if a source has it) and rounded once.

    Args:
        recipe: A recipe without free numbers, or a checkpoint as it is.
        dtype: Data type of float tensors; each keeps that of the base when omitted.
        device: Where to compute.

    Raises:
        RecipeError: If numbers are still free.
        CheckpointMismatch: If the sources do not fit together.
        InfeasibleRecipe: If the values have no well-defined result.
    """
    frame, wanted = frame_of(recipe), as_dtype(dtype)
    for name, value in exact_tensors(recipe, torch.device(device)):
        own = frame.dtype(name)
        yield name, value.to((wanted or own) if own.is_floating_point else own)


def exact_tensors(source: Source, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """As :func:`tensors`, but before the one rounding."""
    for name in frame_of(source).names():
        yield name, _tensor(source, name, device)


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A data type from its name, e.g. ``"bfloat16"``.

    Raises:
        RecipeError: If there is no such float type.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise RecipeError(f"dtype must be 'float32', 'bfloat16' or 'float16', not {dtype!r}.")
    return found


def frame_of(source: Source) -> Checkpoint:
    """The checkpoint whose names, config and unmerged tensors the result has."""
    return source.frame if isinstance(source, Recipe) else source


def check_finite(recipe: Recipe) -> None:
    """Reads every tensor that enters a merge once and looks for NaN and infinity.

    Raises:
        CheckpointError: Naming the first such tensor.
    """
    frame, merged = recipe.frame, set(recipe.alignment.layout.names)
    todo = [
        (leaf, name)
        for leaf in recipe.leaves()
        for name in leaf.names()
        if (leaf == frame or name in merged) and leaf.dtype(name).is_floating_point
    ]
    for leaf, name in tqdm(todo, "Checking sources", delay=2, leave=False, unit="tensor"):
        bad = int((~torch.isfinite(leaf.tensor(name).float())).sum())
        if bad:
            raise CheckpointError(
                f"{name} of {leaf.name!r} ({leaf.ref}) has {bad} values that are NaN or "
                "infinite. Use another checkpoint, or leave the tensor out with exclude=[...]."
            )


def _tensor(source: Source, name: str, device: torch.device) -> Tensor:
    if isinstance(source, Checkpoint):
        return source.tensor(name).to(device)
    if name in source.alignment.copied:
        return _tensor(source.sources[0], name, device)
    return _merged(source, name, device)


def _merged(recipe: Recipe, name: str, device: torch.device) -> Tensor:
    values = recipe.values_at(name)
    if recipe.spec.random:
        values["keys"] = [mask_key(values["seed"], model, name) for model in recipe.model_names]
    if values.get("trim_over") == "model":
        cuts = [_cuts_of(recipe, i, d) for i, d in enumerate(values["density"])]
        values["cuts"] = [cut[name] for cut in cuts]
    inputs = [_tensor(source, name, device) for source in recipe.sources]
    inputs = _exact(inputs)
    base = inputs.pop(0) if recipe.base is not None else None
    return recipe.spec.kernel(base, inputs, **values)


def _exact(inputs: Sequence[Tensor]) -> list[Tensor]:
    """The tensors in the data type of the computation."""
    wide = any(t.dtype == torch.float64 for t in inputs)
    return [t.to(torch.float64 if wide else torch.float32) for t in inputs]


def _cuts_of(recipe: Recipe, model: int, density: float) -> dict[str, Cut]:
    return _cuts(recipe.sources[0], recipe.models[model], recipe.alignment.layout.names, density)


@lru_cache(maxsize=128)  # more than any recipe has experts: they are asked for in turn
def _cuts(base: Source, model: Source, names: tuple[str, ...], density: float) -> dict[str, Cut]:
    cpu = torch.device("cpu")

    def deltas() -> Iterator[tuple[str, Tensor]]:
        for name in names:
            theta, origin = _exact([_tensor(model, name, cpu), _tensor(base, name, cpu)])
            yield name, (theta - origin).float()

    return model_cuts(deltas, density)
