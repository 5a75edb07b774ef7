"""The commands for searches with several objectives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from merge_optuna.cli import printing
from merge_optuna.cli.commands import app, sources_of
from merge_optuna.cli.options import (
    Force,
    Heads,
    Json,
    OutDtype,
    Sources,
    Storage,
    StudyName,
    Tokenizer,
    Trust,
    heads_of,
)


@app.command()
def pareto(
    storage: Storage,
    study: StudyName = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: Json = False,
) -> None:
    """Show the trials that none other dominates, beside the baselines.

    One dominates another if it is worse in no objective and better in one.
    Trials that violate a constraint are left out.
    """
    from merge_optuna.cli import studies
    from merge_optuna.study import pareto as front_of

    front = front_of(studies.opened(storage, study))
    if as_markdown:
        print(front.to_markdown(), end="")
    elif as_json:
        printing.print_json(front.to_data())
    else:
        printing.front(front)


@app.command()
def export_front(
    storage: Storage,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of the folders of the trials.")
    ],
    study: StudyName = None,
    most: Annotated[
        int | None,
        typer.Option(metavar="K", min=1, help="Only K points, those that spread best."),
    ] = None,
    force: Force = False,
    trust_remote_code: Trust = False,
    dtype: OutDtype = None,
    tokenizer: Tokenizer = None,
    source: Sources = None,
    head: Heads = None,
) -> None:
    """Write each trial of the front to a folder in DIR, from the database alone.

    Folders that are there already stay as they are: what was interrupted goes
    on when it is started again.
    """
    from merge_optuna.cli import studies
    from merge_optuna.study import export_front as export

    sources, heads = sources_of(source), heads_of(head)
    written = export(
        studies.opened(storage, study),
        folder,
        most=most,
        force=force,
        sources=sources,
        dtype=dtype and dtype.value,
        tokenizer=tokenizer,
        trust_remote_code=trust_remote_code,
        heads=heads,
    )
    print("\n".join(f"Written to {path}" for path in written))
