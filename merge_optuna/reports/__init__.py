"""What a search looks like: cards, notes and artifacts in the dashboard, and a page."""

from __future__ import annotations

from merge_optuna.reports._cards import figures
from merge_optuna.reports._reporter import Reporter, refresh, reporter
from merge_optuna.reports._reports import Reports, as_reports

__all__ = ["Reporter", "Reports", "as_reports", "figures", "refresh", "reporter"]
