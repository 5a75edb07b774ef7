"""One live model, refilled in place."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from merge_optuna.checkpoints import Checkpoint, checkpoint_views
from merge_optuna.engine._tensors import Source, exact_tensors, frame_of
from merge_optuna.errors import CheckpointError


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
        self.dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
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
            self._model = self._build(frame)
            self._views = checkpoint_views(self._model)
        self._check_names(frame)
        with torch.no_grad():
            for name, tensor in exact_tensors(recipe, self.device):
                self._views[name].copy_(tensor)
        return self._model

    def _build(self, frame: Checkpoint) -> nn.Module:
        if frame.module is not None:
            model = copy.deepcopy(frame.module)
            model = model.to(self.device, self.dtype)
        else:
            model = _from_pretrained(frame, self.dtype).to(self.device)
        return model.eval().requires_grad_(False)

    def _check_names(self, frame: Checkpoint) -> None:
        wrong = [
            name
            for name in frame.names()
            if name not in self._views or tuple(self._views[name].shape) != frame.shape(name)
        ]
        if wrong:
            raise CheckpointError(
                f"{len(wrong)} of {len(frame.names())} tensors of {frame.name!r} have no place in "
                f"the live {type(self._model).__name__}: {', '.join(wrong[:10])}. "
                "Use a new mo.Engine for another architecture."
            )


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
    model: nn.Module = architecture.from_pretrained(
        frame.folder, dtype=dtype or "auto", local_files_only=True
    )
    return model
