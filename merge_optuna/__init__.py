"""Search for the best merge of several fine-tuned models with Optuna.

Everything public is reachable from here and imported on first use, so that
``import merge_optuna`` loads neither torch nor transformers nor datasets.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from merge_optuna._version import __version__

if TYPE_CHECKING:
    from merge_optuna import (
        callbacks,
        engine,
        errors,
        evaluators,
        mergekit,
        methods,
        presets,
        recipes,
        samplers,
        spaces,
        statistics,
    )
    from merge_optuna.checkpoints import Checkpoint, TokenRow, Vocabulary, push
    from merge_optuna.engine import Engine, write
    from merge_optuna.fitted import adamerging, greedy_soup
    from merge_optuna.recipes import Recipe, depth, free, per_group
    from merge_optuna.study import (
        MergeObjective,
        MergeStudy,
        export,
        lineage,
        optimize,
        recipe_of,
        remaining,
        scores,
        set_scores,
        storage,
    )

_MODULES = (
    "callbacks",
    "engine",
    "errors",
    "evaluators",
    "mergekit",
    "methods",
    "presets",
    "recipes",
    "samplers",
    "spaces",
    "statistics",
)
_NAMES = {
    "Checkpoint": "checkpoints",
    "push": "checkpoints",
    "TokenRow": "checkpoints",
    "Vocabulary": "checkpoints",
    "Engine": "engine",
    "write": "engine",
    "adamerging": "fitted",
    "greedy_soup": "fitted",
    "Recipe": "recipes",
    "depth": "recipes",
    "free": "recipes",
    "per_group": "recipes",
    "MergeObjective": "study",
    "MergeStudy": "study",
    "export": "study",
    "lineage": "study",
    "optimize": "study",
    "recipe_of": "study",
    "remaining": "study",
    "scores": "study",
    "set_scores": "study",
    "storage": "study",
}

__all__ = [
    "Checkpoint",
    "Engine",
    "MergeObjective",
    "MergeStudy",
    "Recipe",
    "TokenRow",
    "Vocabulary",
    "__version__",
    "adamerging",
    "callbacks",
    "depth",
    "engine",
    "errors",
    "evaluators",
    "export",
    "free",
    "greedy_soup",
    "lineage",
    "mergekit",
    "methods",
    "optimize",
    "per_group",
    "presets",
    "push",
    "recipe_of",
    "recipes",
    "remaining",
    "samplers",
    "scores",
    "set_scores",
    "spaces",
    "statistics",
    "storage",
    "write",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
