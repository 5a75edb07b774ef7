"""Search for the best merge of several fine-tuned models with Optuna.

Everything public is reachable from here and imported on first use, so that
``import merge_optuna`` loads neither torch nor transformers nor datasets.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from merge_optuna._version import __version__ as __version__

if TYPE_CHECKING:
    from merge_optuna import callbacks as callbacks
    from merge_optuna import engine as engine
    from merge_optuna import errors as errors
    from merge_optuna import evaluators as evaluators
    from merge_optuna import mergekit as mergekit
    from merge_optuna import methods as methods
    from merge_optuna import presets as presets
    from merge_optuna import recipes as recipes
    from merge_optuna import reports as reports
    from merge_optuna import samplers as samplers
    from merge_optuna import spaces as spaces
    from merge_optuna import statistics as statistics
    from merge_optuna.checkpoints import Checkpoint as Checkpoint
    from merge_optuna.checkpoints import TokenRow as TokenRow
    from merge_optuna.checkpoints import Vocabulary as Vocabulary
    from merge_optuna.checkpoints import push as push
    from merge_optuna.engine import Engine as Engine
    from merge_optuna.engine import write as write
    from merge_optuna.fitted import adamerging as adamerging
    from merge_optuna.fitted import greedy_soup as greedy_soup
    from merge_optuna.recipes import Recipe as Recipe
    from merge_optuna.recipes import depth as depth
    from merge_optuna.recipes import free as free
    from merge_optuna.recipes import per_group as per_group
    from merge_optuna.search import MergeStudy as MergeStudy
    from merge_optuna.search import greedy_path as greedy_path
    from merge_optuna.search import optimize as optimize
    from merge_optuna.search import scan as scan
    from merge_optuna.spaces import layer_prior as layer_prior
    from merge_optuna.study import MergeObjective as MergeObjective
    from merge_optuna.study import baselines as baselines
    from merge_optuna.study import export as export
    from merge_optuna.study import export_front as export_front
    from merge_optuna.study import leaderboard as leaderboard
    from merge_optuna.study import lineage as lineage
    from merge_optuna.study import pareto as pareto
    from merge_optuna.study import recipe_of as recipe_of
    from merge_optuna.study import remaining as remaining
    from merge_optuna.study import scores as scores
    from merge_optuna.study import set_scores as set_scores
    from merge_optuna.study import storage as storage

_MODULES = (
    *("callbacks", "engine", "errors", "evaluators", "mergekit", "methods"),
    *("presets", "recipes", "reports", "samplers", "spaces", "statistics"),
)
_NAMES = {
    **dict.fromkeys(("Checkpoint", "TokenRow", "Vocabulary", "push"), "checkpoints"),
    **dict.fromkeys(("Engine", "write"), "engine"),
    **dict.fromkeys(("adamerging", "greedy_soup"), "fitted"),
    **dict.fromkeys(("Recipe", "depth", "free", "per_group"), "recipes"),
    **dict.fromkeys(("MergeObjective", "export", "lineage"), "study"),
    "layer_prior": "spaces",
    **dict.fromkeys(("MergeStudy", "greedy_path", "optimize", "scan"), "search"),
    **dict.fromkeys(("baselines", "export_front", "leaderboard", "pareto"), "study"),
    **dict.fromkeys(("recipe_of", "remaining", "scores", "set_scores", "storage"), "study"),
}
"""Public name -> the package that it is imported from."""

__all__ = ["__version__", *_MODULES, *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
