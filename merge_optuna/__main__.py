"""``python -m merge_optuna`` is the command ``merge-optuna``."""

from __future__ import annotations

from merge_optuna.cli import main

main()
