"""One live model, refilled in place."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor, nn

from merge_optuna.checkpoints import Checkpoint, checkpoint_views, for_each, is_pretrained
from merge_optuna.engine._tensors import Merger, Source, as_dtype, frame_of
from merge_optuna.errors import CheckpointError, few


class Engine:
    """Turns recipes into one live model.

    The model is created at the first :meth:`load` and refilled by every further one, so a search
    neither writes checkpoints nor creates models. It is in evaluation mode, without gradients.

    Args:
        device: Of the live model and of the computation, e.g. ``"cpu"`` or ``"cuda"``.
        dtype: Data type of the live model, e.g. ``"bfloat16"`` or ``torch.float32``; that of the
            base checkpoint when omitted.

    Example:
        >>> engine = mo.Engine(device="cuda", dtype="bfloat16")
        >>> def objective(trial):
        ...     model = engine.load(recipe(trial))
        ...     return accuracy(model)
    """

    def __init__(
        self, device: torch.device | str = "cpu", dtype: torch.dtype | str | None = None
    ) -> None:
        self.device = torch.device(device)
        self.dtype = as_dtype(dtype)
        self._merger = Merger(self.device)
        self._model: nn.Module | None = None
        self._views: dict[str, Tensor] = {}

    def load(self, recipe: Source) -> nn.Module:
        """Fills the live model with a merged recipe, or with a checkpoint as it is.

        Returns:
            The live model: always the same object.

        Raises:
            RecipeError: If numbers of the recipe are still free.
            CheckpointError: If the model cannot be built, or has other tensors than before.
            InfeasibleRecipe: If the recipe's values have no well-defined result.
        """
        frame = frame_of(recipe)
        if self._model is None:
            model = self._build(frame)
            views = checkpoint_views(model)
            _check_names(frame, views, "Save the checkpoint again with save_pretrained().")
            self._model, self._views = model, views
        _check_names(frame, self._views, "Use a new mo.Engine for another architecture.")
        # The largest first, so that no thread is left alone with one at the end.
        names = sorted(self._views, key=lambda name: self._views[name].numel(), reverse=True)
        for_each(partial(self._refill, recipe), names, self._merger.threads(recipe))
        return self._model

    def _refill(self, recipe: Source, name: str) -> None:
        with torch.no_grad():
            self._merger.write_into(self._views[name], recipe, name)

    def _build(self, frame: Checkpoint) -> nn.Module:
        if frame.module is not None:
            model = _cast(copy.deepcopy(frame.module), self.dtype)
        else:
            model = _from_pretrained(frame, self.dtype)
        return model.to(self.device).eval().requires_grad_(False)


def _check_names(frame: Checkpoint, views: dict[str, Tensor], remedy: str) -> None:
    """Every tensor has a place, and no place keeps what it held before."""
    live = {name: tuple(view.shape) for name, view in views.items()}
    given = {name: frame.shape(name) for name in frame.names()}
    wrong = sorted(n for n in live.keys() | given.keys() if live.get(n) != given.get(n))
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} tensors are missing or have another shape in {frame.name!r} or in the "
            f"live model: {few(wrong)}. {remedy}"
        )


def _cast(model: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """Casts a model as transformers does: buffers outside the checkpoint stay exact.

    Rotary frequencies in bfloat16 would be another model.
    """
    outside = dict(model.named_buffers()) if is_pretrained(model) else {}
    for name in model.state_dict():
        outside.pop(name, None)
    model.to(dtype)
    for name, buffer in outside.items():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, buffer)
    return model


def _from_pretrained(frame: Checkpoint, dtype: torch.dtype | None) -> nn.Module:
    architectures = (frame.config or {}).get("architectures") or []
    if not architectures:
        raise CheckpointError(
            f"The config.json of {frame.ref!r} is missing or names no architecture, so no model "
            "can be built. Use mo.Checkpoint.from_module(module, name=...)."
        )
    import transformers

    architecture = getattr(transformers, architectures[0], None)
    if architecture is None:
        raise CheckpointError(
            f"transformers {transformers.__version__} has no {architectures[0]}, which "
            f"{frame.ref!r} needs. Update transformers, or use mo.Checkpoint.from_module."
        )
    stored = {frame.dtype(name) for name in frame.names() if frame.dtype(name).is_floating_point}
    own = stored.pop() if len(stored) == 1 else "auto"
    model: nn.Module = architecture.from_pretrained(
        frame.folder, dtype=dtype or own, local_files_only=True
    )
    return model
