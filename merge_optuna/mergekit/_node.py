"""A part of a YAML document that knows where it stands, for errors that say so."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from merge_optuna.errors import RecipeError


def warn(text: str) -> None:
    """What becomes of something that mergekit passes over: a warning."""
    warnings.warn(text, stacklevel=2)


def pass_over(text: str) -> None:
    """What becomes of it where it was decided before: nothing."""


def refuse(text: str) -> None:
    """What becomes of it where the author wants to be sure.

    Raises:
        RecipeError: Always.
    """
    raise RecipeError(text)


@dataclass(frozen=True)
class Node:
    """A value and its place.

    Attributes:
        value: What YAML makes of it.
        file: Name of the file, or what stands for it.
        path: Where in the file, e.g. ``models[1].parameters.weight``.
        passed_over: What becomes of something here that mergekit passes over, given its text.
    """

    value: Any
    file: str
    path: str = ""
    passed_over: Callable[[str], None] = warn

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

    def needed(self, key: str) -> Node:
        """What a mapping holds under ``key``.

        Raises:
            RecipeError: If nothing or null.
        """
        found = self.get(key)
        if found is None:
            raise self.error(f"no {key}.")
        return found

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

    def check_keys(self, known: Iterable[str]) -> None:
        """Says which keys of a mapping nothing reads.

        Raises:
            RecipeError: If it is no mapping, or what is passed over is refused.
        """
        for key in self.mapping():
            if key not in known:
                self.ignores(key, known)

    def ignores(self, key: str, known: Iterable[str]) -> None:
        """Says that mergekit passes over a key, and which was probably meant."""
        names = sorted(known)
        close = difflib.get_close_matches(key, names, n=1)
        read = f"It reads {', '.join(names) or 'none'} here."
        hint = f"Did you mean {close[0]!r}?" if close else read
        self.passed_over(f"{self.place}: mergekit ignores the key {key!r}. {hint}")

    def has_no_effect(self, why: str) -> None:
        """Says that mergekit passes over this."""
        self.passed_over(f"{self.place} has no effect: {why}.")

    def _at(self, value: Any, path: str) -> Node:
        return Node(value, self.file, path, self.passed_over)
