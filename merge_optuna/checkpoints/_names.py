"""The names that tensors have in a checkpoint, seen from a live module.

transformers renames, splits and stacks tensors while it loads a checkpoint (a ViT's
``encoder.layer.0.attention.attention.query`` becomes ``layers.0.attention.q_proj``, the experts
of a mixture are stacked into one parameter). Its own conversion, run backwards over the
parameters, gives views of them under checkpoint names: what is copied into them is in the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from merge_optuna.errors import CheckpointError, few


def is_pretrained(module: nn.Module) -> bool:
    """Whether ``module`` is a transformers ``PreTrainedModel`` (asked without importing it)."""
    return any(
        c.__name__ == "PreTrainedModel" and c.__module__.startswith("transformers.")
        for c in type(module).__mro__
    )


def checkpoint_views(module: nn.Module) -> dict[str, Tensor]:
    """Returns the module's state under checkpoint names, as views that share its memory.

    Tied tensors appear once, under the name that comes first in the module. Where a checkpoint
    holds in one tensor what the module holds in several (query, key and value), these parameters
    are moved into common memory.

    Raises:
        CheckpointError: If the checkpoint form of a tensor is not a view of live memory, so that
            it cannot be refilled in place.
    """
    live = without_aliases(module.state_dict(keep_vars=True))
    if not is_pretrained(module):
        return {name: tensor.detach() for name, tensor in live.items()}
    from transformers.core_model_loading import revert_weight_conversion

    with torch.no_grad(), _AsViews():
        views: dict[str, Tensor] = revert_weight_conversion(module, dict(live))
    memory = {_memory(tensor) for tensor in live.values()}
    copies = [name for name, view in views.items() if _memory(view) not in memory]
    if copies:
        raise CheckpointError(
            f"{type(module).__name__} keeps {len(copies)} tensors in another form than its "
            f"checkpoint and they cannot be refilled in place: {few(copies)}. "
            "Please report this architecture."
        )
    return {name: view.detach() for name, view in views.items()}


def without_aliases(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Drops entries that are not tensors and all but the first name of tied tensors."""
    seen: set[tuple[Any, ...]] = set()
    unique: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            continue
        place = (_memory(tensor), tensor.storage_offset(), tensor.shape, tensor.stride())
        if tensor.numel() == 0 or place not in seen:
            seen.add(place)
            unique[name] = tensor
    return unique


class _AsViews(TorchFunctionMode):
    """Lets a conversion give views where it would copy.

    Splitting makes its parts contiguous, which for a view means a copy: left out. Concatenating
    along the first dimension copies the parts into common memory: they stay there.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.contiguous:
            return args[0]
        result = func(*args, **(kwargs or {}))
        if func is torch.cat and (kwargs or {}).get("dim", 0) == 0:
            parts = result.split([len(part) for part in args[0]])
            for part, place in zip(args[0], parts, strict=True):
                part.data = place
        return result


def _memory(tensor: Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()
