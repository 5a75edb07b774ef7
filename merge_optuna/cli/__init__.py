"""The command line: ``merge-optuna run search.py`` and what goes with it."""

from __future__ import annotations

import os
import sys

from merge_optuna import _supervision as supervision
from merge_optuna.cli import catalogue as _catalogue  # noqa: F401 - which adds its command
from merge_optuna.cli import comparing as _comparing  # noqa: F401 - which adds its command
from merge_optuna.cli import fronts as _fronts  # noqa: F401 - which adds its commands
from merge_optuna.cli import looking as _looking  # noqa: F401 - which adds its commands
from merge_optuna.cli import scoring as _scoring  # noqa: F401 - which adds its commands
from merge_optuna.cli.commands import app
from merge_optuna.errors import MergeOptunaError

__all__ = ["main"]


def main() -> None:
    """Entry point: errors of ours are one message without a traceback.

    A search runs in a process of its own, with this one looking after it.
    """
    arguments = command = sys.argv[1:]
    while command[:1] == ["--import"]:
        command = command[2:]
    if command[:1] == ["run"] and supervision.can_supervise(arguments):
        supervision.supervise([sys.executable, *sys.orig_argv[1:]], _fail_overdue)
    supervision.follow()
    _silence_bars()
    try:
        app()
    except MergeOptunaError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)


def _silence_bars() -> None:
    """In a file or a pipe the bars of transformers and datasets would be lines without end."""
    if not sys.stderr.isatty():
        for library in ("HF_HUB", "HF_DATASETS"):  # read when they are imported
            os.environ.setdefault(f"{library}_DISABLE_PROGRESS_BARS", "1")


def _fail_overdue(storage: str, study: str, trial: int, reason: str) -> bool:
    from merge_optuna.study import fail_overdue  # not before a trial is late

    return fail_overdue(storage, study, trial, reason)
