"""The engine: one live model, whatever recipe it is to be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from merge_optuna.checkpoints import renew, steadily
from merge_optuna.engine._frame import (
    Source,
    as_dtype,
    check_finite,
    checkpoints_of,
    frame_of,
    wanted_dtype,
)
from merge_optuna.engine._live_path import LivePath
from merge_optuna.engine._original import CALLER, Loan
from merge_optuna.engine._refilled import Refilled
from merge_optuna.recipes import Recipe
from merge_optuna.recipes.route import SCALED


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
        self.device, self.dtype = torch.device(device), as_dtype(dtype)
        self._compute_dtype = compute_dtype
        self._live = Refilled(self.device, self.dtype, compute_dtype)
        self._loan = Loan()
        self._routed: tuple[torch.dtype | None, LivePath] | None = None

    @property
    def place(self) -> str:
        """Where models run: values of two places may differ where logits are all but equal."""
        return self.device.type

    def check(self, recipe: Recipe) -> None:
        """Checks that a recipe's sources are numbers.

        Raises:
            CheckpointError: If one holds NaN or infinity.
        """
        check_finite(recipe)

    @property
    def views(self) -> dict[str, Tensor]:
        """The memory of the live model by the names of the checkpoint; empty before a load."""
        return self._live.views

    def load(self, recipe: Source, *, user: str = CALLER, body: bool = False) -> nn.Module:
        """Fills the live model with a merged recipe, or with a checkpoint as it is.

        A layer path is not filled in: its live model shares the tensors of live sources, and a
        new path of the same sources is in place at once; see :class:`LivePath`.

        A live model without a head takes what is inside of one with a head, e.g. an expert.

        Args:
            recipe: A recipe without free numbers, or a checkpoint.
            user: Who gets the model: named in a warning if it has to be put back.
            body: Whether what is inside of models is enough: then a live model with a head keeps
                the one that it was built with where the recipe has another one, or none.

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
                lambda: self._load(recipe, user, body), checkpoints_of(recipe), self._forget
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
        self._live.forget()
        self._routed = None

    def _load(self, recipe: Source, user: str, body: bool) -> nn.Module:
        if isinstance(recipe, Recipe) and recipe.path is not None and _shares_layers(recipe):
            routed = self._paths(recipe.models, wanted_dtype(recipe, self.dtype))
            self._routed = None  # where a merge fails, a model is half of one and half of another
            routed[1].refill(recipe.models)
            self._routed = routed
            return routed[1].load(recipe.path, user=user)
        return self._live.fill(recipe, body=body)

    def put_back(self) -> list[str]:
        """Makes the live model what it was built as, but for the numbers that are refilled.

        Returns:
            The names of what was something else.
        """
        return self._live.put_back()

    def _paths(
        self, models: tuple[Source, ...], dtype: torch.dtype | None
    ) -> tuple[torch.dtype | None, LivePath]:
        """What puts paths through these models in place; those of a search are alike."""
        if (routed := self._routed) and routed[0] == dtype and routed[1].takes(models):
            return routed
        numbers: dict[str, Any] = {"dtype": dtype, "compute_dtype": self._compute_dtype}
        return dtype, LivePath(models, device=self.device, **numbers)


def _shares_layers(recipe: Recipe) -> bool:
    """Whether a path is a live model whose layers are those of its models; else it is filled."""
    configs = [frame_of(model).config or {} for model in recipe.models]
    return all(config.get("model_type") in SCALED for config in configs)
