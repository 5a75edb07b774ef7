"""The tokenizer of a merged model as a field of its recipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from merge_optuna.checkpoints import (
    BY_ID,
    ZERO,
    Checkpoint,
    Vocabulary,
    aligned_vocabulary,
    chat_template_of,
)
from merge_optuna.errors import RecipeError


def _as_vocabulary(value: Any) -> Any:
    if isinstance(value, str):
        return Vocabulary(value)
    return Vocabulary(**{"source": None, **value}) if isinstance(value, Mapping) else value


def _as_written(vocabulary: Vocabulary | None) -> Any:
    """The source alone where that says everything."""
    if vocabulary is None or vocabulary == Vocabulary(vocabulary.source):
        return vocabulary and vocabulary.source
    return vocabulary.model_dump(exclude_defaults=True)


Tokenizer = Annotated[
    Vocabulary | None, BeforeValidator(_as_vocabulary), PlainSerializer(_as_written)
]


def check_tokenizer(vocabulary: Vocabulary, names: Sequence[str]) -> None:
    """Checks that a vocabulary is of the sources called ``names``.

    Raises:
        RecipeError: If it names another one.
    """
    if vocabulary.source not in ("base", "union", BY_ID, *names):
        raise RecipeError(
            f"tokenizer must be 'base', 'union' or a source ({', '.join(names)}), not "
            f"{vocabulary.source!r}. {BY_ID!r} merges rows as they are numbered."
        )
    if vocabulary.source == BY_ID and vocabulary != Vocabulary(BY_ID):
        raise RecipeError(f"tokenizer={BY_ID!r} leaves the rows as they are: it has no tokens.")
    for token, row in vocabulary.tokens:
        if row.source not in (ZERO, *names):
            raise RecipeError(
                f"The row of the token {token!r} must come from 'zero' or a source "
                f"({', '.join(names)}), not {row.source!r}."
            )


def aligned(
    vocabulary: Vocabulary, leaves: Sequence[Checkpoint], *, has_base: bool
) -> dict[Checkpoint, Checkpoint]:
    """Views of a recipe's leaves through one vocabulary, by what they are views of."""
    origins = tuple(dict.fromkeys(leaf.origin for leaf in leaves))
    if vocabulary.source == BY_ID:
        return {origin: origin for origin in origins}
    views = aligned_vocabulary(vocabulary, origins, 0 if has_base else None).checkpoints
    return dict(zip(origins, views, strict=True))


def check_chat_template(wanted: str, names: Sequence[str]) -> None:
    """Checks that a chat template is ``"auto"``, the name of a source, or a template.

    Raises:
        RecipeError: If it is none of them.
    """
    if wanted != "auto" and wanted not in names and "{" not in wanted:
        raise RecipeError(
            f"chat_template must be 'auto', a source ({', '.join(names)}) or the text of a "
            f"template, not {wanted!r}."
        )


def chat_template(wanted: str, leaves: Sequence[Checkpoint]) -> str | None:
    """The text of a chat template: given, that of a source, or the one most sources have.

    Raises:
        RecipeError: If the named source has none.
    """
    templates = {leaf.name: chat_template_of(leaf.origin) for leaf in leaves}
    if wanted == "auto":
        most = Counter(text for text in templates.values() if text).most_common(1)
        return most[0][0] if most else None
    if wanted not in templates:
        return wanted
    if templates[wanted] is None:
        raise RecipeError(f"{wanted!r} has no chat template. Choose another source, or 'auto'.")
    return templates[wanted]
