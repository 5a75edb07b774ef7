"""A path through the layers of several models as one live model that shares their weights.

Akiba et al.: Evolutionary Optimization of Model Merging Recipes, arXiv 2403.13187, §3.2.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from merge_optuna.checkpoints import is_embedding
from merge_optuna.engine._live import Engine
from merge_optuna.engine._tensors import Source, frame_of
from merge_optuna.errors import CheckpointMismatch, RecipeError
from merge_optuna.recipes import LayerPath
from merge_optuna.recipes.layer_path import SCALED, Branches, check_numbers

Module = TypeVar("Module", bound=nn.Module)


class LivePath:
    """Turns paths through the layers of some models into one live model.

    Every hop is a layer of its own – with its own place in the key-value cache – whose tensors are
    those of the model that it is from, so a new path is in place in milliseconds and takes no
    memory. Scales are applied in the form in which :func:`mo.recipes.path` writes them.

    Args:
        models: Checkpoints or recipes without free numbers, of one architecture and width among
            :data:`SCALED`; their depths may differ.
        embeddings_from: Number of the model whose embedding and config it has.
        head_from: Number of the model whose final norm and head it has.
        device: Of the models.
        dtype: Of the models; that of each when omitted.

    Raises:
        RecipeError: If there is no such model, or its architecture is another.
        CheckpointMismatch: If the models are of several architectures.

    Example:
        >>> live = LivePath([a, b])
        >>> model = live.load(LayerPath.parse("A0-A1-B1×0.8-A2"))
    """

    def __init__(
        self,
        models: Sequence[Source],
        *,
        embeddings_from: int = 0,
        head_from: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str | None = None,
    ) -> None:
        check_numbers((embeddings_from, head_from), models)
        self._models = models
        kinds = [_kind(model) for model in models]
        if len(set(kinds)) > 1:
            raise CheckpointMismatch(
                "A path goes through models of one architecture; these are "
                + ", ".join(
                    f"{frame_of(m).name!r}, a {k}" for m, k in zip(models, kinds, strict=True)
                )
                + "."
            )
        self._tensors: Branches = SCALED[kinds[0]]
        loaded: list[Any] = [Engine(device, dtype).load(model) for model in models]
        places = [_stack_of(model) for model in loaded]
        self._layers = [model.get_submodule(p) for model, p in zip(loaded, places, strict=True)]
        self._types: list[Any] = [
            getattr(_text(model.config), "layer_types", None) for model in loaded
        ]
        self._model: Any = _shell(loaded[embeddings_from], places[embeddings_from])
        if head_from != embeddings_from:
            _take_head(self._model, loaded[head_from], places[head_from])
        self._parent, _, self._name = places[embeddings_from].rpartition(".")
        self._embedding = self._tensors.embedding and _named(self._model, self._tensors.embedding)

    def load(self, path: LayerPath) -> nn.Module:
        """Puts a path in place.

        Returns:
            The live model, always the same object; in evaluation mode, without gradients.

        Raises:
            RecipeError: If there is no such layer.
        """
        check_numbers((hop.model for hop in path.hops), self._models)
        for hop in path.hops:
            if hop.layer >= len(self._layers[hop.model]):
                raise RecipeError(
                    f"The path {path} wants layer {hop.layer} of "
                    f"{frame_of(self._models[hop.model]).name!r}, which has "
                    f"{len(self._layers[hop.model])}, 0 to {len(self._layers[hop.model]) - 1}."
                )
        hops = [
            _hop(self._layers[hop.model][hop.layer], place, factors)
            for place, (hop, factors) in enumerate(
                zip(path.hops, self._tensors.factors(path), strict=True)
            )
        ]
        parent = self._model.get_submodule(self._parent)
        parent._modules[self._name] = nn.ModuleList(hops).eval()
        config = _text(self._model.config)
        config.num_hidden_layers = len(hops)
        if all(self._types):
            config.layer_types = [self._types[hop.model][hop.layer] for hop in path.hops]
            if hasattr(parent, "has_sliding_layers"):
                parent.has_sliding_layers = "sliding_attention" in config.layer_types
        self._scale_embedding(self._tensors.embedding_factor(path))
        model: nn.Module = self._model
        return model

    def _scale_embedding(self, factor: float) -> None:
        if self._embedding:
            parent, _, name = self._embedding.rpartition(".")
            modules = self._model.get_submodule(parent)._modules
            modules[name] = _scaled(_unscaled(modules[name]), factor)


class _Scaled(nn.Module):
    """A module whose result is multiplied by a number."""

    def __init__(self, module: nn.Module, factor: float) -> None:
        super().__init__()
        self.module, self.factor = module, factor

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.module(x) * self.factor
        return scaled


class _OfScaled(_Scaled):
    """A module that sees its input multiplied by a number: its weight is, not its bias."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.module(x * self.factor)
        return result


def _scaled(module: nn.Module, factor: float, name: str = "") -> nn.Module:
    if factor == 1:
        return module
    return (_OfScaled if name.endswith(".weight") else _Scaled)(module, factor).eval()


def _unscaled(module: nn.Module) -> nn.Module:
    return module.module if isinstance(module, _Scaled) else module


def _hop(layer: nn.Module, place: int, factors: dict[str, float]) -> nn.Module:
    """A layer of its own with the tensors of another."""
    made = _with_place(layer, place)
    for name, factor in factors.items():
        if factor != 1:
            *parents, last = name.removesuffix(".weight").split(".")
            module = made
            for parent in parents:  # nobody else may see what is put into it
                module._modules[parent] = inner = _own(module._modules[parent])
                module = inner
            module._modules[last] = _scaled(module._modules[last], factor, name)  # type: ignore[arg-type]
    return made


def _with_place(module: Module, place: int) -> Module:
    """A copy of a module that shares everything but what knows its place among the layers."""
    made = _own(module)
    for name, child in made._modules.items():
        if child is not None and any(hasattr(m, "layer_idx") for m in child.modules()):
            made._modules[name] = _with_place(child, place)
    if hasattr(made, "layer_idx"):
        made.layer_idx = place  # type: ignore[assignment]
    return made


def _own(module: Module | None) -> Module:
    """A module with the tensors of another, whose dictionaries are its own.

    ``copy.copy`` would share these, so that what is put into the copy would be in the other too.
    """
    assert module is not None
    made = module.__class__.__new__(module.__class__)
    made.__dict__ = {
        key: value.copy() if isinstance(value, dict) else value
        for key, value in module.__dict__.items()
    }
    return made


def _shell(model: Any, stack: str) -> Any:
    """The model around its layers: modules and configs of its own, the same tensors."""
    known: dict[int, Any] = {}  # a config inside of another stays inside of it

    def own(module: Any, name: str) -> Any:
        made: Any = _own(module)
        if name != stack:
            for child, inner in made._modules.items():
                if inner is not None:
                    made._modules[child] = own(inner, f"{name}.{child}" if name else child)
        if "config" in made.__dict__:
            made.config = copy.deepcopy(made.config, known)
        return made

    return own(model, "")


def _take_head(shell: nn.Module, model: nn.Module, stack: str) -> None:
    """What stands behind the layers from another model; a tied head stays tied."""
    for name, parameter in model.named_parameters():
        if not name.startswith(f"{stack}.") and not is_embedding(name):
            parent, _, last = name.rpartition(".")
            shell.get_submodule(parent)._parameters[last] = parameter


def _stack_of(model: nn.Module) -> str:
    """Where the layers of a model are."""
    count = _text(model.config).num_hidden_layers
    return next(
        str(name)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    )


def _named(model: nn.Module, name: str) -> str:
    return next(str(own) for own, _ in model.named_modules() if own.endswith(name))


def _text(config: Any) -> Any:
    return config.get_text_config(decoder=True)


def _kind(model: Source) -> str:
    """The architecture of a model.

    Raises:
        RecipeError: If it has none through whose layers a live path can go.
    """
    config = frame_of(model).config or {}
    kind = config.get("model_type")
    if kind not in SCALED:
        raise RecipeError(
            f"A live path cannot go through the layers of {frame_of(model).name!r}, a {kind}; "
            f"it can through those of {', '.join(SCALED)}. mo.recipes.path writes others."
        )
    if config.get("scale_attn_by_inverse_layer_idx"):
        raise RecipeError(
            f"The attention of {frame_of(model).name!r} is scaled by the number of its layer "
            "(scale_attn_by_inverse_layer_idx), so its layers mean something else elsewhere."
        )
    return str(kind)
