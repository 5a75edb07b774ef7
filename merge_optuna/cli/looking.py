"""The commands that show a study: in the browser, and on a page."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from merge_optuna.cli.commands import app, sources_of
from merge_optuna.cli.options import Sources, Storage

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

_PAGES = (".html", ".htm")
_SHOWN = 20  # studies whose address is printed


@app.command()
def dashboard(
    storage: Storage,
    port: Annotated[
        int,
        typer.Option(metavar="PORT", min=0, max=65535, help="Of this machine; 0 for a free one."),
    ] = 8080,
    artifacts: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder of the artifacts; beside a file storage if omitted."
        ),
    ] = None,
) -> None:
    """Show STORAGE in the browser with optuna-dashboard, until ctrl-C.

    STORAGE is a URL or a file. Only this machine can see it: from elsewhere use
    ssh -L 8080:127.0.0.1:8080. It can be open while a search runs.
    """
    from merge_optuna import _optuna_compat as compat
    from merge_optuna.reports import artifacts_beside, serve
    from merge_optuna.study import storage as open_storage

    if artifacts is not None and not artifacts.is_dir():
        raise typer.BadParameter(f"--artifacts: there is no folder {artifacts.absolute()}.")
    opened = open_storage(storage, create=False)
    folder = artifacts or artifacts_beside(compat.place_of(opened))
    is_there = folder is not None and folder.is_dir()

    def ready(address: str) -> None:
        said = [*_addresses(opened, storage, address)]
        if not is_there:
            said += _missing(opened, folder)
        print("\n".join([*said, "Ctrl-C ends it."]), flush=True)

    try:
        serve(opened, port=port, artifacts=folder if is_there else None, ready=ready)
    except KeyboardInterrupt:
        print("Ended.", file=sys.stderr)


def _addresses(opened: BaseStorage, storage: str, address: str) -> Iterator[str]:
    """Where each study is shown."""
    from merge_optuna import _dashboard_compat
    from merge_optuna import _optuna_compat as compat

    pages = _dashboard_compat.pages(opened)
    if not pages:
        yield f"There is no study in {compat.without_password(storage)} yet. {address}"
    for name in [*pages][:_SHOWN]:
        yield f"{name}: {address}{pages[name]}"
    if len(pages) > _SHOWN:
        yield f"All {len(pages)} studies: {address}"


def _missing(opened: BaseStorage, folder: Path | None) -> list[str]:
    """That artifacts cannot be opened, if there are any."""
    from merge_optuna import _dashboard_compat

    if not _dashboard_compat.has_artifacts(opened):
        return []
    where = "name their folder with"
    if folder is not None:
        where = f"{folder.absolute()} is not there. Name its new place with"
    return [f"Artifacts, e.g. recipes of trials, cannot be opened: {where} --artifacts."]


@app.command()
def report(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="STORAGE... PAGE", help="URLs or files, and at last the page: report.html."
        ),
    ],
    study: Annotated[
        list[str] | None,
        typer.Option("--study", metavar="NAME", help="Only this study. Can be given repeatedly."),
    ] = None,
    source: Sources = None,
) -> None:
    """Write PAGE, a file that shows studies without a server or network.

    Several studies stand side by side: all in the storages, or those named.
    """
    from merge_optuna.cli import studies
    from merge_optuna.reports import save_html

    *storages, page = paths
    if not storages or Path(page).suffix.lower() not in _PAGES:
        raise typer.BadParameter(
            f"The last argument is the page to write, e.g. report.html, not {page!r}: "
            "merge-optuna report STORAGE... report.html"
        )
    written = save_html(studies.those(storages, study), page, sources=sources_of(source))
    print(f"Written to {written}")
