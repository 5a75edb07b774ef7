"""A part of a YAML document that knows where it stands, for errors that say so."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from merge_optuna.errors import RecipeError


@dataclass(frozen=True)
class Node:
    """A value and its place.

    Attributes:
        value: What YAML makes of it.
        file: Name of the file, or what stands for it.
        path: Where in the file, e.g. ``models[1].parameters.weight``.
    """

    value: Any
    file: str
    path: str = ""

    @property
    def place(self) -> str:
        """The file and where in it."""
        return f"{self.file}: {self.path}" if self.path else self.file

    def error(self, problem: str) -> RecipeError:
        """The error that says what is wrong here."""
        return RecipeError(f"{self.place}: {problem}")

    def get(self, key: str) -> Node | None:
        """What a mapping holds under ``key``; None if nothing or null."""
        value = self.mapping().get(key)
        return None if value is None else self._at(value, f"{self.path}.{key}".lstrip("."))

    def mapping(self) -> dict[str, Any]:
        """The value as a mapping with words as keys.

        Raises:
            RecipeError: If it is none.
        """
        if not isinstance(self.value, dict) or not all(isinstance(k, str) for k in self.value):
            raise self.error(f"expected names with values, not {self.value!r}.")
        return self.value

    def fields(self) -> list[tuple[str, Node]]:
        """The names of a mapping and what they hold."""
        return [
            (key, self._at(value, f"{self.path}.{key}".lstrip(".")))
            for key, value in self.mapping().items()
        ]

    def items(self) -> list[Node]:
        """The items of a list.

        Raises:
            RecipeError: If it is none, or empty.
        """
        if not isinstance(self.value, (list, tuple)) or not self.value:
            raise self.error(f"expected a list, not {self.value!r}.")
        return [self._at(v, f"{self.path}[{i}]") for i, v in enumerate(self.value)]

    def text(self) -> str:
        """The value as a word.

        Raises:
            RecipeError: If it is none.
        """
        if not isinstance(self.value, str) or not self.value:
            raise self.error(f"expected a word, not {self.value!r}.")
        return self.value

    def unknown(self, key: str, known: Iterable[str]) -> RecipeError:
        """The error for a key that nothing reads."""
        names = sorted(known)
        close = difflib.get_close_matches(key, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return self.error(f"unknown key {key!r}.{hint} Known are {', '.join(names)}.")

    def _at(self, value: Any, path: str) -> Node:
        return Node(value, self.file, path)
