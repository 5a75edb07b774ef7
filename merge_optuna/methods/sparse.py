"""Merges of sparse task vectors: what is kept of each × how the rest is put together.

A sparsifier (:class:`Whole`, :class:`Trim`, :class:`Band`, :class:`Drop`, :class:`MagPrune`) and
a consensus (:class:`Sum`, :class:`Agreeing`, :class:`Mean`) make a method: a row of the table at
the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from merge_optuna.errors import InfeasibleRecipe
from merge_optuna.methods._random import below, keep_mask
from merge_optuna.methods._reduce import stable_sum
from merge_optuna.methods._sparsify import (
    Cut,
    band_counts,
    cut_at,
    cut_of,
    keep_chances,
    kept_by,
    row_ranks,
    trim,
    with_l1_of,
)
from merge_optuna.methods._spec import Method, Parameter
from merge_optuna.methods.linear import total_weight

WEIGHT = Parameter("weight", 1.0, "coefficient of each task vector", per_model=True, search=(0, 1))
LAMBDA = Parameter("lambda_", 1.0, "scale of the merged task vector", search=(0, 2))
DENSITY = Parameter(
    "density",
    0.5,
    "share of each task vector that is kept",
    low=0.0,
    high=1.0,
    per_model=True,
    search=(0, 1),
)
NORMALIZE = Parameter("normalize", False, "divide by the sum of the weights", grouped=False)
MEAN = Parameter(
    "normalize",
    True,
    "mean of the agreeing entries, not sum",
    grouped=False,
    details="Weights must then be at least 0.",
)
ELECT = Parameter(
    "elect",
    "mass",
    "sign by the weighted sum, or by the number of models",
    choices=("mass", "count"),
    grouped=False,
)
RESCALE = Parameter(
    "rescale",
    "density",
    "what is kept: divide by the density, restore the L1 norm, or leave",
    choices=("density", "l1", "none"),
    grouped=False,
)
SEED = Parameter(
    "seed",
    0,
    "of the random masks",
    low=0,
    high=2**63 - 1,
    grouped=False,
    details="They are keyed by (seed, expert's name, tensor's name).",
)

Values = Mapping[str, Any]


# -- what is kept of each task vector ---------------------------------------------------------


class Sparsifier(ABC):
    """What is kept of each task vector.

    Attributes:
        parameters: Its own.
        random: Whether it draws masks.
        source: The paper.
    """

    parameters: ClassVar[tuple[Parameter, ...]] = ()
    random: ClassVar[bool] = False
    source: ClassVar[str]

    @abstractmethod
    def kept(self, delta: Tensor, model: int, values: Values) -> Tensor:
        """The task vector of one model with zeros for what is dropped.

        Args:
            delta: The task vector.
            model: The number of the model, whose values count.
            values: The arguments of the method.
        """


class Whole(Sparsifier):
    """Everything."""

    source = "Ilharco et al. 2023, Editing models with task arithmetic, arXiv 2212.04089"

    def kept(self, delta: Tensor, model: int, values: Values) -> Tensor:
        """The task vector itself."""
        return delta


class Trim(Sparsifier):
    """The largest entries; by ``cuts``, one per model, where those of whole models are meant."""

    parameters = (
        DENSITY,
        Parameter(
            "trim_over",
            "tensor",
            "find the largest entries of each tensor, or of the whole model",
            choices=("tensor", "model"),
            grouped=False,
        ),
    )
    source = "Yadav et al. 2023, TIES-Merging, arXiv 2306.01708"

    def kept(self, delta: Tensor, model: int, values: Values) -> Tensor:
        """Zeroes everything below the cut; among equals the lowest flat indices stay."""
        cuts: Sequence[Cut] | None = values.get("cuts")
        return trim(delta, cuts[model] if cuts else cut_at(delta, values["density"][model]))


class Band(Sparsifier):
    """All but the largest and the smallest entries (eq. 2)."""

    parameters = (
        replace(DENSITY, details="Tensor by tensor. The paper's β is 1 − density − gamma."),
        Parameter(
            "gamma",
            0.01,
            "share of each task vector that is dropped as too large",
            low=0.0,
            high=1.0,
            per_model=True,
            search=(0, 0.1),
            details="Less where not enough would be left.",
        ),
        replace(
            RESCALE,
            default="none",
            choices=("none", "l1"),
            summary="what is kept: leave, or restore the L1 norm",
        ),
    )
    source = "Davari & Belilovsky 2023, Model breadcrumbs, arXiv 2312.06795"

    def kept(self, delta: Tensor, model: int, values: Values) -> Tensor:
        """Skips the ``⌊gamma · n⌋`` largest magnitudes and keeps the next ones.

        As many are kept as :class:`Trim` keeps; fewer of the largest are skipped where not enough
        would be left.
        """
        skip, keep = band_counts(delta.numel(), values["density"][model], values["gamma"][model])
        within, without = cut_of(delta, skip + keep), cut_of(delta, skip)
        band = torch.where(kept_by(delta, within) & ~kept_by(delta, without), delta, 0)
        return band if values["rescale"] == "none" else with_l1_of(delta, band)


class Drop(Sparsifier):
    """Each entry with the same probability; ``keys`` are those of the models' masks (eq. 1–3)."""

    parameters = (
        replace(
            DENSITY,
            summary="probability with which an entry is kept",
            details="0 drops the expert.",
        ),
        replace(RESCALE, details="The density is the share that was kept, not the probability."),
        SEED,
    )
    random = True
    source = "Yu et al. 2024, Language models are super Mario, arXiv 2311.03099"

    def kept(self, delta: Tensor, model: int, values: Values) -> Tensor:
        """Keeps each entry with probability ``density`` and rescales what is kept.

        ``rescale="density"`` divides by the realised density, which keeps the sum unbiased and
        cannot blow up when a small tensor keeps few entries; ``"l1"`` restores the tensor's L1
        norm, unless what is kept has a norm below 1e-7; ``"none"`` leaves the values. Density 0
        and an empty mask give zeros.
        """
        density, rescale = values["density"][model], values["rescale"]
        if density == 1:
            return delta
        mask = keep_mask(values["keys"][model], delta.shape, density, delta.device)
        kept = torch.where(mask, delta, 0)
        if rescale == "none":
            return kept
        if rescale == "l1":
            return with_l1_of(delta, kept)
        count = int(mask.sum())
        return kept * (delta.numel() / count) if count else kept


class MagPrune(Sparsifier):
    """Large entries with a higher probability than small ones; ``keys`` as in :class:`Drop`."""

    parameters = (
        replace(
            DENSITY,
            summary="mean probability with which an entry is kept",
            details="0 drops the expert.",
        ),
        Parameter(
            "epsilon",
            0.15,
            "from density + epsilon for the largest entry of a row to density − epsilon for the "
            "smallest",
            low=0.0,
            high=0.5,
            per_model=True,
            search=(0, 0.3),
            details="A row is the weights of one output; a vector is one row. Where density ± "
            "epsilon would leave [0, 1], the smaller of density and 1 − density is taken "
            "instead, so that every pair is valid and the mean stays the density.",
        ),
        replace(
            RESCALE,
            summary="what is kept: divide by the keep probability, restore the L1 norm, or leave",
            details="One more factor for all makes up for how many were kept.",
        ),
        SEED,
    )
    random = True
    source = "Deep et al. 2024, DELLA-Merging, arXiv 2406.11617"

    def kept(self, delta: Tensor, model: int, values: Values) -> Tensor:
        """Keeps each entry with the probability of its rank and rescales what is kept.

        ``rescale="density"`` divides each entry by its probability, and all by one factor that
        makes up for how many were kept, as in :class:`Drop`: no entry grows by more than the
        number of entries. ``"l1"`` and ``"none"`` are as there.
        """
        density, rescale = values["density"][model], values["rescale"]
        if density == 1:
            return delta
        ranks = row_ranks(delta)
        row = (
            delta.numel() // delta.shape[0] if delta.dim() > 1 and delta.numel() else delta.numel()
        )
        chances = keep_chances(density, values["epsilon"][model], row)
        limits = (chances * 2**32).round().long()
        mask = below(values["keys"][model], limits.to(delta.device)[ranks])
        kept = torch.where(mask, delta, 0)
        if rescale == "none":
            return kept
        if rescale == "l1":
            return with_l1_of(delta, kept)
        inverse = torch.where(mask, 1 / chances.to(delta.device)[ranks], 0)
        total = stable_sum(inverse)
        return kept * (inverse * (delta.numel() / total)).to(delta.dtype) if total else kept


# -- how sparse task vectors are put together -------------------------------------------------


class Consensus(ABC):
    """How sparse task vectors are put together.

    Attributes:
        parameters: Its own, besides the weights.
    """

    parameters: ClassVar[tuple[Parameter, ...]]

    @abstractmethod
    def merge(self, deltas: Sequence[Tensor], values: Values) -> Tensor:
        """The merged task vector.

        Args:
            deltas: What is kept of each task vector.
            values: The arguments of the method.

        Raises:
            InfeasibleRecipe: If the weights cannot be normalised.
        """


class Sum(Consensus):
    """Σ w·τ, divided by Σ w when normalised."""

    parameters = (NORMALIZE,)

    def merge(self, deltas: Sequence[Tensor], values: Values) -> Tensor:
        """See :meth:`Consensus.merge`."""
        weight: Sequence[float] = values["weight"]
        total = total_weight(weight) if values["normalize"] else 1.0
        merged = deltas[0] * (weight[0] / total)
        for delta, w in zip(deltas[1:], weight[1:], strict=True):
            merged += delta * (w / total)
        return merged


class Agreeing(Consensus):
    """Sum of the weighted entries whose sign is the elected one; their mean when normalised.

    A tie elects +. Zeros agree with neither sign.
    """

    parameters = (replace(MEAN, default=False), ELECT)

    def merge(self, deltas: Sequence[Tensor], values: Values) -> Tensor:
        """See :meth:`Consensus.merge`."""
        weight, normalize = values["weight"], values["normalize"]
        if normalize:
            check_mean(weight)
        weighted = [delta * w for delta, w in zip(deltas, weight, strict=True)]
        by_mass = values["elect"] == "mass"
        votes = weighted if by_mass else [torch.sign(entry) for entry in weighted]
        return merge_agreeing(weighted, weight, elects_plus(votes), normalize=normalize)


class Mean(Agreeing):
    """The same, normalised unless told otherwise."""

    parameters = (MEAN, ELECT)


def check_mean(weight: Sequence[float]) -> None:
    """Checks that the mean of any of the models is defined.

    Raises:
        InfeasibleRecipe: If a weight is negative, because the sum over the agreeing models may
            then vanish anywhere.
    """
    if min(weight) < 0:
        raise InfeasibleRecipe(
            f"normalize=True needs weights of at least 0, not {[round(w, 6) for w in weight]}. "
            "Use normalize=False."
        )


def elects_plus(votes: Sequence[Tensor]) -> Tensor:
    """Where the votes sum to 0 or more."""
    return sum(votes[1:], votes[0]) >= 0


def merge_agreeing(
    weighted: Sequence[Tensor], weight: Sequence[float], positive: Tensor, *, normalize: bool
) -> Tensor:
    """Sum of the weighted entries that have the elected sign, by their weights when normalised."""
    merged, mass = torch.zeros_like(weighted[0]), torch.zeros_like(weighted[0])
    for entry, w in zip(weighted, weight, strict=True):
        agrees = torch.where(positive, entry > 0, entry < 0)
        merged += torch.where(agrees, entry, 0)
        mass += agrees * w
    return torch.where(mass > 0, merged / mass, 0) if normalize else merged


# -- the table --------------------------------------------------------------------------------


class Sparse:
    """The kernel θ₀ + λ·consensus(kept(θ − θ₀)).

    Attributes:
        sparsifier: What is kept of each task vector.
        consensus: How they are put together.
    """

    def __init__(self, sparsifier: Sparsifier, consensus: Consensus, doc: str) -> None:
        self.sparsifier = sparsifier
        self.consensus = consensus
        self.__doc__ = doc

    def __call__(self, base: Tensor, models: Sequence[Tensor], **values: Any) -> Tensor:
        """The merged tensor, from those of the parameters' values."""
        deltas = [self.sparsifier.kept(theta - base, i, values) for i, theta in enumerate(models)]
        scale: float = values["lambda_"]
        return base + self.consensus.merge(deltas, values) * scale


_ORDER = ("weight", "density", "epsilon", "gamma", "lambda_", "rescale", "normalize", "elect")
"""In which a recipe has its parameters, so that its digest depends on it; others follow."""


def _method(name: str, sparsifier: Sparsifier, consensus: Consensus, doc: str) -> Method:
    own = (WEIGHT, *sparsifier.parameters, LAMBDA, *consensus.parameters)
    places = {name: place for place, name in enumerate(_ORDER)}
    promises = {"idempotent", "selective", "symmetric"}
    return Method(
        name=name,
        kernel=Sparse(sparsifier, consensus, doc),
        parameters=tuple(sorted(own, key=lambda p: places.get(p.name, len(places)))),
        source=sparsifier.source,
        random=sparsifier.random,
        elementwise=isinstance(sparsifier, Whole),
        promises=frozenset(promises | ({"vanishing"} if sparsifier.parameters else set())),
    )


METHODS = (
    _method(
        "task_arithmetic",
        Whole(),
        Sum(),
        "Base plus the weighted sum of task vectors: θ₀ + λ Σ w·(θ − θ₀).",
    ),
    _method(
        "ties",
        Trim(),
        Mean(),
        "TIES: trim each task vector, elect a sign per entry, average the entries that agree.",
    ),
    _method(
        "dare_linear",
        Drop(),
        Sum(),
        "DARE: drop entries of each task vector at random, rescale, then task arithmetic.",
    ),
    _method(
        "dare_ties",
        Drop(),
        Agreeing(),
        "DARE, then TIES sign election and the sum of the entries that agree.",
    ),
    _method(
        "della_linear",
        MagPrune(),
        Sum(),
        "DELLA's MAGPRUNE: as DARE, but large entries are kept more often; then task arithmetic.",
    ),
    _method(
        "della",
        MagPrune(),
        Mean(),
        "DELLA: MAGPRUNE, then TIES sign election and the mean of the entries that agree.",
    ),
    _method(
        "breadcrumbs",
        Band(),
        Sum(),
        "Model breadcrumbs: drop the largest and the smallest entries, then task arithmetic.",
    ),
    _method(
        "breadcrumbs_ties",
        Band(),
        Agreeing(),
        "Model breadcrumbs, then TIES sign election and the sum of the entries that agree.",
    ),
)
"""The table."""
