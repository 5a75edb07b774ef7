"""What a search asks of an engine, whichever it is."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch

from merge_optuna.engine._frame import Source
from merge_optuna.recipes import Recipe


@runtime_checkable
class AnyEngine(Protocol):
    """What holds the one model of a search: ``mo.Engine``, ``mo.engine.VLLM``, or one of yours.

    Attributes:
        device: Where merges are computed.
        dtype: Data type of the model; None for that of the recipe.
        place: Where models run, e.g. ``"cpu"``: a value is not taken over from another place.
    """

    device: torch.device
    dtype: torch.dtype | None

    @property
    def place(self) -> str: ...

    def check(self, recipe: Recipe) -> None:
        """Checks before a search that recipes like this one can be loaded.

        Raises:
            MergeOptunaError: If not.
        """

    def load(self, recipe: Source, *, user: str = ..., body: bool = ...) -> Any:
        """The model with the numbers of a recipe: a module, or one that serves replies.

        Args:
            recipe: A recipe without free numbers, or a checkpoint.
            user: Who gets it.
            body: Whether the model may keep a head that is not the recipe's.
        """

    def look_again(self, recipe: Source) -> None:
        """Makes sure that the files of a recipe still are what they were.

        Raises:
            SourceChanged: If not.
        """
