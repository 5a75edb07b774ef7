"""What a search looks like: cards, notes and artifacts in the dashboard, and a page."""

from __future__ import annotations

from merge_optuna.reports._cards import figures
from merge_optuna.reports._dashboard import serve
from merge_optuna.reports._page import save_html
from merge_optuna.reports._reporter import Reporter, note_again, refresh, reporter
from merge_optuna.reports._reports import Reports, artifacts_beside, as_reports

__all__ = [
    "Reporter",
    "Reports",
    "artifacts_beside",
    "as_reports",
    "figures",
    "note_again",
    "refresh",
    "reporter",
    "save_html",
    "serve",
]
