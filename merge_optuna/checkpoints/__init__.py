"""Where weights come from and go to: local folders, models on the hub, modules in memory.

A checkpoint is a value (``_checkpoint``). Its ``Source`` (``_source``) keeps what was opened, a
``Store`` (``_store``): a folder (``_folder``, ``_tensor_files``) under the names of today
(``_canonical``), or an adapter on a base (``_adapter``). Layers (``_layers``), modules
(``_parts``) and views through a config, a vocabulary or other names (``_views``, ``_aligned``,
``_bodies``) are made of others. ``_digest`` says what a content is known by, ``_files`` whether
it has changed; ``_writer`` and ``_target`` write.
"""

from __future__ import annotations

from merge_optuna.checkpoints._aligned import aligned_vocabulary
from merge_optuna.checkpoints._bodies import base_model_prefix, body_in, named_as
from merge_optuna.checkpoints._checkpoint import Checkpoint, is_name
from merge_optuna.checkpoints._config import model_dtype, read_config
from merge_optuna.checkpoints._digest import texts_digest
from merge_optuna.checkpoints._files import bytes_of, cache_root, hex_digest
from merge_optuna.checkpoints._hub import check_push, push
from merge_optuna.checkpoints._layers import (
    ATTENTION,
    NUMBERED,
    LayerStore,
    StackStore,
    block_of,
    find_stacks,
    is_embedding,
    renumbered,
)
from merge_optuna.checkpoints._licence import Licence, licence_of
from merge_optuna.checkpoints._meaning import Setting, differing
from merge_optuna.checkpoints._names import checkpoint_views, is_pretrained, without_aliases
from merge_optuna.checkpoints._parts import ModuleOfModel, own_names
from merge_optuna.checkpoints._source import is_hub, renew, steadily
from merge_optuna.checkpoints._target import (
    check_target,
    clear_leftovers,
    remove_written,
)
from merge_optuna.checkpoints._threads import for_each
from merge_optuna.checkpoints._token_ids import rows_of_other_tokens
from merge_optuna.checkpoints._token_rows import has_token_rows, vocab_size
from merge_optuna.checkpoints._tokenizers import (
    BY_ID,
    ZERO,
    TokenRow,
    Vocabulary,
    chat_template_of,
)
from merge_optuna.checkpoints._views import configured
from merge_optuna.checkpoints._writer import (
    Parts,
    TensorSpec,
    WritePlan,
    write_checkpoint,
    write_checkpoints,
)

__all__ = [
    "ATTENTION",
    "BY_ID",
    "NUMBERED",
    "ZERO",
    "Checkpoint",
    "LayerStore",
    "Licence",
    "ModuleOfModel",
    "Parts",
    "Setting",
    "StackStore",
    "TensorSpec",
    "TokenRow",
    "Vocabulary",
    "WritePlan",
    "aligned_vocabulary",
    "base_model_prefix",
    "block_of",
    "body_in",
    "bytes_of",
    "cache_root",
    "chat_template_of",
    "check_push",
    "check_target",
    "checkpoint_views",
    "clear_leftovers",
    "configured",
    "differing",
    "find_stacks",
    "for_each",
    "has_token_rows",
    "hex_digest",
    "is_embedding",
    "is_hub",
    "is_name",
    "is_pretrained",
    "licence_of",
    "model_dtype",
    "named_as",
    "own_names",
    "push",
    "read_config",
    "remove_written",
    "renew",
    "renumbered",
    "rows_of_other_tokens",
    "steadily",
    "texts_digest",
    "vocab_size",
    "without_aliases",
    "write_checkpoint",
    "write_checkpoints",
]
