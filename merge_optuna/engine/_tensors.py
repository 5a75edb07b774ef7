"""The stream of merged tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.engine._arrays import Inputs, flat
from merge_optuna.engine._cuts import model_cuts
from merge_optuna.engine._device import Sources
from merge_optuna.errors import CheckpointError, RecipeError
from merge_optuna.methods import Cut, mask_key
from merge_optuna.methods._reduce import stable_sum
from merge_optuna.methods.descent import Descent
from merge_optuna.methods.rankmean import module_ranks
from merge_optuna.methods.splice import Segments
from merge_optuna.recipes import Layout, Recipe

if TYPE_CHECKING:
    from merge_optuna.engine._fused import Fill
    from merge_optuna.engine._statistics import Statistics
    from merge_optuna.recipes import Structure

Source = Checkpoint | Recipe

_PART = 1 << 20  # elements: a part stays in the second-level cache until it is written
_SMALL = 1 << 16  # elements: finding a tensor takes longer than merging it


def tensors(
    recipe: Source,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    compute_dtype: torch.dtype | str | None = None,
    fused: bool = True,
) -> Iterator[tuple[str, Tensor]]:
    """Yields the name and value of every tensor of the merged model, in the frame's order.

    Where parts of models are merged, also of the rest of the base's model. Task vectors and
    merging are computed in float32 (float64 if a source has it) and rounded once.

    Args:
        recipe: A recipe without free numbers, or a checkpoint as it is.
        dtype: Data type of float tensors; the recipe's when omitted, or else that of each in the
            base.
        device: Where to compute.
        compute_dtype: Data type of the computation: float32 when omitted, or float64.
        fused: Use the fused kernels where there are some; else the plain path, which is the
            reference, everywhere.

    Raises:
        RecipeError: If numbers are still free.
        CheckpointMismatch: If the sources do not fit together.
        InfeasibleRecipe: If the values have no well-defined result.
    """
    frame, wanted = frame_of(recipe).whole, wanted_dtype(recipe, dtype)
    merger = Merger(device, compute_dtype=compute_dtype, fused=fused)
    for name, (source, own) in origins(recipe).items():
        yield name, merger.rounded(source, own, final_dtype(frame.dtype(name), wanted))


class Merger:
    """Computes merged tensors, by the fused kernels where it can, else by those of the methods.

    What it learns of the sources – histograms, Gram matrices – it keeps, so one that lives as long
    as a study reads them once.

    Args:
        device: Where to compute. Fused kernels are for the CPU; a GPU runs torch's.
        compute_dtype: Data type of the computation, float32 or float64; float64 also where a
            source has it.
        fused: Use the fused kernels where there are some.
        budget: Bytes of sources that may stay on a GPU; see :class:`Sources`.
        keep: Keep what is learned of the sources, for further merges of them.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        *,
        compute_dtype: torch.dtype | str | None = None,
        fused: bool = True,
        budget: int | None = None,
        keep: bool = True,
    ) -> None:
        self.device = torch.device(device)
        self._compute = as_dtype(compute_dtype) or torch.float32
        if self._compute not in (torch.float32, torch.float64):
            raise RecipeError(
                f"compute_dtype must be 'float32' or 'float64', not {compute_dtype!r}: merging "
                "in less would round every task vector. Use dtype= for the result."
            )
        self._fused = fused and self.device.type == "cpu" and self._compute == torch.float32
        self._sources = Sources(self.device, budget)
        self._keep = keep
        self._known: tuple[Structure, dict[str, Inputs]] | None = None

    @cached_property
    def _statistics(self) -> Statistics:
        from merge_optuna.engine._statistics import Statistics

        return Statistics(keep=self._keep)

    def threads(self, source: Source) -> int:
        """How many tensors are best merged at once: torch's kernels use all threads for one."""
        return torch.get_num_threads() if self._fused and _is_fused(source) else 1

    def exact(self, source: Source, name: str) -> Tensor:
        """A tensor before the one rounding: as stored, or in the type of the computation."""
        plan = self._plan(source, name)
        if not callable(plan):
            return plan
        merged = torch.empty(frame_of(source).shape(name), dtype=torch.float32)
        _fill_all(plan, merged)
        return merged

    def inputs(self, recipe: Recipe, name: str) -> Inputs:
        """That tensor of every source from which one of the recipe is merged."""
        if recipe.individual is None or not (self._fused and self._keep):
            return self._read(recipe, name)
        # One individual comes after the other, all of the same models.
        known = self._known
        if known is None or known[0] is not recipe.structure:
            self._known = known = recipe.structure, {}
        if name in known[1]:
            return known[1][name]
        inputs = self._read(recipe, name)
        if inputs[0].numel() <= _SMALL and all(isinstance(s, Checkpoint) for s in recipe.sources):
            known[1][name] = inputs
        return inputs

    def _read(self, recipe: Recipe, name: str) -> Inputs:
        return Inputs(self.exact(source, own) for source, own in recipe.inputs_at(name))

    def rounded(self, source: Source, name: str, dtype: torch.dtype) -> Tensor:
        """A tensor in its final data type."""
        return self._rounded(self._plan(source, name), source, name, dtype)

    def write_into(self, view: Tensor, source: Source, name: str, dtype: torch.dtype) -> None:
        """Overwrites a live tensor with what a checkpoint of ``dtype`` would hold."""
        plan = self._plan(source, name)
        if view.dtype != dtype or not callable(plan) or not _fill_all(plan, view):
            view.copy_(self._rounded(plan, source, name, dtype))

    def parts(self, source: Source, name: str, dtype: torch.dtype) -> Iterator[Tensor]:
        """Consecutive flat parts of a tensor in its final type, each overwritten by the next."""
        plan = self._plan(source, name)
        if not callable(plan):
            yield plan.to(dtype)
            return
        size = torch.Size(frame_of(source).shape(name)).numel()
        buffer = torch.empty(min(size, _PART), dtype=dtype)
        array = flat(buffer)
        if array is None:
            yield self._rounded(plan, source, name, dtype)
            return
        for first in range(0, size, _PART):
            here = min(_PART, size - first)
            plan(array[:here], first)
            yield buffer[:here]

    def _plan(self, source: Source, name: str) -> Fill | Tensor:
        """How to fill a tensor; the tensor itself if no fused kernel does it."""
        if isinstance(source, Checkpoint):
            return self._sources.tensor(source, name)
        if name in source.alignment.copied:
            return self._plan(*source.inputs_at(name)[0])
        if self._fused and (fill := self._fill_by_parts(source, name)) is not None:
            return fill
        inputs = self.inputs(source, name)
        fill = self._fill(source, name, inputs)
        return _merged(source, name, inputs, self._compute) if fill is None else fill

    def _rounded(
        self, plan: Fill | Tensor, source: Source, name: str, dtype: torch.dtype
    ) -> Tensor:
        if not callable(plan):
            return plan.to(dtype)
        merged = torch.empty(frame_of(source).shape(name), dtype=dtype)
        if _fill_all(plan, merged):
            return merged
        exact = torch.empty(merged.shape, dtype=torch.float32)
        _fill_all(plan, exact)
        return exact.to(dtype)

    def _fill_by_parts(self, recipe: Recipe, name: str) -> Fill | None:
        """How to fill a tensor without having the whole tensors of nested recipes."""
        if recipe.method == "linear":
            from merge_optuna.engine._fused import combined

            return combined(recipe, name, self._plan)
        if isinstance(recipe.individual, Descent):
            from merge_optuna.engine._evolved import descended

            return descended(recipe, name, self._plan)
        return None

    def _fill(self, recipe: Recipe, name: str, inputs: Inputs) -> Fill | None:
        if not self._fused:
            return None
        from merge_optuna.engine._evolved import spliced  # these load numba
        from merge_optuna.engine._fused import chunked, fused

        if isinstance(recipe.individual, Segments):
            return spliced(recipe, name, inputs)
        fill = fused(recipe, name, inputs, self._statistics)
        if fill is None and recipe.spec.elementwise:
            return chunked(recipe, inputs, _arguments(recipe, name, self.device))
        return fill


def _fill_all(fill: Fill, out: Tensor) -> bool:
    """Fills a whole tensor; false if the kernels cannot write to it."""
    array = flat(out)
    if array is None:
        return False
    fill(array, 0)
    return True


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


def forget_sources() -> None:
    """Drops what was learned of sources for as long as the process runs."""
    _cuts.cache_clear()
    _ranks.cache_clear()


def checkpoints_of(source: Source) -> tuple[Checkpoint, ...]:
    """Every checkpoint that is read, once."""
    if isinstance(source, Recipe):
        return source.checkpoints()
    return (source,) if isinstance(source, Checkpoint) else ()


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


def check_finite(recipe: Recipe) -> None:
    """Reads every tensor that enters a merge once and looks for NaN and infinity.

    Raises:
        CheckpointError: Naming the first such tensor.
    """
    frame, merged = recipe.frame, set(recipe.alignment.layout.names)
    routed = recipe.path is not None  # any layer may come where any other is
    todo = [
        (leaf, name)
        for leaf in recipe.leaves()
        for name in leaf.names()
        if (leaf == frame or name in merged or routed) and leaf.dtype(name).is_floating_point
    ]
    for leaf, name in tqdm(todo, "Checking sources", delay=2, leave=False, unit="tensor"):
        bad = int((~torch.isfinite(leaf.tensor(name).float())).sum())
        if bad:
            raise CheckpointError(
                f"{name} of {leaf.name!r} ({leaf.ref}) has {bad} values that are NaN or "
                "infinite. Use another checkpoint, or leave the tensor out with exclude=[...]."
            )


def _is_fused(source: Source) -> bool:
    from merge_optuna.engine._fused import has_kernel

    if isinstance(source, Checkpoint):
        return True
    return has_kernel(source) and all(_is_fused(inner) for inner in source.sources)


# -- the plain path ---------------------------------------------------------------------------


def _merged(
    recipe: Recipe, name: str, inputs: Sequence[Tensor], compute: torch.dtype = torch.float32
) -> Tensor:
    """Merges whole tensors by the method's own kernel."""
    inputs = _exact(inputs, compute)
    base = inputs.pop(0) if recipe.base is not None else None
    return recipe.spec.kernel(base, inputs, **_arguments(recipe, name, inputs[0].device))


def _arguments(recipe: Recipe, name: str, device: torch.device) -> dict[str, Any]:
    """What a method's kernel gets besides the tensors."""
    values = recipe.values_at(name)
    if recipe.individual is not None:
        return {**values, "individual": recipe.individual, "part": recipe.parts[name]}
    if recipe.spec.random:
        values["keys"] = [mask_key(values["seed"], model, name) for model in recipe.model_names]
    if values.get("trim_over") == "model":
        cuts = [_cuts_of(recipe, i, d) for i, d in enumerate(values["density"])]
        values["cuts"] = [cut[name] for cut in cuts]
    if recipe.statistics:
        known = recipe.statistics_at(name)
        values["statistics"] = [None if one is None else one.to(device) for one in known]
    if recipe.spec.ranked:
        values["ranks"] = _ranks_of(recipe, name, values["rank_over"])
    return values


def _exact(inputs: Sequence[Tensor], compute: torch.dtype = torch.float32) -> list[Tensor]:
    """The tensors in the data type of the computation."""
    wide = any(t.dtype == torch.float64 for t in inputs)
    return [t.to(torch.float64 if wide else compute) for t in inputs]


def _cuts_of(recipe: Recipe, model: int, density: float) -> dict[str, Cut]:
    return _cuts(recipe.sources[0], recipe.models[model], recipe.alignment.layout.names, density)


@lru_cache(maxsize=128)  # more than any recipe has experts: they are asked for in turn
def _cuts(base: Source, model: Source, names: tuple[str, ...], density: float) -> dict[str, Cut]:
    merger = Merger(fused=False)

    def deltas() -> Iterator[tuple[str, Tensor]]:
        for name in names:
            theta, origin = _exact([merger.exact(model, name), merger.exact(base, name)])
            yield name, (theta - origin).float()

    return model_cuts(deltas, density)


def _ranks_of(recipe: Recipe, name: str, over: str) -> list[int] | None:
    """The rank of a tensor's module in each model; None where it has none."""
    layout = recipe.alignment.layout
    ranks = [_ranks(recipe.sources[0], model, layout, over) for model in recipe.models]
    return [rank[name] for rank in ranks] if name in ranks[0] else None


@lru_cache(maxsize=128)
def _ranks(base: Source, model: Source, layout: Layout, over: str) -> dict[str, int]:
    """Rank of each tensor's module among the modules of a model; not of embedding and head."""
    merger, changes = Merger(fused=False), {}
    for name in layout.names:
        theta, origin = _exact([merger.exact(model, name), merger.exact(base, name)])
        changes[name] = stable_sum((theta - origin).abs())
    if over == "tensor":
        return module_ranks(changes, {name: name for name in layout.names})
    blocks = {n: layer for n, layer in layout.layers.items() if layer not in ("embed", "head")}
    ranks = module_ranks(changes, blocks)
    return {name: ranks[layer] for name, layer in blocks.items()}
