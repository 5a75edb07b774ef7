"""Recipes as documents: plain data, YAML, JSON, and mergekit's files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict

from merge_optuna._documents import load_all_yaml, load_json, load_yaml, read_text
from merge_optuna.errors import RecipeError, shown
from merge_optuna.recipes._checks import check_extent

FORMAT = 1


class Document(BaseModel):
    """A frozen value that is written as a document and read back as an equal one."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits over everything but the places of the sources."""
        content = json.dumps(_without_refs(self.to_data()))
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    def to_data(self) -> dict[str, Any]:
        """The recipe as plain dicts, lists, numbers and strings."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of :meth:`to_data`.

        Raises:
            RecipeError: If ``data`` is no recipe.
        """
        if not isinstance(data, Mapping):
            raise RecipeError(f"Not a recipe, which has fields: {shown(data)}.")
        if not all(isinstance(key, str) for key in data):
            raise RecipeError(f"Not a recipe: its fields {shown(list(data))} are not all words.")
        check_extent(data)
        return cls(**data)

    @classmethod
    def from_document(cls, document: Any, where: str) -> Self:
        """The recipe of a document that is read already.

        Raises:
            RecipeError: If it is none.
        """
        if not isinstance(document, dict) or document.pop("merge_optuna", None) != FORMAT:
            raise RecipeError(
                f"{where} is not a recipe: it does not say 'merge_optuna: {FORMAT}'."
            )
        if "space" in document:
            raise RecipeError(
                f"{where} is the space {shown(document['space'])}, no recipe. The recipes of its "
                "trials are mo.recipe_of(study, trial)."
            )
        return cls.from_data(document)

    def to_json(self) -> str:
        """The recipe as JSON."""
        return json.dumps({"merge_optuna": FORMAT, **self.to_data()})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Inverse of :meth:`to_json`.

        Raises:
            RecipeError: If the text is no recipe.
        """
        if not isinstance(text, str):
            raise RecipeError(f"The JSON text is no text: {shown(text)}.")
        return cls.from_document(load_json(text, "The JSON text"), "The JSON text")

    def to_yaml(self, path: str | Path | None = None) -> str:
        """The recipe as YAML; also written to ``path`` if given."""
        document = {"merge_optuna": FORMAT, **self.to_data()}
        return _written(yaml.safe_dump(document, sort_keys=False), path)

    @classmethod
    def from_yaml(cls, source: str | Path) -> Self:
        """Reads a recipe from a YAML file, or from YAML text.

        Raises:
            RecipeError: If the content is no recipe.
            FileNotFoundError: If a path is given and no file is there.
        """
        text, where = _text_of(source)
        return cls.from_document(load_yaml(text, where), where)

    def to_mergekit(self, path: str | Path | None = None) -> str:
        """The recipe as a configuration of mergekit (0.1.5); also written to ``path`` if given.

        mergekit gives the same merge from it, up to rounding and to the random masks of methods
        that drop at random; :meth:`from_mergekit` gives the same recipe, up to the places of the
        sources.

        Raises:
            RecipeError: If it says what mergekit cannot, e.g. free numbers.
        """
        return _written(mergekit().write(self), path)

    @classmethod
    def from_mergekit(cls, source: str | Path, *, strict: bool = False) -> Self:
        """Reads a configuration of mergekit (0.1.5): a YAML file, or its text.

        Every tensor gets the numbers that mergekit gives it. Gradients become one value per layer;
        they leave the embedding, and what follows the layers, with their first value, as mergekit
        does. ``dtype`` (or ``out_dtype``) is that of the result; mergekit also computes in it,
        where we always compute in float32. Sources are named after their folders.

        Args:
            source: A file, or its content.
            strict: Whether a key that mergekit ignores, often a misspelled one, is an error. It
                is a warning otherwise, with the key that was probably meant.

        Raises:
            RecipeError: If it is not valid, or says what a recipe cannot; naming the key and its
                place in the file. Also if it belongs to another tool of mergekit, naming that.
            CheckpointError: If a model cannot be opened.
            CheckpointMismatch: If the models do not fit together.
            FileNotFoundError: If a path is given and no file is there.
        """
        made: Self = mergekit().read(*_text_of(source), strict=strict)
        return made

    @classmethod
    def read(cls, path: str | Path, *, strict: bool = False) -> Self:
        """Reads a recipe from a YAML file, ours or a configuration of mergekit.

        Args:
            path: The file.
            strict: As in :meth:`from_mergekit`.

        Raises:
            RecipeError: If it is neither.
            FileNotFoundError: If no file is there.
        """
        # Whoever reads it then says what is wrong with it.
        found = load_all_yaml(read_text(path), str(path), surprises=(), repeated=lambda _: None)
        if mergekit().is_theirs(found):
            return cls.from_mergekit(path, strict=strict)
        return cls.from_yaml(Path(path))


def mergekit() -> ModuleType:
    """Files of mergekit in and out. That package is made of recipes, so it is found here, late."""
    from merge_optuna import mergekit

    return mergekit


def _text_of(source: str | Path) -> tuple[str, str]:
    """The text of a document that is given as such or by its file, and how errors call it."""
    if isinstance(source, str) and "\n" in source:
        return source, "The YAML text"
    return read_text(source), str(source)


def _written(text: str, path: str | Path | None) -> str:
    """The text, in a file too if one is named."""
    if path is not None:
        Path(path).write_text(text)
    return text


def _without_refs(data: Any) -> Any:
    """Without where sources and methods are found."""
    if isinstance(data, dict):
        places = {"ref", "revision", *(("module",) if {"method", "models"} <= data.keys() else ())}
        return {k: _without_refs(v) for k, v in data.items() if k not in places}
    if isinstance(data, list):
        return [_without_refs(v) for v in data]
    return data
