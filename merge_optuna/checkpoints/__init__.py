"""Where weights come from and go to: local folders, modules in memory, the writer."""

from __future__ import annotations

from merge_optuna.checkpoints._checkpoint import Checkpoint
from merge_optuna.checkpoints._config import read_config
from merge_optuna.checkpoints._dtype import model_dtype
from merge_optuna.checkpoints._names import checkpoint_views, is_pretrained
from merge_optuna.checkpoints._parts import own_names
from merge_optuna.checkpoints._push import check_push, push
from merge_optuna.checkpoints._threads import for_each
from merge_optuna.checkpoints._writer import TensorSpec, WritePlan, write_checkpoint

__all__ = [
    "Checkpoint",
    "TensorSpec",
    "WritePlan",
    "check_push",
    "checkpoint_views",
    "for_each",
    "is_pretrained",
    "model_dtype",
    "own_names",
    "push",
    "read_config",
    "write_checkpoint",
]
