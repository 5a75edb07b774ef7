"""The command that lists merge methods."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from merge_optuna.cli import printing
from merge_optuna.cli.commands import app
from merge_optuna.cli.options import Json

if TYPE_CHECKING:
    from merge_optuna.methods import Method


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this one.")] = None,
    as_json: Json = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a page of documentation.")
    ] = False,
) -> None:
    """List the merge methods with their parameters, ranges, defaults and papers."""
    from merge_optuna.methods import METHODS, get, load_installed, markdown

    load_installed()
    chosen = METHODS.values() if name is None else [get(name)]
    if as_markdown:
        print(markdown(chosen), end="")
        return
    facts = {method.name: _method_facts(method) for method in chosen}
    printing.show(facts, printing.methods, as_json=as_json)


def _method_facts(method: Method) -> dict[str, Any]:
    return {
        "summary": method.summary,
        "source": method.source,
        "base": method.base,
        "sources": method.sources_in_words,
        "models": [method.models[0], None if method.models[1] == math.inf else method.models[1]],
        "statistics": method.statistics,
        "parameters": {
            p.name: {
                "range": p.range,
                "default": p.default,
                "per_model": p.per_model,
                "can_be_free": p.numeric,
                "search": p.search_in_words or None,
                "summary": p.summary,
            }
            for p in method.parameters
        },
    }
