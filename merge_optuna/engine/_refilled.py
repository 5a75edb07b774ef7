"""One live model whose tensors are filled in, again and again."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from merge_optuna.checkpoints import Checkpoint, for_each
from merge_optuna.engine._build import build
from merge_optuna.engine._frame import (
    Source,
    as_dtype,
    final_dtype,
    frame_of,
    origins,
    wanted_dtype,
)
from merge_optuna.engine._heads import filled_by
from merge_optuna.engine._original import Original
from merge_optuna.engine._tensors import Merger


class _Destination(NamedTuple):
    """A tensor of the live model.

    Attributes:
        view: Its memory.
        source: What it is read from; None for that which is loaded.
        name: Its name there.
        dtype: That of the frame.
    """

    view: Tensor
    source: Source | None
    name: str
    dtype: torch.dtype


class Refilled:
    """A model that is built once, and then holds whatever it was filled with last.

    Args:
        device: See :class:`Engine`.
        dtype: See there.
        compute_dtype: See there.

    Attributes:
        views: The memory of the model by the names of the checkpoint; empty before a fill.
    """

    def __init__(
        self,
        device: torch.device | str,
        dtype: torch.dtype | str | None,
        compute_dtype: torch.dtype | str | None,
    ) -> None:
        self._device = torch.device(device)
        self._dtype = as_dtype(dtype)
        self._compute_dtype = compute_dtype
        self._model: nn.Module | None = None
        self._original: Original | None = None
        self._constants: list[tuple[Tensor, Tensor]] = []
        self._placed: tuple[Checkpoint, bool, list[_Destination]] | None = None
        self._frame: Checkpoint | None = None
        self.views: dict[str, Tensor] = {}
        self.forget()

    def forget(self) -> None:
        """Drops what was learned of the sources, and views of files that are no longer there."""
        self._merger = Merger(self._device, compute_dtype=self._compute_dtype)

    def fill(self, recipe: Source, *, body: bool = False) -> nn.Module:
        """Fills the model with a merged recipe, or with a checkpoint as it is.

        Args:
            recipe: What it is to hold.
            body: Whether it may keep a head which is not that of the recipe.

        Returns:
            The model, always the same object, in evaluation mode and without gradients.
        """
        with torch.inference_mode(False):
            wanted, frame = wanted_dtype(recipe, self._dtype), frame_of(recipe)
            model = self._built(frame.whole, wanted)
            refill = partial(self._refill, recipe, wanted)
            for_each(refill, self._destinations(frame, body), self._merger.threads(recipe))
        return model

    def put_back(self) -> list[str]:
        """Makes the live model what it was built as, but for the numbers that are refilled.

        Returns:
            The names of what was something else.
        """
        changed = [] if self._original is None else self._original.put_back()
        for tensor, value in self._constants:
            tensor.copy_(value)
        return changed

    def _built(self, frame: Checkpoint, dtype: torch.dtype | None) -> nn.Module:
        if self._model is None:
            model, self.views = build(frame, dtype, self._device)
            self._original = Original(model)
            filled = {view.untyped_storage().data_ptr() for view in self.views.values()}
            self._constants = [
                (tensor, tensor.clone())
                for tensor in self._original.memory
                if tensor.untyped_storage().data_ptr() not in filled
            ]
            self._frame = frame
            self._model = model  # the last: an interrupt before it, and all is built again
        return self._model

    def _destinations(self, frame: Checkpoint, body: bool) -> list[_Destination]:
        """Every tensor that is filled; all recipes of a search have the same frame."""
        placed = self._placed
        if placed is None or placed[0] is not frame or placed[1] != body:
            assert self._frame is not None
            whole, found = frame.whole, origins(frame)
            names = filled_by(whole, self._frame, self.views, body=body)
            destinations = []
            for name, view in self.views.items():
                source, own = found[names[name]] if name in names else (self._frame, name)
                dtype = whole.dtype(names[name]) if name in names else self._frame.dtype(name)
                if not view.is_meta:  # else transformers ignores the tensor
                    place = _Destination(view, None if source is frame else source, own, dtype)
                    destinations.append(place)
            # The largest first, so that no thread is left alone with one at the end.
            destinations.sort(key=lambda place: place.view.numel(), reverse=True)
            self._placed = placed = frame, body, destinations
        return placed[2]

    def _refill(self, recipe: Source, wanted: torch.dtype | None, place: _Destination) -> None:
        source = recipe if place.source is None else place.source
        with torch.no_grad():
            plan = self._merger.plan(source, place.name)
            plan.write_into(place.view, final_dtype(place.dtype, wanted))
