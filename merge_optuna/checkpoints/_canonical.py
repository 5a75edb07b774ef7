"""A checkpoint under the names that ``save_pretrained`` would give its tensors today.

Files on the hub are of all ages: names without the prefix of the headless model, LayerNorms with
``gamma`` and ``beta``, buffers that are no longer kept, a tied head written twice. transformers
mends all this while it loads a model; here the same is done to the names alone, so that such
checkpoints merge with each other and with newer ones.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import torch

from merge_optuna.checkpoints._config import architecture_of, read_config
from merge_optuna.checkpoints._digest import lines_of
from merge_optuna.checkpoints._folder import FolderStore
from merge_optuna.checkpoints._names import saved_names
from merge_optuna.checkpoints._store import Opened, OpenedUnderNames
from merge_optuna.errors import CheckpointError, few

# Buffers that older versions of transformers wrote and newer ones ignore.
_FORMER_BUFFERS = (r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$", r"\.masked_bias$")


class CanonicalStore(OpenedUnderNames):
    """Tensors of a folder under the names of today."""

    whole: FolderStore

    def weights(self) -> Iterable[str]:
        hashes = self.whole.hashes()
        return lines_of(self.specs(), {name: hashes[old] for name, old in self.names.items()})

    def reopen(self) -> None:
        """Under the same names as before.

        Raises:
            CheckpointError: If tensors are gone.
        """
        super().reopen()
        if lost := sorted(set(self.names.values()) - self.whole.specs().keys()):
            raise CheckpointError(f"{str(self.folder)!r} lacks {few(lost)} now.")
        self.config = self.whole.config


def canonical(store: FolderStore) -> Opened:
    """The store itself where its names are up to date, or a view of it under newer names.

    Left out is what transformers ignores without a word. Nothing is changed if transformers does
    not know the architecture.
    """
    config = store.config or {}
    names = list(store.specs())
    if config.get("quantization_config") or _is_plain_decoder(config, names):
        return store
    model = _on_meta(json.dumps(config, sort_keys=True))
    if model is None:
        return store
    found = _match(store, copy.copy(model))
    if found == {name: name for name in names}:
        return store
    return CanonicalStore(store, dict(sorted(found.items())), store.config)


def _is_plain_decoder(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether nothing can be amiss: saves most merges the seconds of importing transformers."""
    if not str((config.get("architectures") or [""])[0]).endswith("ForCausalLM"):
        return False
    untied = config.get("tie_word_embeddings") is False
    layers = set()
    for name in names:
        if match := re.match(r"model\.layers\.([0-9]{1,9})\.", name):
            layers.add(int(match[1]))
        elif not re.match(r"model\.(embed_tokens|norm)\.", name) and not (
            untied and name == "lm_head.weight"
        ):
            return False
    former = any(re.search(pattern, name) for name in names for pattern in _FORMER_BUFFERS)
    return not former and layers == set(range(config.get("num_hidden_layers") or 0))


@lru_cache(maxsize=4)
def _on_meta(text: str) -> Any:
    """The model of a config without weights; None if transformers cannot make it."""
    content = json.loads(text)
    architecture = None if "auto_map" in content else architecture_of(content)
    if architecture is None:
        return None
    try:
        config = read_config(architecture, content)
        with torch.device("meta"):
            return architecture(config)
    except Exception:  # the engine, which needs the model, says what is wrong with the config
        return None


def _match(store: FolderStore, model: Any) -> dict[str, str]:
    """The name in the store of each tensor, by what it is called today."""
    modern = _modern(store.specs())
    tied = saved_names(model, modern)
    prefix = f"{model.base_model_prefix}."
    ignored = [*_FORMER_BUFFERS, *(model._keys_to_ignore_on_load_unexpected or ())]
    found: dict[str, str] = {}
    surplus: dict[str, str] = {}
    for name, old in modern.items():
        candidates = (name, prefix + name, name.removeprefix(prefix))
        known = next((c for c in candidates if c in tied), None)
        if known is not None:
            found[known] = old
        elif not any(re.search(pattern, name) for pattern in ignored):
            surplus[name] = old  # whether it may be there is for the engine to say
    return _once(store, found, tied) | surplus


def _once(store: FolderStore, found: dict[str, str], tied: Mapping[str, str]) -> dict[str, str]:
    """Tied tensors under one name; apart if their values differ, as transformers leaves them."""
    kept = {first: found[first] for first in tied.values() if first in found}
    for name, first in tied.items():
        if name == first or name not in found:
            continue
        other = found[name]
        if not torch.equal(store.tensor(kept.setdefault(first, other)), store.tensor(other)):
            kept[name] = other
    return kept


def _modern(names: Iterable[str]) -> dict[str, str]:
    """Names after the renamings that transformers does for any model, each with the old one."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    renamings = get_checkpoint_conversion_mapping("legacy")
    modern = {}
    for old in names:
        name = old
        for renaming in renamings:
            name, _ = renaming.rename_source_key(name)
        modern[name] = old
    return modern
