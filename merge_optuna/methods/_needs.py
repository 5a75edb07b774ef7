"""What a kernel needs besides the tensors and the values of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor

from merge_optuna.methods._individual import Individual, Part
from merge_optuna.methods._random import mask_key

T = TypeVar("T")


class Context(Protocol):
    """One tensor that is being merged, as an engine shows it to a need.

    Attributes:
        name: The tensor.
        values: Of the method's parameters, for this tensor.
        base: The base's tensor, in the data type and on the device of the computation; None if
            there is no base.
        models: The models' tensors, likewise.
        model_names: Their names.
        layers: The label of the layer group of every merged tensor, in the order of the model.
        statistics: What ``mo.statistics`` has found of each model for this tensor, None where it
            has found nothing; empty if the recipe has none.
        individual: What evolution has found, if the recipe is that.
        part: The whole tensor as a part of the flat model.
    """

    @property
    def name(self) -> str: ...
    @property
    def values(self) -> Mapping[str, Any]: ...
    @property
    def base(self) -> Tensor | None: ...
    @property
    def models(self) -> Sequence[Tensor]: ...
    @property
    def model_names(self) -> Sequence[str]: ...
    @property
    def layers(self) -> Mapping[str, str]: ...
    @property
    def statistics(self) -> Sequence[Tensor | None]: ...
    @property
    def individual(self) -> Individual | None: ...
    @property
    def part(self) -> Part: ...

    def once(self, key: Hashable, compute: Callable[[], T], *, model: int | None = None) -> T:
        """What the sources alone determine, computed once per study, as far as memory allows.

        Args:
            key: What it is, with all numbers that it depends on beside the sources.
            compute: Makes it, of this context's tensors. Bytes are counted of tensors and arrays,
                alone or in tuples and lists.
            model: The number of the model that it is about; all when omitted.
        """

    def once_per_model(self, key: Hashable, model: int, compute: Callable[[], T]) -> T:
        """The same of all merged tensors of a model together; every tensor asks for it."""

    def deltas(self, model: int) -> Iterator[tuple[str, Tensor]]:
        """The task vector of every merged tensor of a model, to be read one after the other."""


class Need(Protocol):
    """Computes named arguments of a kernel, for one tensor at a time.

    A method lists its needs; the kernel gets what they return as keyword arguments beside the
    parameters' values. A method in a file of your own may bring its own, any object with this one
    function. What does not depend on the values belongs into ``context.once``, and a search
    computes it in its first trial alone::

        class Spectrum:
            def arguments(self, context):
                svd = [context.once("svd", lambda: torch.linalg.svd(theta - context.base), model=i)
                       for i, theta in enumerate(context.models)]
                return {"spectrum": svd}
    """

    def arguments(self, context: Context) -> dict[str, Any]:
        """The arguments by name.

        For a method that is ``elementwise`` they must be sequences of tensors of the shape of
        ``context.models``, or None: they are cut into the same parts.
        """


class Keys:
    """``keys``: for each model the 64-bit key of its random mask."""

    def arguments(self, context: Context) -> dict[str, Any]:
        """From the parameter ``seed`` and the names of model and tensor."""
        seed = context.values["seed"]
        return {"keys": [mask_key(seed, model, context.name) for model in context.model_names]}


@dataclass(frozen=True)
class Statistics:
    """``statistics``: for each model what was found of this tensor, or None.

    A kernel that is called without, or has one for some models only, averages.

    Attributes:
        kind: The function of ``mo.statistics`` that makes them.
    """

    kind: str

    def arguments(self, context: Context) -> dict[str, Any]:
        """Those of the recipe."""
        return {"statistics": context.statistics} if context.statistics else {}


@dataclass(frozen=True)
class Evolved:
    """``individual`` and ``part``, for a method whose result evolution has found.

    Attributes:
        kind: The kind of individual.
    """

    kind: type[Individual]

    def arguments(self, context: Context) -> dict[str, Any]:
        """See :mod:`merge_optuna.methods._individual`."""
        return {"individual": context.individual, "part": context.part}
