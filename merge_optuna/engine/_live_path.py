"""A path through the layers of several models as one live model that shares their weights.

Akiba et al.: Evolutionary Optimization of Model Merging Recipes, arXiv 2403.13187, §3.2.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from merge_optuna.checkpoints import Checkpoint, for_each, is_embedding, steadily
from merge_optuna.engine._checksum import checksum
from merge_optuna.engine._frame import Source, checkpoints_of, frame_of
from merge_optuna.engine._original import CALLER, Loan, Original
from merge_optuna.engine._refilled import Refilled
from merge_optuna.errors import RecipeError
from merge_optuna.recipes import Recipe, Route
from merge_optuna.recipes.route import SCALED, Branches, check_layers

_LANGUAGE = "language_model"  # what transformers calls the one inside of another model
Module = TypeVar("Module", bound=nn.Module)


class LivePath:
    """Turns paths through the layers of some models into one live model.

    Every hop is a layer of its own – with its own place in the key-value cache – whose tensors are
    those of the model that it is from, so a new path is in place in milliseconds and takes no
    memory. Scales are applied in the form in which :func:`mo.recipes.path` writes them.

    As with :class:`Engine`, whoever gets the model may do with it what he likes. The tensors that
    a path shares are read once before it is handed out, and a model whose numbers are others than
    it was filled with is filled again.

    Args:
        models: Checkpoints or recipes without free numbers, of one architecture and width among
            :data:`SCALED`; their depths may differ.
        device: Of the models.
        dtype: Of the models; that of the first when omitted.
        compute_dtype: Of the merges of recipes, see :class:`Engine`.

    Raises:
        RecipeError: If the architecture is another.
        CheckpointMismatch: If the models are of several architectures or widths.

    Example:
        >>> live = LivePath([a, b])
        >>> model = live.load("A0-A1-B1×0.8-A2")
    """

    def __init__(
        self,
        models: Sequence[Source],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str | None = None,
        compute_dtype: torch.dtype | str | None = None,
    ) -> None:
        self._branches = branches_of(models)
        self._names = [frame_of(model).name for model in models]
        self._models: list[_Model] = []
        for model in models:
            self._models.append(_Model(Refilled(device, dtype, compute_dtype), model))
            dtype = dtype or self._models[0].module.dtype
        self._shell: tuple[tuple[int, int], _Shell] | None = None
        self._loan = Loan()

    def takes(self, models: Sequence[Source]) -> bool:
        """Whether :meth:`refill` does with these models: merges of the same, or the same."""
        if len(models) != len(self._models):
            return False
        return all(own.takes(model) for own, model in zip(self._models, models, strict=True))

    def refill(self, models: Sequence[Source]) -> None:
        """Fills in other merges of the same models; what is the same already is left alone.

        A search that chooses path and weights at once merges in every trial.
        """
        for own, model in zip(self._models, models, strict=True):
            own.refill(model)

    def load(self, path: Route | str, *, user: str = CALLER) -> nn.Module:
        """Puts a path in place.

        Args:
            path: The path, or its text.
            user: Who gets the model: named in a warning if it has to be put back.

        Returns:
            The live model, the same object as long as embedding and head are of the same models;
            in evaluation mode, without gradients.

        Raises:
            RecipeError: If there is no such model or layer.
        """
        path = Route.parse(path) if isinstance(path, str) else path
        path.check(self._names, [model.depth for model in self._models])
        self._loan.ended(self._put_back(path))
        hops = [
            _hop(self._models[hop.model].layers[hop.layer], place, factors)
            for place, (hop, factors) in enumerate(
                zip(path.hops, self._branches.factors(path), strict=True)
            )
        ]
        types = [self._models[hop.model].type_of(hop.layer) for hop in path.hops]
        shell = self._shell_for(path.embeddings_from, path.head_from)
        shell.set_layers(hops, types)
        if self._branches.embedding:
            shell.scale(self._branches.embedding, self._branches.embedding_factor(path))
        shell.remember()
        self._loan.to(user)
        model: nn.Module = shell.module
        return model

    def _put_back(self, path: Route) -> list[str]:
        """Makes the last model and all of which the next one consists what they were."""
        changed = [] if self._shell is None else self._shell[1].put_back()
        for number, model in enumerate(self._models):
            parts: set[int | None] = {hop.layer for hop in path.hops if hop.model == number}
            if number in (path.embeddings_from, path.head_from):
                parts.add(None)
            changed += [f"{one} of {self._names[number]!r}" for one in model.put_back(parts)]
        return changed

    def _shell_for(self, embeddings: int, head: int) -> _Shell:
        ends = embeddings, head
        if self._shell is None or self._shell[0] != ends:
            self._shell = ends, _Shell(self._models[embeddings], self._models[head])
        return self._shell[1]


def branches_of(models: Sequence[Source]) -> Branches:
    """What scales are folded into, if a live path can go through the layers of these models.

    Raises:
        RecipeError: If it cannot: naming the architectures of which it can.
        CheckpointMismatch: If the models do not fit each other.
    """
    frames = [frame_of(model) for model in models]
    for frame in frames:
        _check_architecture(frame)
    check_layers(frames)
    return SCALED[str((frames[0].config or {})["model_type"])]


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers of a live model, or of the language model in it, in their order."""
    return list(model.get_submodule(_stack_of(model)).children())


class _Model:
    """A live source.

    Attributes:
        module: The model; a vision-language model where its language model is a source.
        stack: Where its layers are.
        layers: They.
        depth: Their number.
    """

    def __init__(self, live: Refilled, source: Source) -> None:
        self._live, self._source = live, source
        self.module: Any = self._filled()
        self.stack = _stack_of(self.module)
        self.layers: Any = self.module.get_submodule(self.stack)
        self.depth = len(list(self.layers.children()))
        self._types = getattr(_text(self.module.config), "layer_types", None)
        self._memory = self._memory_by_part()
        self._checksums = self._summed(self._memory)

    def takes(self, source: Source) -> bool:
        """Whether it can be filled with that: itself, or another merge of the same frame."""
        if source == self._source:
            return True
        merges = isinstance(source, Recipe) and isinstance(self._source, Recipe)
        return merges and frame_of(source) == frame_of(self._source)

    def refill(self, source: Source) -> None:
        """Fills it with that, unless it is."""
        if source != self._source:
            self._live.put_back()
            self._source = source
            self._filled()
            self._checksums = self._summed(self._memory)

    def put_back(self, parts: Iterable[int | None]) -> list[str]:
        """Makes the structure of the model and the numbers of some parts of it what they were.

        Args:
            parts: Numbers of layers; None for all that is outside of them.

        Returns:
            The names of what was something else.
        """
        changed = self._live.put_back()
        found = self._summed(parts)
        other = [part for part in found if found[part] != self._checksums[part]]
        if other:
            self._filled()
        return changed + [f"numbers in {_called(part)}" for part in other]

    def _filled(self) -> nn.Module:
        return steadily(
            lambda: self._live.fill(self._source), checkpoints_of(self._source), self._live.forget
        )

    def _memory_by_part(self) -> dict[int | None, list[Tensor]]:
        memory: dict[int | None, list[Tensor]] = {
            number: [tensor.detach() for tensor in _tensors(layer)]
            for number, layer in enumerate(self.layers.children())
        }
        inside = {id(tensor) for tensor in _tensors(self.layers)}
        memory[None] = [t.detach() for t in _tensors(self.module) if id(t) not in inside]
        return memory

    def _summed(self, parts: Iterable[int | None]) -> dict[int | None, list[int]]:
        found: dict[int | None, list[int]] = {}

        def add(part: int | None) -> None:
            found[part] = checksum(self._memory[part])

        for_each(add, list(parts), torch.get_num_threads())
        return found

    @property
    def root(self) -> str:
        """Where the model without its head is; in a vision-language model, the language model."""
        before, inside, _ = self.stack.partition(_LANGUAGE)
        return before + inside if inside else before.partition(".")[0]

    def type_of(self, layer: int) -> str | None:
        """The kind of attention that a layer has, where there are several."""
        return None if self._types is None else str(self._types[layer])


class _Shell:
    """A model around layers that change: modules and configs of its own, tensors of others.

    Attributes:
        module: The model.
    """

    def __init__(self, model: _Model, head: _Model) -> None:
        self.module: Any = _without_layers(model.module, model.stack)
        self._parent, _, self._name = model.stack.rpartition(".")
        self._root = model.root
        if head is not model:
            self._take_head(head)
        self._original: Original | None = None

    def remember(self) -> None:
        """Remembers all but the layers, which every path brings anew."""
        layers = self.module.get_submodule(f"{self._parent}.{self._name}".lstrip("."))
        self._original = Original(self.module, without=[layers])

    def put_back(self) -> list[str]:
        """Makes it again what was remembered; returns the names of what was something else."""
        return [] if self._original is None else self._original.put_back()

    def set_layers(self, hops: Sequence[nn.Module], types: Sequence[str | None]) -> None:
        """Puts other layers in place."""
        parent = self.module.get_submodule(self._parent)
        parent._modules[self._name] = nn.ModuleList(hops).eval()
        config = _text(self.module.config)
        config.num_hidden_layers = len(hops)
        if None not in types:
            config.layer_types = list(types)
            if hasattr(parent, "has_sliding_layers"):
                parent.has_sliding_layers = "sliding_attention" in types

    def scale(self, ending: str, factor: float) -> None:
        """Multiplies the result of the module whose name ends so."""
        name = next(n for n, _ in self.module.named_modules() if n.endswith(ending))
        parent, _, last = name.rpartition(".")
        modules = self.module.get_submodule(parent)._modules
        modules[last] = _scaled(_unscaled(modules[last]), factor)

    def _take_head(self, model: _Model) -> None:
        """What stands behind the layers from another model; a tied head stays tied."""
        every = dict(model.module.named_parameters(remove_duplicate=False))
        embedding = {id(parameter) for name, parameter in every.items() if is_embedding(name)}
        for name, parameter in every.items():
            inside = name.startswith(f"{model.root}.")
            is_head = inside or name.partition(".")[0] != model.root.partition(".")[0]
            if (
                is_head
                and not name.startswith(f"{model.stack}.")
                and id(parameter) not in embedding
            ):
                own = self._root + name.removeprefix(model.root) if inside else name
                parent, _, last = own.rpartition(".")
                self.module.get_submodule(parent)._parameters[last] = parameter


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


def _without_layers(model: Any, stack: str) -> Any:
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


def _stack_of(model: nn.Module) -> str:
    """Where the layers of a model, or of the language model in it, are."""
    count = _text(model.config).num_hidden_layers
    found = [
        str(name)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    return next((name for name in found if _LANGUAGE in name), found[0])


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())


def _called(part: int | None) -> str:
    return "embedding or head" if part is None else f"layer {part}"


def _text(config: Any) -> Any:
    return config.get_text_config(decoder=True)


def _check_architecture(frame: Checkpoint) -> None:
    """Checks that a live path can go through the layers of a model.

    Raises:
        RecipeError: If not.
    """
    config = frame.config or {}
    kind = config.get("model_type")
    if kind not in SCALED:
        raise RecipeError(
            f"A live path cannot go through the layers of {frame.name!r}, a {kind}; it can "
            f"through those of {', '.join(SCALED)}. mo.recipes.path writes others."
        )
    if config.get("scale_attn_by_inverse_layer_idx"):
        raise RecipeError(
            f"The attention of {frame.name!r} is scaled by the number of its layer "
            "(scale_attn_by_inverse_layer_idx), so its layers mean something else elsewhere."
        )
