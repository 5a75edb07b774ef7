"""The stream of merged tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.engine._arrays import Inputs
from merge_optuna.engine._device import Sources
from merge_optuna.engine._frame import (
    Source,
    as_dtype,
    final_dtype,
    frame_of,
    origins,
    wanted_dtype,
)
from merge_optuna.engine._known import Known
from merge_optuna.engine._plan import Filled, Plan, Ready
from merge_optuna.engine._target import Target
from merge_optuna.errors import RecipeError
from merge_optuna.recipes import Recipe

if TYPE_CHECKING:
    from merge_optuna.engine.fused import Way

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
        yield name, merger.plan(source, own).rounded(final_dtype(frame.dtype(name), wanted))


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
        self.compute = as_dtype(compute_dtype) or torch.float32
        if self.compute not in (torch.float32, torch.float64):
            raise RecipeError(
                f"compute_dtype must be 'float32' or 'float64', not {compute_dtype!r}: merging "
                "in less would round every task vector. Use dtype= for the result."
            )
        self._fused = fused and self.device.type == "cpu" and self.compute == torch.float32
        self._sources = Sources(self.device, budget)
        self._keep = keep
        self.known = Known(self.device, keep=keep)
        self._small: tuple[object, dict[str, Inputs]] | None = None

    @cached_property
    def plain(self) -> Merger:
        """The reference, which computes what is asked about whole models."""
        return Merger(fused=False)

    def threads(self, source: Source) -> int:
        """How many tensors are best merged at once: torch's kernels use all threads for one."""
        if not self._fused:
            return 1
        from merge_optuna.engine.fused import is_fused  # it loads numba

        return torch.get_num_threads() if is_fused(source) else 1

    def plan(self, source: Source, name: str) -> Plan:
        """How to get a tensor."""
        if isinstance(source, Checkpoint):
            return Ready(self._sources.tensor(source, name))
        if name in source.alignment.copied:
            return self.plan(*source.inputs_at(name)[0])
        target = Target(source, name, self)
        way = self._way_of(source)
        fill = None if way is None else way(target)
        if fill is None:
            return Ready(target.merged())
        return Filled(fill, source.frame, name)

    @cached_property
    def _way_of(self) -> Callable[[Recipe], Way | None]:
        if not self._fused:
            return lambda recipe: None
        from merge_optuna.engine.fused import way_of  # it loads numba

        return way_of

    def exact(self, source: Source, name: str) -> Tensor:
        """A tensor before the one rounding: as stored, or in the type of the computation."""
        return self.plan(source, name).exact()

    def write_into(self, view: Tensor, source: Source, name: str, dtype: torch.dtype) -> None:
        """Overwrites a live tensor with what a checkpoint of ``dtype`` would hold."""
        self.plan(source, name).write_into(view, dtype)

    def inputs(self, recipe: Recipe, name: str) -> Inputs:
        """That tensor of every source from which one of the recipe is merged."""
        if recipe.individual is None or not (self._fused and self._keep):
            return self._read(recipe, name)
        # One individual comes after the other, all of the same models.
        small = self._small
        if small is None or small[0] is not recipe.structure:
            self._small = small = recipe.structure, {}
        if name in small[1]:
            return small[1][name]
        inputs = self._read(recipe, name)
        if inputs[0].numel() <= _SMALL and all(isinstance(s, Checkpoint) for s in recipe.sources):
            small[1][name] = inputs
        return inputs

    def _read(self, recipe: Recipe, name: str) -> Inputs:
        return Inputs(self.exact(source, own) for source, own in recipe.inputs_at(name))
