"""The model card of a merged model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from merge_optuna import _markdown as markdown
from merge_optuna._version import __version__
from merge_optuna.checkpoints import Checkpoint, Licence, is_hub, licence_of
from merge_optuna.recipes import Panel, Recipe, panels_of, route_panels, summary_of, svg_of

PICTURE = "recipe.svg"


@dataclass(frozen=True)
class Told:
    """What a model card says beside the recipe.

    Attributes:
        score: Results by name.
        command: To make the model again.
        comparison: With what needs no search, in Markdown.
        panels: What the picture shows; what the recipe says when empty.
    """

    score: Mapping[str, Any] = field(default_factory=dict)
    command: str | None = None
    comparison: str | None = None
    panels: Sequence[Panel] = ()


def picture(recipe: Checkpoint | Recipe, told: Told) -> str | None:
    """The picture that belongs to a card, an SVG; None if there is nothing to see."""
    panels = _panels(recipe, told)
    if not panels or not isinstance(recipe, Recipe):
        return None
    return svg_of(panels, f"{recipe.method} of {', '.join(recipe.model_names)}"[:100])


def model_card(
    recipe: Checkpoint | Recipe,
    title: str,
    told: Told,
    head: Checkpoint | None = None,
) -> str:
    """Markdown: what is merged, how good it is, from what, and how to make it again.

    The metadata are those that the hub reads: ``base_model`` of the sources that are there,
    related to them as a merge, and the licence where it is the same for all.

    Args:
        recipe: What is merged.
        title: Of the page.
        told: What else is known.
        head: Whose head it is written under, if it is not the recipe's own.
    """
    sources = _sources(recipe, head)
    licences = {source: licence_of(source) for source in sources}
    header = yaml.safe_dump(_metadata(sources, licences), sort_keys=False, allow_unicode=True)
    return markdown.page(
        [
            f"---\n{header}---",
            f"# {title}",
            *_introduction(recipe, told),
            *_results(told),
            "## Sources",
            _table_of(recipe, licences),
            *_licence_in_words(licences),
            *([] if head is None else [_of_head(head)]),
            *_recipe(recipe),
            "## Make it again",
            f"```sh\n{told.command or 'merge-optuna write recipe.yaml OUT'}\n```",
        ]
    )


# -- metadata -----------------------------------------------------------------------------------


def _metadata(
    sources: Sequence[Checkpoint], licences: Mapping[Checkpoint, Licence | None]
) -> dict[str, Any]:
    """What the hub reads, https://huggingface.co/docs/hub/model-cards."""
    found: dict[str, Any] = {"library_name": "transformers"}
    models = [own for source in sources for own in (source, source.base) if own is not None]
    on_hub = [*dict.fromkeys(one.ref for one in models if is_hub(one.ref))]
    if on_hub:
        found |= {"base_model": on_hub, "base_model_relation": "merge"}
    if (licence := _common(licences)) is not None:
        found |= {name: value for name, value in licence._asdict().items() if value}
    return {**found, "tags": ["merge", "merge_optuna"]}


def _common(licences: Mapping[Checkpoint, Licence | None]) -> Licence | None:
    """The licence that all sources have; None if one has another, or none that is known."""
    first, *others = dict.fromkeys(licences.values())
    return None if others else first


def _sources(recipe: Checkpoint | Recipe, head: Checkpoint | None) -> list[Checkpoint]:
    """Every checkpoint that weights come from, once."""
    leaves = recipe.leaves() if isinstance(recipe, Recipe) else (recipe,)
    origins = [leaf.origin for leaf in (*leaves, *([] if head is None else [head]))]
    return [*dict.fromkeys(origins)]


# -- the page -----------------------------------------------------------------------------------


def _introduction(recipe: Checkpoint | Recipe, told: Told) -> Iterator[str]:
    leaves = recipe.leaves() if isinstance(recipe, Recipe) else (recipe,)
    yield f"A merge of {len(leaves)} models made with merge_optuna {__version__}."
    if not isinstance(recipe, Recipe):
        return
    summary = summary_of(recipe)
    yield f"`{summary}`"
    if panels := _panels(recipe, told):
        shown = " and ".join(dict.fromkeys(panel.parameter for panel in panels))
        yield f"![{_plain(shown)} by layer and model]({PICTURE})"


def _panels(recipe: Checkpoint | Recipe, told: Told) -> Sequence[Panel]:
    if not isinstance(recipe, Recipe):
        return ()
    return told.panels or (*route_panels(recipe), *panels_of(recipe))


def _results(told: Told) -> Iterator[str]:
    if told.score:
        rows = [[name, str(value)] for name, value in told.score.items()]
        yield "## Score"
        yield markdown.table(["", ""], rows)
    if told.comparison:
        yield "## Compared with what needs no search"
        yield told.comparison


def _table_of(recipe: Checkpoint | Recipe, licences: Mapping[Checkpoint, Licence | None]) -> str:
    """The sources; with their licences where one is known."""
    leaves = recipe.leaves() if isinstance(recipe, Recipe) else (recipe,)
    head, rows = ["name", "checkpoint", "digest"], []
    named = any(licences.values())
    for leaf in leaves:
        licence = licences[leaf.origin]
        own = [str(licence or "not known")] if named else []
        rows.append([leaf.name, _place(leaf), f"`{leaf.digest}`", *own])
    return markdown.table([*head, *(["licence"] if named else [])], rows)


def _licence_in_words(licences: Mapping[Checkpoint, Licence | None]) -> Iterator[str]:
    """What a reader has to know where there is no licence for the whole."""
    if any(licences.values()) and _common(licences) is None:
        yield (
            "The sources stand under different licences, or under some that are not known here: "
            "what the merge may be used for is what all of them allow."
        )


def _of_head(head: Checkpoint) -> str:
    return f"The head is that of `{head.name}`, {_place(head)}, `{head.digest}`."


def _recipe(recipe: Checkpoint | Recipe) -> Iterator[str]:
    if isinstance(recipe, Recipe):
        yield "## Recipe"
        yield f"Digest `{recipe.digest}`; also in `recipe.yaml`."
        yield f"```yaml\n{recipe.to_yaml()}```"


def _place(source: Checkpoint) -> str:
    of = f"{source.part} of " if source.part else ""
    at = f" at `{source.revision}`" if source.revision else ""
    return f"{of}`{source.ref}`{at}"


def _plain(text: str) -> str:
    """A text that ends no link."""
    return text.translate(str.maketrans("[]()", "    "))
