"""The names that tensors have in a checkpoint, seen from a live module.

transformers renames, splits and stacks tensors while it loads a checkpoint (a ViT's
``encoder.layer.0.attention.attention.query`` becomes ``layers.0.attention.q_proj``, the experts
of a mixture are stacked into one parameter). Its own conversion, run backwards over the
parameters, gives views of them under checkpoint names: what is copied into them is in the model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from merge_optuna.checkpoints._config import architecture_of
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
        views: dict[str, Tensor] = revert_weight_conversion(_without_legacy(module), dict(live))
    memory = {_memory(tensor) for tensor in live.values()}
    copies = [name for name, view in views.items() if _memory(view) not in memory]
    if copies:
        raise CheckpointError(
            f"{type(module).__name__} keeps {len(copies)} tensors in another form than its "
            f"checkpoint and they cannot be refilled in place: {few(copies)}. "
            "Please report this architecture."
        )
    return {name: view.detach() for name, view in views.items()}


def saved_names(model: Any, names: Iterable[str]) -> dict[str, str]:
    """Names under which a model's tensors are saved, each with the first that it is tied to.

    What transformers renames at saving is what it renamed at loading, so that a file keeps its
    form.

    Args:
        model: A transformers model, on the meta device or a real one. Its conversions are set.
        names: The tensors of the file.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        rename_source_key,
        revert_weight_conversion,
    )

    conversions = get_model_conversion_mapping(model, add_legacy=False)
    converters = [c for c in conversions if isinstance(c, WeightConverter)]
    renamings = [c for c in conversions if not isinstance(c, WeightConverter)]
    for name in names:
        rename_source_key(name, renamings, converters)  # notes which are used
    model._weight_conversions = [c for c in conversions if c.was_used()]

    parameters = model.state_dict(keep_vars=True)
    first: dict[int, str] = {}
    main = {name: first.setdefault(id(p), name) for name, p in parameters.items()}
    state = {name: p.detach() for name, p in parameters.items()}  # an object for every name
    live = {id(tensor): name for name, tensor in state.items()}
    saved = revert_weight_conversion(model, dict(state))
    saved_as = {live[id(t)]: name for name, t in saved.items() if id(t) in live}
    # What is split while saving, e.g. stacked experts, is tied to nothing.
    return {
        name: saved_as.get(main[live[id(t)]], name) if id(t) in live else name
        for name, t in saved.items()
    }


def _without_legacy(module: Any) -> Any:
    """The module for :func:`revert_weight_conversion`, which would bring back outdated names."""
    from transformers.conversion_mapping import (
        get_checkpoint_conversion_mapping,
        get_model_conversion_mapping,
    )
    from transformers.core_model_loading import PrefixChange

    legacy = [c.source_patterns for c in get_checkpoint_conversion_mapping("legacy")]
    used = getattr(module, "_weight_conversions", None)
    if used is None:  # made from a config: what transformers itself takes then
        own = get_model_conversion_mapping(module, add_legacy=False)
        used = [c for c in own if not isinstance(c, PrefixChange)]
    kept = [c for c in used if c.source_patterns not in legacy]
    if len(kept) == len(used):
        return module
    shell = copy.copy(module)
    shell._weight_conversions = kept
    return shell


class MatchedNames:
    """Finds tensors of a checkpoint by the names that others have for them.

    An adapter or a head may come from a model with another prefix (``layers.0`` for
    ``model.layers.0``) or carry the names of the live model.

    Args:
        names: The tensors in the checkpoint.
        config: Its ``config.json``, for the names in the live model.
    """

    def __init__(self, names: Collection[str], config: dict[str, Any] | None) -> None:
        self._names = names
        self._config = config
        self._prefixes: list[tuple[str, str]] = []

    def of(self, name: str) -> str | None:
        """The name in the checkpoint; None if no tensor, or several, could be meant."""
        if name in self._names:
            return name
        for theirs, ours in self._prefixes:
            found = ours + name.removeprefix(theirs)
            if name.startswith(theirs) and found in self._names:
                return found
        return self._under_another_prefix(name) or self._live.get(name)

    def _under_another_prefix(self, name: str) -> str | None:
        found = [n for n in self._names if n.endswith(f".{name}") or name.endswith(f".{n}")]
        if len(found) != 1:
            return None
        theirs, ours = name.removesuffix(found[0]), found[0].removesuffix(name)
        self._prefixes.append((theirs, "") if theirs != name else ("", ours))
        return found[0]

    @cached_property
    def _live(self) -> dict[str, str]:
        """Names in the checkpoint by those in a live transformers model."""
        architecture = architecture_of(self._config)
        if architecture is None:
            return {}
        from transformers.core_model_loading import revert_weight_conversion

        with torch.device("meta"):
            model = architecture(architecture.config_class.from_dict(self._config))
        state = model.state_dict()
        live = {id(tensor): name for name, tensor in state.items()}
        saved = revert_weight_conversion(model, dict(state))
        return {live[id(t)]: name for name, t in saved.items() if id(t) in live}


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
