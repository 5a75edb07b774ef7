"""The methods as a page of documentation, from their specs alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from merge_optuna._markdown import page, table
from merge_optuna.methods._spec import PROMISES, Method, Parameter

_INTRODUCTION = """\
# Merge methods

Written from the specs in `merge_optuna/methods/` by `merge-optuna methods --markdown`.

Each method is a function `mo.recipes.<method>`. Every number may be free, differ between layer
groups, or depend on the tensor's name; *each model* marks parameters of which every merged model
has its own value. `recipe.free()` frees all parameters with a search range, over that range –
`lambda_` only where weights are normalised, since otherwise they set the scale already."""


_CONDITION = "with `lambda_` 1 and any other parameters"


def markdown(methods: Iterable[Method]) -> str:
    """The page: an overview, what the promises mean, and one section per method."""
    methods = tuple(methods)
    overview = [
        (f"[`{m.name}`](#{m.name})", m.summary, m.sources_in_words, ", ".join(_promised(m)))
        for m in methods
    ]
    blocks = [
        _INTRODUCTION,
        table(("method", "what it does", "merges", "promises"), overview),
        table(("promise", f"what holds, {_CONDITION}"), list(PROMISES.items())),
        *(block for method in methods for block in _section(method)),
    ]
    return page(blocks)


def _section(method: Method) -> Iterator[str]:
    yield f"## `{method.name}`"
    yield f"{method.summary} Merges {method.sources_in_words}."
    yield f"Source: {method.source}."
    if method.parameters:
        columns = ("parameter", "of", "range", "default", "search range", "what it is")
        yield table(columns, [_row(parameter) for parameter in method.parameters])


def _row(parameter: Parameter) -> Sequence[str]:
    return (
        f"`{parameter.name}`",
        "each model" if parameter.per_model else "",
        parameter.range,
        f"`{parameter.default!r}`",
        parameter.search_in_words,
        parameter.summary,
    )


def _promised(method: Method) -> list[str]:
    return [promise for promise in PROMISES if promise in method.promises]
