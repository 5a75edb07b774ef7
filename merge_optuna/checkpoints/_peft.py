"""Adapters that are more than W + scale · B · A, merged once by the peft library."""

from __future__ import annotations

import copy
import importlib.util
import threading
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from merge_optuna.checkpoints._adapter import Adapter, AdapterStore
from merge_optuna.checkpoints._config import architecture_of
from merge_optuna.checkpoints._names import checkpoint_views
from merge_optuna.checkpoints._store import ModuleStore, Store
from merge_optuna.errors import CheckpointError, CheckpointMismatch, few

_PROMPTS = ("ADAPTION_PROMPT", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")


class PeftStore(AdapterStore):
    """A base with any adapter of peft: DoRA, LoHa, LoKr, IA3, ...

    At the first tensor the base is loaded in float32, peft merges the adapter into it
    (``merge_and_unload``), and the result stays in memory: a full copy of the model. A copy or a
    pickle of the store does it again.
    """

    def __init__(self, base: Store, adapter: Adapter, base_digest: Callable[[str], str]) -> None:
        super().__init__(base, adapter, base_digest)
        kind = str(adapter.settings.get("peft_type"))
        if kind in _PROMPTS or "PROMPT" in kind:
            raise CheckpointError(
                f"The adapter {str(adapter.folder)!r} is {kind}: it adds tokens or activations "
                "and changes no weight, so there is nothing to merge."
            )
        if importlib.util.find_spec("peft") is None:
            raise CheckpointError(
                f"The adapter {str(adapter.folder)!r} is {_described(adapter)}, which only peft "
                "can merge. Run: pip install 'merge_optuna[peft]'"
            )

        self._lock = threading.Lock()

    def tensor(self, name: str) -> Tensor:
        with self._lock:  # tensors are asked for by several threads at once
            return self._merged[name]

    def reopen(self) -> None:
        super().reopen()
        with self._lock:
            self.__dict__.pop("_merged", None)

    @cached_property
    def _merged(self) -> dict[str, Tensor]:
        from peft import PeftModel

        size = sum(4 * torch.Size(shape).numel() for _, shape in self.base.specs().values())
        warnings.warn(
            f"The adapter {str(self.adapter.folder)!r} is {_described(self.adapter)}: it is "
            f"merged by peft into a copy of its base in float32, {size / 1e9:.2g} GB of memory.",
            stacklevel=2,
        )
        live = _live_model(self.base)
        try:
            model = PeftModel.from_pretrained(live, str(self.adapter.folder))
            merged = model.merge_and_unload().requires_grad_(False)
        except (LookupError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"peft cannot merge the adapter {str(self.adapter.folder)!r} into its base: "
                f"{type(error).__name__}: {error}. Check its adapter_config.json."
            ) from error
        views = checkpoint_views(merged)
        names = self.base.specs().keys()
        if missing := sorted(names - views.keys()):
            raise CheckpointMismatch(
                f"After the merge by peft {len(missing)} tensors of the base are missing: "
                f"{few(missing)}. Save the base again with save_pretrained()."
            )
        return {name: view for name, view in views.items() if name in names}


def _described(adapter: Adapter) -> str:
    config = adapter.settings
    if config.get("use_dora"):
        return "DoRA"
    start = config.get("init_lora_weights", True)
    kind = f"{config.get('peft_type')}"
    return f"{kind} with init_lora_weights={start!r}" if isinstance(start, str) else kind


def _live_model(base: Store) -> Any:
    """The base as a live model in float32, a copy."""
    if isinstance(base, ModuleStore):
        return copy.deepcopy(base.module).float()
    architecture = architecture_of(base.config)
    if architecture is None:
        import transformers

        [name, *_] = (base.config or {}).get("architectures") or [""]
        raise CheckpointError(
            f"transformers {transformers.__version__} has no model {name!r}, which the base of "
            "this adapter needs. Merge it yourself (peft: merge_and_unload) and pass "
            "mo.Checkpoint.from_module(model, name=...)."
        )
    # a copy also of float32 tensors: the model takes them as they are and is written to
    state = {name: base.tensor(name).to(torch.float32, copy=True) for name in base.specs()}
    return architecture.from_pretrained(
        None,
        config=architecture.config_class.from_dict(base.config),
        state_dict=state,
        dtype=torch.float32,
    )
