"""Under which licence a checkpoint stands, as its own model card says it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from merge_optuna._documents import load_yaml
from merge_optuna.errors import MergeOptunaError

if TYPE_CHECKING:
    from merge_optuna.checkpoints._checkpoint import Checkpoint

_CARD = "README.md"
_MOST_CHARACTERS = 100_000  # of a card that are looked at
_HEADER = re.compile(r"\A\ufeff?---\r?\n(.*?)\r?\n---\s*$", re.DOTALL | re.MULTILINE)
_WORD = re.compile(r"[\w.+ :/()-]{1,200}")  # no Markdown, no line ends


class Licence(NamedTuple):
    """A licence as the hub knows it.

    Attributes:
        license: Its identifier, e.g. ``"apache-2.0"``, or ``"other"``.
        license_name: What another one is called; None for those with an identifier.
        license_link: Where it can be read.
    """

    license: str
    license_name: str | None = None
    license_link: str | None = None

    @classmethod
    def of(cls, metadata: Any) -> Self | None:
        """That of the metadata of a model card; None if they name none, or several."""
        if not isinstance(metadata, dict):
            return None
        found = [_word(metadata.get(name)) for name in cls._fields]
        return None if found[0] is None else cls(found[0], *found[1:])

    def __str__(self) -> str:
        """As people call it."""
        return self.license_name or self.license


def licence_of(checkpoint: Checkpoint) -> Licence | None:
    """The licence of a checkpoint; None if it has no model card here that names one.

    Of an adapter it is the adapter's. Nothing is downloaded.
    """
    places = checkpoint.places()
    is_here = checkpoint.base is None or Path(checkpoint.ref).is_absolute()
    return licence_in(places[0]) if places and is_here else None


def licence_in(folder: Path) -> Licence | None:
    """The licence that the model card in a folder names; None if there is none."""
    try:
        with open(folder / _CARD, encoding="utf-8", errors="replace") as file:
            header = _HEADER.search(file.read(_MOST_CHARACTERS))
        return header and Licence.of(load_yaml(header[1], "The model card"))
    except (OSError, MergeOptunaError):  # it is not needed for anything
        return None


def _word(value: Any) -> str | None:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None
