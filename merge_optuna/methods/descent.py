"""Descent: an individual by its ancestors, what evolution did to them one after the other.

For what no short list of coefficients can say: masks drawn at random (Evolver, Du et al. 2024,
arXiv 2406.12208) and noise (M2N2 from scratch). The ancestors form a graph; every operation works
element by element, so any range of the weights is computed in one pass over the sources.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

from merge_optuna.errors import RecipeError
from merge_optuna.methods._individual import Individual, Part, evolved
from merge_optuna.methods._random import below, mask_key, normal, random_bits
from merge_optuna.methods._spec import Method

_FULL = 1 << 32


class Operation(Protocol):
    """How a child is made of its parents; a frozen dataclass of numbers and words."""

    @property
    def arity(self) -> int:
        """Number of parents."""

    def __call__(self, parents: Sequence[Tensor], part: Part) -> Tensor:
        """The child on a range of elements, from that range of its parents."""


Granularity = Literal["parameter", "row", "tensor", "layer"]


@dataclass(frozen=True)
class Crossover:
    """Differential evolution on weights: mutant, then binomial crossover with the target.

    Parents are the target and two donors, mutant = target + F (a − b); or the target and one,
    mutant = target + F (a − target).

    Attributes:
        F: Scale of the difference.
        CR: Probability of a coordinate of the mutant.
        seed: Of the mask.
        granularity: What is one coordinate: a single parameter, the row of a matrix, a tensor or
            a layer group.
        donors: 2 or 1.
    """

    F: float
    CR: float
    seed: int
    granularity: Granularity = "parameter"
    donors: int = 2

    @property
    def arity(self) -> int:
        """The target and the donors."""
        return 1 + self.donors

    def __call__(self, parents: Sequence[Tensor], part: Part) -> Tensor:
        """See :class:`Operation`."""
        target, a = parents[:2]
        b = parents[2] if self.donors == 2 else target
        mutant = target + (a - b) * self.F
        return torch.where(self.mask(part, target.numel()), mutant, target)

    def mask(self, part: Part, size: int) -> Tensor:
        """Boolean (size,) of what comes from the mutant."""
        limit = round(self.CR * _FULL)
        if self.granularity in ("tensor", "layer"):
            group = part.name if self.granularity == "tensor" else part.layer
            bits = random_bits(mask_key(self.seed, self.granularity, group), 1)
            return (bits < limit).expand(size)
        key = mask_key(self.seed, self.granularity, part.name)
        if self.granularity == "parameter":
            return below(key, torch.tensor(limit).expand(size), start=part.first)
        first, last = part.first // part.row, (part.first + size - 1) // part.row
        even = first - first % 2
        bits = random_bits(key, last + 1 - even, start=even)
        rows = (torch.arange(size) + part.first) // part.row - even
        return (bits < limit)[rows]


@dataclass(frozen=True)
class Blend:
    """M2N2's crossover with mutation: two linear combinations along the flat model, and noise.

    Attributes:
        split: Place in the flat model; before it the first two coefficients hold.
        coefficients: Of the two parents before and of the two from the split on.
        std: Standard deviation of the noise.
        seed: Of the noise.
    """

    split: int
    coefficients: tuple[float, float, float, float]
    std: float = 0.0
    seed: int = 0
    arity = 2

    def __call__(self, parents: Sequence[Tensor], part: Part) -> Tensor:
        """See :class:`Operation`."""
        a, b = parents
        size = a.numel()
        here = min(max(self.split - part.offset - part.first, 0), size)
        merged = torch.empty_like(a)
        for range_, (ca, cb) in (
            (slice(0, here), self.coefficients[:2]),
            (slice(here, size), self.coefficients[2:]),
        ):
            merged[range_] = a[range_] * ca + b[range_] * cb
        if self.std:
            key = mask_key(self.seed, "noise", part.name)
            merged += normal(key, size, start=part.first).to(merged.dtype) * self.std
        return merged


@dataclass(frozen=True)
class Particle:
    """A step of a particle swarm with random numbers of its own for every parameter.

    Parents are where the particle is, where it was before, its best and the best of the swarm:
    x + w (x − x_before) + c1 r1 (pbest − x) + c2 r2 (gbest − x).

    Attributes:
        w: Inertia weight.
        c1: Pull of the particle's own best.
        c2: Pull of the swarm's best.
        seed: Of r1 and r2, uniform in [0, 1).
    """

    w: float
    c1: float
    c2: float
    seed: int
    arity = 4

    def __call__(self, parents: Sequence[Tensor], part: Part) -> Tensor:
        """See :class:`Operation`."""
        x, before, pbest, gbest = parents
        r1, r2 = (
            random_bits(mask_key(self.seed, which, part.name), x.numel(), start=part.first)
            .double()
            .div_(_FULL)
            .to(x.dtype)
            for which in ("r1", "r2")
        )
        velocity = (x - before) * self.w
        return x + (velocity + (pbest - x) * self.c1 * r1 + (gbest - x) * self.c2 * r2)


OPERATIONS: dict[str, type[Any]] = {"crossover": Crossover, "blend": Blend, "particle": Particle}
_NAMES = {kind: name for name, kind in OPERATIONS.items()}


class Ancestor:
    """One individual in the graph of ancestors: a model, or the child of others.

    Attributes:
        operation: What made it of its parents; None for a model.
        parents: Who they are; for a model nobody.
        model: The number of the model; -1 for a child.
        digest: 16 bytes that name it among the individuals of the same models.
        weights: Tensor by name, float32, as long as some cache keeps them.
    """

    __slots__ = ("__weakref__", "digest", "model", "operation", "parents", "weights")
    digest: bytes

    def __init__(
        self, operation: Operation | None, parents: Sequence[Ancestor] = (), *, model: int = -1
    ) -> None:
        self.operation = operation
        self.parents = tuple(parents)
        self.model = model
        self.weights: Mapping[str, Tensor] | None = None
        content = repr(operation or model).encode() + b"".join(p.digest for p in self.parents)
        self.digest = hashlib.blake2b(content, digest_size=16).digest()


class Descent(Individual):
    """An individual by the graph of its ancestors.

    Attributes:
        last: The youngest of them, whose weights these are.
    """

    def __init__(self, last: Ancestor) -> None:
        self.last = last

    @property
    def digest(self) -> str:
        """That of the graph."""
        return self.last.digest.hex()

    def order(self, *, cached: bool = True) -> list[Ancestor]:
        """Everybody who has to be computed, parents before children, and who that starts from.

        Args:
            cached: Whether to start from those whose weights are at hand.
        """
        order: dict[Ancestor, None] = {}
        stack = [self.last]
        while stack:
            one = stack[-1]
            at_hand = cached and one.weights is not None
            missing = () if at_hand else [p for p in one.parents if p not in order]
            if missing:
                stack.extend(missing)
            else:
                order[stack.pop()] = None
        return list(order)

    def rows(self) -> list[dict[str, Any]]:
        """One row per ancestor, parents before children, itself last.

        ``{"model": 0}``, or ``{"operation": "crossover", "of": [0, 1, 2], "F": 0.5, ...}`` with
        the rows of the parents.
        """
        order = self.order(cached=False)
        number = {one: i for i, one in enumerate(order)}
        return [
            {"model": one.model}
            if one.operation is None
            else {
                "operation": _NAMES[type(one.operation)],
                "of": [number[parent] for parent in one.parents],
                **vars(one.operation),
            }
            for one in order
        ]

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]]) -> Self:
        """See :meth:`Individual.from_rows`."""
        made: list[Ancestor] = []
        for i, row in enumerate(rows):
            try:
                made.append(_ancestor(dict(row), made))
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise RecipeError(f"Row {i} of the descent is no ancestor: {row!r}.") from error
        if not made:
            raise RecipeError("A descent needs at least one row.")
        return cls(made[-1])

    def check(self, models: int) -> None:
        """See :meth:`Individual.check`."""
        wrong = [one.model for one in self.order() if one.model >= models]
        if wrong:
            raise RecipeError(f"The descent names model {wrong[0]}, but there are {models}.")

    def evaluate(
        self,
        models: Sequence[Tensor] | Mapping[int, Tensor],
        part: Part,
        apply: Apply | None = None,
        *,
        size: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Every ancestor on this range, each forgotten after its last child.

        Args:
            models: See :meth:`Individual.evaluate`; those that are needed suffice.
            part: See there.
            apply: Stands in for operations; it returns the same bits.
            size: Number of elements, if there may be no model.
            dtype: Data type of the computation, likewise.
        """
        apply = apply or _called
        if size is None:
            size, dtype = models[0].numel(), models[0].dtype
        order = self.order()
        uses = Counter(parent for one in order if one.weights is None for parent in one.parents)
        values: dict[Ancestor, Tensor] = {}
        for one in order:
            if one.weights is not None:
                whole = one.weights[part.name].reshape(-1)
                values[one] = whole[part.first : part.first + size].to(dtype)
            elif one.operation is None:
                values[one] = models[one.model]
            else:
                parents = [values[parent] for parent in one.parents]
                values[one] = apply(one.operation, parents, part)
                for parent in one.parents:
                    uses[parent] -= 1
                    if not uses[parent]:
                        values.pop(parent, None)
        return values[self.last]


Apply = Callable[[Operation, Sequence[Tensor], Part], Tensor]


def _called(operation: Operation, parents: Sequence[Tensor], part: Part) -> Tensor:
    return operation(parents, part)


def _ancestor(row: dict[str, Any], made: Sequence[Ancestor]) -> Ancestor:
    if "model" in row:
        return Ancestor(None, model=int(row["model"]))
    kind = OPERATIONS[row.pop("operation")]
    parents = [made[number] for number in row.pop("of")]
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    operation = kind(**options)
    if len(parents) != operation.arity:
        raise ValueError(f"{kind.__name__} has {operation.arity} parents.")
    return Ancestor(operation, parents)


DESCENT = Method(
    name="descent",
    kernel=evolved,
    parameters=(),
    base=False,
    individual=Descent,
    source="Du et al. 2024, Knowledge fusion by evolving weights, arXiv 2406.12208",
)
