"""What a search looks like: cards, notes and artifacts in the dashboard, and a page."""

from __future__ import annotations

from merge_optuna.reports._cards import figures

__all__ = ["figures"]
