"""The command that compares searches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from merge_optuna.cli import printing
from merge_optuna.cli.commands import app, sources_of
from merge_optuna.cli.options import Json, Sources


@app.command()
def leaderboard(
    storages: Annotated[
        list[str], typer.Argument(metavar="STORAGE...", help="URLs of the storages.")
    ],
    study: Annotated[
        list[str] | None,
        typer.Option("--study", metavar="NAME", help="Only this study. Can be given repeatedly."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Python file with a mo.MergeStudy: compare on its test data, on its device.",
        ),
    ] = None,
    test_file: Annotated[
        Path | None,
        typer.Option(
            "--test-file",
            metavar="JSONL",
            exists=True,
            dir_okay=False,
            help="Labelled texts to compare on, for searches by Classification.",
        ),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            metavar="NAME",
            help="A search that counts as a tuned baseline. Can be given repeatedly.",
        ),
    ] = None,
    source: Sources = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: Json = False,
) -> None:
    """Compare searches and their baselines, with 95 % intervals.

    Studies whose names differ only in a seed at the end ("name, seed 0",
    "name-seed-1") are one search. Intervals are over seeds and examples of the
    test data; without any, dev values are compared, by which searches choose.
    """
    from merge_optuna.cli import files, studies
    from merge_optuna.study import leaderboard as compared

    if file is not None and test_file is not None:
        raise typer.BadParameter("--file has test data of its own: give it or --test-file.")
    chosen = studies.those(storages, study)
    test, engine = files.held_out(file, test_file, chosen)
    board = compared(
        chosen, test=test, engine=engine, sources=sources_of(source), baselines=baseline or ()
    )
    if as_markdown:
        print(board.to_markdown(), end="")
    elif as_json:
        printing.print_json(board.to_data())
    else:
        printing.leaderboard(board)
