"""The command line: ``merge-optuna run search.py`` and what goes with it."""

from __future__ import annotations

from merge_optuna.cli.commands import main

__all__ = ["main"]
