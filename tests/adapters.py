"""Adapters made, saved and merged by peft itself."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import merge_optuna as mo


def save_adapter(
    model: nn.Module, config: peft.PeftConfig, folder: Path, *, seed: int = 0, base: str = ""
) -> Path:
    """Saves an adapter of the model with random weights everywhere, as after training.

    ``base`` is what is recorded as the base.
    """
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        made = peft.get_peft_model(copy.deepcopy(model), copy.deepcopy(config))
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn(parameter.shape)
        made.peft_config["default"].base_model_name_or_path = base
        made.save_pretrained(folder)
    return folder


def merged_by_peft(model: nn.Module, adapter: Path) -> nn.Module:
    """A copy of the model with the adapter, as peft merges it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = peft.PeftModel.from_pretrained(copy.deepcopy(model), str(adapter))
        merged: nn.Module = made.merge_and_unload()
    return merged


def saved(model: Any, folder: Path) -> dict[str, Tensor]:
    """The tensors that transformers writes."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def lora_family(root: Path, model: nn.Module, targets: list[str]) -> list[mo.Checkpoint]:
    """A base and two LoRA adapters on it, which name their base."""
    model.save_pretrained(root / "base")
    base = mo.Checkpoint(root / "base", name="base")
    configs = [
        peft.LoraConfig(r=2, lora_alpha=3, target_modules=targets),
        peft.LoraConfig(r=3, lora_alpha=2, target_modules=targets[:1], use_rslora=True),
    ]
    folders = [
        save_adapter(model, config, root / f"lora{i}", seed=i, base=base.ref)
        for i, config in enumerate(configs)
    ]
    return [base, *(mo.Checkpoint(folder, name=folder.name) for folder in folders)]
