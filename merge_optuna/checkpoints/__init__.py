"""Where weights come from and go to: local folders, modules in memory, the writer."""

from __future__ import annotations

from merge_optuna.checkpoints._aligned import aligned_vocabulary
from merge_optuna.checkpoints._blocks import (
    ATTENTION,
    NUMBERED,
    block_of,
    find_stacks,
    is_embedding,
    renumbered,
)
from merge_optuna.checkpoints._cache import cache_root
from merge_optuna.checkpoints._checkpoint import Checkpoint
from merge_optuna.checkpoints._config import read_config
from merge_optuna.checkpoints._digest import texts_digest
from merge_optuna.checkpoints._dtype import model_dtype
from merge_optuna.checkpoints._layers import LayerStore, StackStore
from merge_optuna.checkpoints._names import checkpoint_views, is_pretrained
from merge_optuna.checkpoints._parts import ModuleOfModel, own_names
from merge_optuna.checkpoints._push import check_push, push
from merge_optuna.checkpoints._threads import for_each
from merge_optuna.checkpoints._token_rows import vocab_size
from merge_optuna.checkpoints._tokenizers import chat_template_of
from merge_optuna.checkpoints._vocabulary import ZERO, TokenRow, Vocabulary
from merge_optuna.checkpoints._watch import renew, steadily
from merge_optuna.checkpoints._writer import TensorSpec, WritePlan, write_checkpoint

__all__ = [
    "ATTENTION",
    "NUMBERED",
    "ZERO",
    "Checkpoint",
    "LayerStore",
    "ModuleOfModel",
    "StackStore",
    "TensorSpec",
    "TokenRow",
    "Vocabulary",
    "WritePlan",
    "aligned_vocabulary",
    "block_of",
    "cache_root",
    "chat_template_of",
    "check_push",
    "checkpoint_views",
    "find_stacks",
    "for_each",
    "is_embedding",
    "is_pretrained",
    "model_dtype",
    "own_names",
    "push",
    "read_config",
    "renew",
    "renumbered",
    "steadily",
    "texts_digest",
    "vocab_size",
    "write_checkpoint",
]
