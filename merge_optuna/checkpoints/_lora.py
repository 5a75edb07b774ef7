"""LoRA and rsLoRA adapters (Hu et al. 2021; Kalajdzievski 2023), merged lazily.

W + scale · B · A is computed when a tensor is asked for and not kept, so an adapter costs its own
size, never that of its base.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from merge_optuna.checkpoints._adapter import CONFIG, Adapter, AdapterStore
from merge_optuna.checkpoints._names import MatchedNames
from merge_optuna.checkpoints._store import Store
from merge_optuna.errors import CheckpointError, CheckpointMismatch, few, shown

_PREFIX = "base_model.model."
_LOW_RANK = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.default)?(?:\.weight)?")
_WRAPPERS = re.compile(r"\.(base_layer|modules_to_save(\.default)?)(?=\.)")

# Settings under which a merge is more than W + scale · B · A, or the base is not what it was.
_VARIANTS = (
    *("alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "lora_bias"),
    *("monteclora_config", "target_parameters", "trainable_token_indices", "use_bdlora"),
    *("use_dora", "use_qalora", "velora_config"),
)
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


def is_plain_lora(adapter: Adapter) -> bool:
    """Whether an adapter is W + scale · B · A on some tensors and replaces others."""
    config = adapter.settings
    return (
        config.get("peft_type") == "LORA"
        and not any(config.get(key) for key in _VARIANTS)
        and config.get("init_lora_weights", True) in _PLAIN_STARTS
        and not any("lora_" in key and not _LOW_RANK.fullmatch(key) for key in adapter.specs())
    )


@dataclass(frozen=True)
class _Update:
    """scale · B · A for one tensor, by the names of A and B in the adapter's file."""

    a: str
    b: str
    scale: float
    embedding: bool = False
    transposed: bool = False

    def add_to(self, weight: Tensor, adapter: Adapter) -> Tensor:
        """W + scale · B · A, in place of one copy of W."""
        wide = torch.promote_types(weight.dtype, torch.float32)
        result = weight.to(wide, copy=True, memory_format=torch.contiguous_format)
        # a convolution's A is (rank, in, height, width) and its B (out, rank, 1, 1)
        a = adapter.tensor(self.a).to(wide).flatten(1)
        b = adapter.tensor(self.b).to(wide).flatten(1)
        if self.transposed:
            result.addmm_(a.T, b.T, alpha=self.scale)
        else:
            result.view(len(b), -1).addmm_(b, a, alpha=self.scale)
        return result


class LoraStore(AdapterStore):
    """A base with a LoRA adapter on some of its tensors; the others are the base's own.

    Raises:
        CheckpointMismatch: If tensors of the adapter match none of the base's, or in another
            shape.
    """

    def __init__(self, base: Store, adapter: Adapter, base_digest: Callable[[str], str]) -> None:
        super().__init__(base, adapter, base_digest)
        _check_settings(adapter)
        names = MatchedNames(base.specs(), base.config)
        updates, replaced = _read_keys(adapter)
        unmatched: list[str] = []
        self._updates: dict[str, _Update] = {}
        for module, update in updates.items():
            name = names.of(f"{module}.weight")
            if name is None:
                unmatched.append(update.a)
            else:
                self._updates[name] = update
        self._replaced: dict[str, str] = {}
        for tensor, key in replaced.items():
            name = names.of(tensor)
            if name is not None:
                self._replaced[name] = key
            elif not self._is_tied_twin(key, replaced.values()):
                unmatched.append(key)
        if unmatched:
            raise CheckpointMismatch(
                f"{len(unmatched)} of {len(adapter.specs())} tensors of the adapter "
                f"{str(adapter.folder)!r} match no tensor of its base: {few(sorted(unmatched))}. "
                f"The base has {few(list(base.specs()), 5)}. Pass the model that the adapter was "
                "trained on, with its head: mo.Checkpoint(adapter, base=mo.Checkpoint(...))."
            )
        self._fit_updates()
        self._check_replaced()

    def tensor(self, name: str) -> Tensor:
        key, update = self._replaced.get(name), self._updates.get(name)
        weight = self.base.tensor(name) if key is None else self.adapter.tensor(key)
        return weight if update is None else update.add_to(weight, self.adapter)

    def _is_tied_twin(self, key: str, keys: Iterable[str]) -> bool:
        """Whether a tensor is another one once more: tied weights that peft has saved twice."""
        shape = self.adapter.shape(key)
        twins = (other for other in keys if other != key and self.adapter.shape(other) == shape)
        return any(torch.equal(self.adapter.tensor(key), self.adapter.tensor(t)) for t in twins)

    def _fit_updates(self) -> None:
        """Finds out which weights are stored as (in, out), as in GPT-2's Conv1D."""
        fits = {name: self._fit(name, update) for name, update in self._updates.items()}
        wrong = [
            f"{name} {self.base.specs()[name][1]} and A {self.adapter.shape(update.a)}, "
            f"B {self.adapter.shape(update.b)}"
            for name, update in self._updates.items()
            if not fits[name]
        ]
        if wrong:
            raise CheckpointMismatch(
                f"{len(wrong)} tensors of the adapter {str(self.adapter.folder)!r} do not fit its "
                f"base: {few(wrong)}. Pass the model that the adapter was trained on: "
                "mo.Checkpoint(adapter, base=mo.Checkpoint(...))."
            )
        # The shape says it, except for square weights: those are as the config says or, since old
        # configs forget to say it, as the others.
        linear = [fits[name] for name, update in self._updates.items() if not update.embedding]
        conv1d = bool(self.adapter.settings.get("fan_in_fan_out")) or [True] in linear
        for name, update in self._updates.items():
            transposed = fits[name] == [True] or (conv1d and not update.embedding)
            if transposed and True in fits[name]:
                self._updates[name] = replace(update, transposed=True)

    def _fit(self, name: str, update: _Update) -> list[bool]:
        """Whether B · A can be added as it is (False), transposed (True), or both."""
        shape = self.base.specs()[name][1]
        a, b = self.adapter.shape(update.a), self.adapter.shape(update.b)
        if a[0] != b[1]:
            return []
        plain = shape == (b[0], *a[1:]) and not update.embedding
        transposed = len(a) == 2 and shape == (a[1], b[0])
        return [False] * plain + [True] * transposed

    def _check_replaced(self) -> None:
        specs = self.base.specs()
        wrong = [
            f"{name} {self.adapter.shape(key)} != {specs[name][1]}"
            for name, key in self._replaced.items()
            if self.adapter.shape(key) != specs[name][1]
        ]
        if wrong:
            raise CheckpointMismatch(
                f"The adapter {str(self.adapter.folder)!r} replaces {len(wrong)} tensors of its "
                f"base by others of another shape: {few(wrong)}. If tokens were added before "
                "training, save the base with them (resize_token_embeddings, save_pretrained) and "
                "pass it: mo.Checkpoint(adapter, base=mo.Checkpoint(...))."
            )


def _read_keys(adapter: Adapter) -> tuple[dict[str, _Update], dict[str, str]]:
    """Updates by module, and the keys of whole tensors by the tensor that they replace."""
    pairs: dict[str, dict[str, str]] = {}
    embeddings: set[str] = set()
    replaced: dict[str, str] = {}
    for key in adapter.specs():
        inner = key.removeprefix(_PREFIX)
        found = _LOW_RANK.fullmatch(inner)
        if found is None and ".original_module." in inner:
            continue  # what modules_to_save has replaced; bias="all" saves it too
        if found is None:
            replaced[_WRAPPERS.sub("", inner)] = key
            continue
        module, embedding, matrix = found.groups()
        pairs.setdefault(module, {})[matrix] = key
        if embedding:
            embeddings.add(module)
    alone = [key for pair in pairs.values() for key in pair.values() if len(pair) != 2]
    if alone:
        raise CheckpointError(
            f"{len(alone)} tensors of the adapter {str(adapter.folder)!r} lack their other half "
            f"(A or B): {few(alone)}. Copy or download it again."
        )
    updates = {
        module: _Update(
            pair["A"],
            pair["B"],
            _scale(adapter.settings, module, rank=adapter.shape(pair["A"])[0]),
            embedding=module in embeddings,
        )
        for module, pair in pairs.items()
    }
    return updates, replaced


def _scale(config: dict[str, Any], module: str, rank: int) -> float:
    """lora_alpha ÷ rank, or ÷ √rank for rsLoRA; ``rank_pattern`` shows in the shape of A."""
    alpha = config.get("lora_alpha", 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            alpha = value
            break
    return float(alpha) / (sqrt(rank) if config.get("use_rslora") else rank)


def _check_settings(adapter: Adapter) -> None:
    """Checks the settings that count here; peft checks none of them either.

    Raises:
        CheckpointError: If an alpha is no number, or a pattern none that is matched at once.
    """
    config, file = adapter.settings, adapter.folder / CONFIG
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise CheckpointError(
            f"alpha_pattern in {file} must be a table, not {shown(patterns)}. Restore the file."
        )
    for key, alpha in {"lora_alpha": config.get("lora_alpha", 8), **patterns}.items():
        is_number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
        if not is_number or not abs(alpha) <= sys.float_info.max:
            raise CheckpointError(
                f"{shown(key)} in {file} must be a number, not {shown(alpha)}. Restore the file."
            )
    for pattern in patterns:
        # A repeated group can take for ever: (a|.)*
        if len(pattern) > 1000 or re.search(r"\)[*+?{]", pattern) or not _compiles(pattern):
            raise CheckpointError(
                f"alpha_pattern in {file} has {shown(pattern)}, which is no pattern of names. "
                "Restore the file."
            )
    empty = [key for key in adapter.specs() if 0 in adapter.shape(key)]
    if empty:
        raise CheckpointError(f"{few(empty)} of the adapter in {adapter.folder} have rank 0.")


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True
