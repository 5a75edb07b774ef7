"""Recipes whose numbers are fitted to data directly, without a search.

They return an ordinary recipe, to write, to score, or to free and search further.
"""

from __future__ import annotations

from merge_optuna.fitted._adamerging import adamerging
from merge_optuna.fitted._greedy_soup import chosen_greedily, greedy_soup

__all__ = ["adamerging", "chosen_greedily", "greedy_soup"]
