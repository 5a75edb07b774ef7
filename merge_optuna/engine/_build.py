"""Builds the live model of an engine from the headers of a checkpoint; no weight is read."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from merge_optuna.checkpoints import (
    Checkpoint,
    checkpoint_views,
    is_pretrained,
    model_dtype,
    read_config,
)
from merge_optuna.errors import CheckpointError, few

_REMEDY = "Save the checkpoint again with save_pretrained()."


def build(
    frame: Checkpoint, dtype: torch.dtype | None, device: torch.device
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Returns a model with the tensors of ``frame``, and its memory under their names.

    The values of the tensors are undefined until they are copied into these views. What no
    checkpoint holds (rotary frequencies, the generation config, ties) is as ``from_pretrained()``
    makes it. Tensors that the class has no place for have a view on the device ``meta``, which
    swallows what is copied into it.

    Args:
        frame: The checkpoint whose config, names, shapes and data types the model has.
        dtype: Of the model; that of the checkpoint when omitted.
        device: Of the model.

    Raises:
        CheckpointError: If there is no such architecture, or its tensors are not the frame's.
    """
    if frame.module is not None:
        model = _cast(copy.deepcopy(frame.module), dtype).to(device)
    else:
        model = _unfilled(frame, dtype, device)
    model.eval().requires_grad_(False)
    views = _under_names_of(frame, model)
    check_names(frame, views, _REMEDY)
    return model, views


def check_names(frame: Checkpoint, views: dict[str, Tensor], remedy: str) -> None:
    """Every tensor of ``frame`` has a place, and no place keeps what it held before.

    Raises:
        CheckpointError: Ending with ``remedy``.
    """
    live = {name: tuple(view.shape) for name, view in views.items()}
    given = {name: frame.shape(name) for name in frame.names()}
    wrong = sorted(n for n in live.keys() | given.keys() if live.get(n) != given.get(n))
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} tensors are missing or have another shape in {frame.name!r} or in the "
            f"live model: {few(wrong)}. {remedy}"
        )


def _cast(model: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """Casts a model as transformers does: buffers outside the checkpoint stay exact.

    Rotary frequencies in bfloat16 would be another model.
    """
    outside = dict(model.named_buffers()) if is_pretrained(model) else {}
    for name in model.state_dict():
        outside.pop(name, None)
    model.to(dtype)
    for name, buffer in outside.items():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, buffer)
    return model


def _unfilled(frame: Checkpoint, dtype: torch.dtype | None, device: torch.device) -> nn.Module:
    """What from_pretrained() makes of the frame, but for the values of its tensors.

    It gets tensors that repeat one number, so that they take no memory. The number is NaN, which
    equals nothing: where a checkpoint holds two tied tensors they stay apart, as a merge need
    not leave them equal.
    """
    architecture = architecture_in(frame)
    state = {
        name: torch.full((), _any_value(own), dtype=own).expand(frame.shape(name))
        for name in frame.names()
        for own in [frame.dtype(name)]
    }
    model: nn.Module
    try:
        model, info = architecture.from_pretrained(
            None,
            config=read_config(architecture, frame.config or {}),
            state_dict=state,
            dtype=dtype or model_dtype(frame.config, frame.store.specs()),
            generation_config=generation_config_in(frame, architecture),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # whatever comes to its mind when a setting is wrong
        raise CheckpointError(
            f"transformers cannot make a {architecture.__name__} of the config.json of "
            f"{frame.name!r} ({frame.ref}): {type(error).__name__}: {error}. Restore the file."
        ) from error
    wrong = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} tensors of {architecture.__name__} are missing or have another shape "
            f"in {frame.name!r} ({frame.ref}): {few(sorted(wrong))}. {_REMEDY}"
        )
    # where evaluators look for a tokenizer or an image processor
    named: Any = model
    named.config.name_or_path = named.name_or_path = str(frame.folder or "")
    for tensor in model.state_dict(keep_vars=True).values():
        tensor.data = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    return model.to(device)


def _any_value(dtype: torch.dtype) -> float:
    return float("nan") if dtype.is_floating_point else 0


def architecture_in(frame: Checkpoint) -> Any:
    """The transformers class that the config names."""
    config = frame.config or {}
    names = config.get("architectures") or []
    if not names:
        raise CheckpointError(
            f"The config.json of {frame.ref!r} is missing or names no architecture, so no model "
            "can be built. Use mo.Checkpoint.from_module(module, name=...)."
        )
    import transformers

    architecture = getattr(transformers, names[0], None)
    if architecture is not None:
        return architecture
    if config.get("auto_map"):
        raise CheckpointError(
            f"{names[0]} of {frame.ref!r} is code that comes with the checkpoint, which is not "
            "run. Load the model yourself and use mo.Checkpoint.from_module(module, name=...)."
        )
    raise CheckpointError(
        f"transformers {transformers.__version__} has no {names[0]}, which {frame.ref!r} needs. "
        "Update transformers, or use mo.Checkpoint.from_module."
    )


def generation_config_in(frame: Checkpoint, architecture: Any) -> Any:
    """From its file, else, for old checkpoints, from what ``config.json`` says of generation."""
    if not architecture.can_generate():
        return None
    from transformers import GenerationConfig

    if frame.folder is not None and (frame.folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(frame.folder, local_files_only=True)
    return GenerationConfig.from_model_config(frame.config)


def _under_names_of(frame: Checkpoint, model: nn.Module) -> dict[str, Tensor]:
    """The views of a model, and places for those that transformers is right to ignore."""
    views = checkpoint_views(model)
    ignored = [] if frame.module is not None else _ignored(frame, views)
    if ignored:
        warnings.warn(
            f"{type(model).__name__} has no place for {len(ignored)} tensors of {frame.name!r}: "
            f"{few(ignored)}. They are written to a merged checkpoint but not evaluated.",
            stacklevel=4,
        )
        views |= {name: torch.empty(frame.shape(name), device="meta") for name in ignored}
    return views


def _ignored(frame: Checkpoint, views: Collection[str]) -> list[str]:
    """Whole modules that the class lacks, such as the pooler of a BERT in a masked language model.

    But not further layers, and not further tensors of a module that it has.
    """
    modules = {name.rpartition(".")[0] for name in views}
    kinds = {_kind(name) for name in views}
    return [
        name
        for name in frame.names()
        if name.rpartition(".")[0] not in modules and _kind(name) not in kinds
    ]


def ignored_in(frame: Checkpoint) -> list[str]:
    """The tensors of a checkpoint that have no place in its model, and so in no score."""
    if frame.module is not None:
        return []
    return _ignored(frame, checkpoint_views(_unfilled(frame, None, torch.device("cpu"))))


def _kind(name: str) -> str:
    """The name without the number of its layer."""
    return re.sub(r"\.\d+\.", ".#.", name)
