"""What a search looks like: cards, notes and artifacts in the dashboard, and a page."""

from __future__ import annotations

from merge_optuna.reports._cards import figures
from merge_optuna.reports._dashboard import artifact_folder, serve
from merge_optuna.reports._page import save_html

__all__ = ["artifact_folder", "figures", "save_html", "serve"]
