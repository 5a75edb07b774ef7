"""What the server of tests/processes.py loads before it forks: what every search needs.

Libraries import much, and build tables, at their first use: over a second for each process that
begins without. Nothing of merge_optuna has run.
"""

from __future__ import annotations

import gc
import importlib

import numba
import torch
from optuna.storages import RDBStorage
from transformers import conversion_mapping

from tests import revisions

for name in (
    "cmaes",
    "merge_optuna.cli",
    "merge_optuna.engine.fused",
    "merge_optuna.presets",
    "merge_optuna.study._database",
    "plotly.graph_objects",
    "rich.progress",
    "tests.trained",
):
    importlib.import_module(name)

torch.set_num_threads(1)


@numba.njit  # type: ignore[untyped-decorator]
def _nothing() -> None:
    """To compile it loads what numba needs for a kernel from its cache."""


_nothing()
revisions.load_once()
RDBStorage("sqlite://").engine.dispose()
conversion_mapping.get_checkpoint_conversion_mapping("bert")
gc.collect()
gc.freeze()  # the collections of a child would go through all that, and copy its pages
