"""One live model, refilled in place."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from merge_optuna.checkpoints import Checkpoint, for_each, renew, steadily
from merge_optuna.engine._build import build, check_names
from merge_optuna.engine._original import CALLER, Loan, Original
from merge_optuna.engine._tensors import (
    Merger,
    Source,
    as_dtype,
    checkpoints_of,
    final_dtype,
    forget_sources,
    frame_of,
    origins,
    wanted_dtype,
)
from merge_optuna.recipes import Recipe
from merge_optuna.recipes.route import SCALED

if TYPE_CHECKING:
    from merge_optuna.engine.layer_path import LivePath


class Engine:
    """Turns recipes into one live model.

    The model is created at the first :meth:`load` and refilled by every further one, so a search
    neither writes checkpoints nor creates models. It is in evaluation mode, without gradients.

    Whoever gets it may do with it what he likes. Before every load it is made again what it was
    built as: the same modules, hooks, attributes, configs and tensors, on their own memory.

    Args:
        device: Of the live model and of the computation, e.g. ``"cpu"`` or ``"cuda"``.
        dtype: Data type of the live model, e.g. ``"bfloat16"`` or ``torch.float32``; that of the
            first recipe when omitted, or else that of its base checkpoint.
        compute_dtype: Data type that merges are computed in before their one rounding:
            ``"float32"`` when omitted, or ``"float64"``.

    Example:
        >>> engine = mo.Engine(device="cuda", dtype="bfloat16")
        >>> def objective(trial):
        ...     model = engine.load(recipe(trial))
        ...     return accuracy(model)
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str | None = None,
        *,
        compute_dtype: torch.dtype | str | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.dtype = as_dtype(dtype)
        self._compute_dtype = compute_dtype
        self._merger = Merger(self.device, compute_dtype=compute_dtype)
        self._model: nn.Module | None = None
        self._views: dict[str, Tensor] = {}
        self._original: Original | None = None
        self._constants: list[tuple[Tensor, Tensor]] = []
        self._loan = Loan()
        self._placed: tuple[Checkpoint, list[_Place]] | None = None
        self._routed: tuple[Any, LivePath] | None = None

    @property
    def views(self) -> dict[str, Tensor]:
        """The memory of the live model by the names of the checkpoint; empty before a load."""
        return self._views

    def load(self, recipe: Source, *, user: str = CALLER) -> nn.Module:
        """Fills the live model with a merged recipe, or with a checkpoint as it is.

        A layer path is not filled in: its live model shares the tensors of live sources, and a
        new path of the same sources is in place at once; see :class:`LivePath`.

        Args:
            recipe: A recipe without free numbers, or a checkpoint.
            user: Who gets the model: named in a warning if it has to be put back.

        Returns:
            The live model: always the same object, and another one for layer paths.

        Raises:
            RecipeError: If numbers of the recipe are still free.
            CheckpointError: If the model cannot be built, or has other tensors than before.
            InfeasibleRecipe: If the recipe's values have no well-defined result.
            SourceChanged: If a file of the sources is not what it was when it was opened.
        """
        with torch.inference_mode(False):
            self._loan.ended(self.put_back())
            model = steadily(
                lambda: self._load(recipe, user), checkpoints_of(recipe), self._forget
            )
        self._loan.to(user)
        return model

    def look_again(self, recipe: Source) -> None:
        """Makes sure that the files of a recipe still are what they were.

        Raises:
            SourceChanged: If not.
        """
        if renew(checkpoints_of(recipe)):
            self._forget()

    def _forget(self) -> None:
        """Drops what was learned of the sources, and views of files that are no longer there."""
        self._merger = Merger(self.device, compute_dtype=self._compute_dtype)
        self._routed = None
        forget_sources()

    def _load(self, recipe: Source, user: str) -> nn.Module:
        wanted = wanted_dtype(recipe, self.dtype)
        if isinstance(recipe, Recipe) and recipe.path is not None and _shares_layers(recipe):
            return self._paths(recipe.models, wanted).load(recipe.path, user=user)
        frame = frame_of(recipe)
        model = self._built(frame.whole, wanted)
        refill = partial(self._refill, recipe, wanted)
        for_each(refill, self._places(frame), self._merger.threads(recipe))
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
            model, self._views = build(frame, dtype, self.device)
            self._original = Original(model)
            filled = {view.untyped_storage().data_ptr() for view in self._views.values()}
            self._constants = [
                (tensor, tensor.clone())
                for tensor in self._original.memory
                if tensor.untyped_storage().data_ptr() not in filled
            ]
            self._model = model  # the last: an interrupt before it, and all is built again
        return self._model

    def _paths(self, models: tuple[Source, ...], dtype: torch.dtype | None) -> LivePath:
        """What puts paths through these models in place; those of a search are the same."""
        from merge_optuna.engine.layer_path import LivePath  # it has engines

        if self._routed is None or self._routed[0] != (models, dtype):
            paths = LivePath(
                models, device=self.device, dtype=dtype, compute_dtype=self._compute_dtype
            )
            self._routed = (models, dtype), paths
        return self._routed[1]

    def _places(self, frame: Checkpoint) -> list[_Place]:
        """Every tensor that is filled; all recipes of a search have the same frame."""
        if self._placed is None or self._placed[0] is not frame:
            whole = frame.whole
            check_names(whole, self._views, "Use a new mo.Engine for another architecture.")
            places = [
                _Place(
                    self._views[name], None if source is frame else source, own, whole.dtype(name)
                )
                for name, (source, own) in origins(frame).items()
                if not self._views[name].is_meta  # else transformers ignores the tensor
            ]
            # The largest first, so that no thread is left alone with one at the end.
            places.sort(key=lambda place: place.view.numel(), reverse=True)
            self._placed = frame, places
        return self._placed[1]

    def _refill(self, recipe: Source, wanted: torch.dtype | None, place: _Place) -> None:
        source = recipe if place.source is None else place.source
        with torch.no_grad():
            self._merger.write_into(
                place.view, source, place.name, final_dtype(place.dtype, wanted)
            )


def _shares_layers(recipe: Recipe) -> bool:
    """Whether a path is a live model whose layers are those of its models; else it is filled."""
    configs = [frame_of(model).config or {} for model in recipe.models]
    return all(config.get("model_type") in SCALED for config in configs)


class _Place(NamedTuple):
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
