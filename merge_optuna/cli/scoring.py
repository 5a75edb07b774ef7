"""The commands that score models without a search."""

from __future__ import annotations

from typing import Annotated

import typer

from merge_optuna.cli import printing
from merge_optuna.cli.commands import app
from merge_optuna.cli.options import Dev, File, Json


@app.command()
def baselines(
    file: File,
    dev: Dev = None,
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Keep them in the study there, as run does."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Score what the search of FILE has to beat, without searching.

    The base, every source, the uniform average, the method untuned, task
    arithmetic, the greedy soup. With --storage what is there already is not
    scored again, unless it has failed.
    """
    from merge_optuna.cli import files, studies
    from merge_optuna.study import baselines as score

    declared = files.declared(file, dev)
    study = None if storage is None else declared.open(storage)
    found = score(declared.objective, study, kinds=declared.baselines or True)
    result = {"study": declared.name, "metrics": declared.objective.metric_names}
    printing.show(
        {"baselines": [], **result, **studies.beside(found)}, printing.baselines, as_json=as_json
    )


@app.command()
def evaluate(
    file: File,
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Checkpoints, or files with a recipe."),
    ],
    dev: Dev = None,
    test: Annotated[
        bool, typer.Option("--test", help="Score them on the test data of FILE as well.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Score checkpoints and recipes on the dev data of FILE."""
    from merge_optuna.cli import files

    declared = files.declared(file, dev)
    found = files.evaluated(declared, models, test=test)
    printing.show({"models": found}, printing.evaluated, as_json=as_json)
