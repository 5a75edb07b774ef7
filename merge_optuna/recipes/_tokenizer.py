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
    configured,
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


def check_texts(
    vocabulary: Vocabulary | None,
    template: str | None,
    config: str | None,
    leaves: Sequence[Checkpoint],
) -> None:
    """Checks that tokenizer, chat template and config are those of leaves of a recipe.

    Raises:
        RecipeError: If one names another source, or a chat template is no template either.
    """
    names = [leaf.name for leaf in leaves]
    listed = ", ".join(names)
    if vocabulary is not None:
        _check_vocabulary(vocabulary, names)
    if template not in (None, "auto", *names) and "{" not in str(template):
        raise RecipeError(
            f"chat_template must be 'auto', a source ({listed}) or the text of a template, not "
            f"{template!r}."
        )
    if config not in (None, "base", *names, *(leaf.whole_name for leaf in leaves)):
        raise RecipeError(f"config must be 'base' or a source ({listed}), not {config!r}.")


def _check_vocabulary(vocabulary: Vocabulary, names: Sequence[str]) -> None:
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


def views(
    leaves: Sequence[Checkpoint],
    vocabulary: Vocabulary | None,
    config: Checkpoint | None,
    *,
    has_base: bool,
    stacked: bool,
) -> dict[Checkpoint, Checkpoint]:
    """The leaves of a recipe through one vocabulary and one config.

    Args:
        leaves: Every checkpoint of the recipe.
        vocabulary: Whose rows they are to have, if they differ.
        config: The leaf whose config counts, if they differ.
        has_base: Whether the first is the base.
        stacked: Whether their layers follow each other.

    Returns:
        The views, by what they are views of.
    """
    origins = tuple(dict.fromkeys(leaf.origin for leaf in leaves))
    by_id = vocabulary is not None and vocabulary.source == BY_ID
    seen = origins
    if vocabulary is not None and not by_id:
        seen = aligned_vocabulary(vocabulary, origins, 0 if has_base else None).checkpoints
    found = dict(zip(origins, seen, strict=True))
    if config is None and not by_id:
        return found
    frame = None if config is None else found[config.origin]
    return {
        origin: configured(view, frame or view, stacked=stacked, by_id=by_id)
        for origin, view in found.items()
    }


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
