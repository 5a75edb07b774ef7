"""M2N2's crossover: spherical interpolation of two models with a split point.

Abrantes, Lange & Tang: Competition and Attraction Improve Model Fusion, arXiv 2508.16204, §3.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.engine import Inputs, gram
from merge_optuna.errors import RecipeError
from merge_optuna.methods.descent import Ancestor, Blend
from merge_optuna.methods.splice import Segments
from merge_optuna.recipes import Recipe, check_sources
from merge_optuna.samplers import NichesSampler
from merge_optuna.samplers.breeding import SplitCrossover
from merge_optuna.spaces._genealogy import Genealogy
from merge_optuna.spaces._grams import Grams
from merge_optuna.spaces._weights import Ancestors, evolving

Products = NDArray[np.float64]

_PARALLEL = 1e-6  # sine of the angle below which interpolation is linear, as in the authors' code


class Strand:
    """An individual without noise: segments, and what is needed to know its angle to others.

    Attributes:
        segments: What it is made of.
        before: (S, n, n) dot products of the models before the start of each segment.
    """

    def __init__(self, segments: Segments, before: Products) -> None:
        self.segments = segments
        self.before = before

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.segments.nbytes + self.before.nbytes


class SplitSlerp(Genealogy[Any]):
    """The space of M2N2: models, and children that are spherical interpolations of two.

    A trial has the parameters ``{origin: <name of a seed>}`` or ``{origin: "child", parent_a,
    parent_b, split, ratio}``; parents are named by their individual id, their place among the
    finished trials. In the child the elements before ``split``, a fraction of the flat model, are
    slerp(a, b, ratio), the others slerp(a, b, 1 − ratio). The flat model is the vector of all
    merged elements: tensors from input to output (by layer group, in each as the first model
    stores them), each row by row.

    Without mutation an individual is, on each segment between split points, a linear combination
    of the seeds, so nothing but a list of segments and coefficients is kept of it, whatever the
    size of the models; angles come from dot products of the seeds, computed once. With mutation it
    is computed from its parents' weights, of which the last are kept.

    Args:
        seeds: The models that evolution starts from, two at least.
        angle: Between the parents: ``"global"`` for that of their whole flat models, as in the
            authors' code, or ``"segment"`` for one before and one from the split on, as in the
            paper.
        mutation_std: Standard deviation of Gaussian noise added to every element of a child; 0.01
            in the paper's search from scratch, 0 for pre-trained models.
        snap: ``"layer"`` moves a split to the nearest boundary between layer groups.
        exclude: Name filters of tensors that come unchanged from the first model.
        config: Whose config counts where those of the models give weights another meaning:
            ``"base"``, the first model, or the name of a source.
        cache_bytes: With mutation, bytes of parents' weights to keep.
        cache_folder: Where to keep them; in memory when omitted.

    Raises:
        RecipeError: For less than two seeds, or an option that is out of range.
        CheckpointMismatch: If the seeds do not fit together.
        StorageError: If the cache folder cannot be written to.
    """

    kind = "split_slerp"
    options: ClassVar = {
        "angle": (str,),
        "mutation_std": (int, float),
        "snap": (str, type(None)),
    }

    def __init__(
        self,
        seeds: Sequence[Checkpoint | Recipe],
        *,
        angle: Literal["global", "segment"] = "global",
        mutation_std: float = 0.0,
        snap: Literal["layer"] | None = None,
        exclude: Sequence[str] = (),
        config: str | None = None,
        cache_bytes: int = 1 << 30,
        cache_folder: str | Path | None = None,
    ) -> None:
        check_sources("SplitSlerp", None, seeds)
        if len(seeds) < 2:
            raise RecipeError(
                f"SplitSlerp needs at least two seeds to cross, not {len(seeds)}: "
                "mo.spaces.SplitSlerp([a, b])."
            )
        if angle not in ("global", "segment"):
            raise RecipeError(f"angle must be 'global' or 'segment', not {angle!r}.")
        if snap not in (None, "layer"):
            raise RecipeError(f"snap must be 'layer' or None, not {snap!r}.")
        if not 0 <= mutation_std < math.inf:
            raise RecipeError(f"mutation_std must not be negative, but is {mutation_std}.")
        self.angle = angle
        self.mutation_std = float(mutation_std)
        self.snap = snap
        super().__init__(evolving(seeds, exclude, config, coefficients=not mutation_std))
        self.breeding = SplitCrossover(self.names, noise=bool(mutation_std))
        self._cache = cache_bytes, cache_folder
        if mutation_std:
            _ = self._ancestors  # finds a folder that cannot be written to

    def sampler(
        self, *, seed: int | None = None, objectives: int = 1, **overrides: Any
    ) -> NichesSampler:
        """Natural niches; see :class:`mo.samplers.NichesSampler` for the options."""
        self.check_objectives(objectives)
        return NichesSampler(self.distributions(), seed=seed, **overrides)

    @classmethod
    def declared(cls, recipes: Mapping[str, Recipe], options: Mapping[str, Any]) -> Self:
        """See :meth:`Space.declared`."""
        models = recipes["models"]
        return cls(models.models, exclude=models.exclude, config=models.config, **options)

    # -- individuals ------------------------------------------------------------------------

    def source(self, name: str) -> Strand | Ancestor:
        """See :meth:`Genealogy.source`."""
        if self.mutation_std:
            return self._ancestors.models[name]
        return self._strands[self.names.index(name)]

    def child(
        self, params: Mapping[str, Any], parents: Mapping[str, Strand | Ancestor]
    ) -> Strand | Ancestor:
        """See :meth:`Genealogy.child`."""
        a, b = parents["parent_a"], parents["parent_b"]
        split, ratio = self.place(params["split"]), params["ratio"]
        if isinstance(a, Strand):
            assert isinstance(b, Strand)
            return self._crossed(a, b, split, ratio)
        assert isinstance(b, Ancestor)
        return self._mutated(a, b, split, ratio, params["noise_seed"])

    def recipe_for(self, individual: Strand | Ancestor) -> Recipe:
        """See :meth:`Genealogy.recipe_for`."""
        if isinstance(individual, Strand):
            return self.recipe.with_individual(individual.segments)
        return self._ancestors.recipe(individual)

    def place(self, split: float) -> int:
        """The element of the flat model at which a fraction of it ends."""
        place = min(int(split * self.recipe.flat_size), self.recipe.flat_size)
        if self.snap is None or split == 1:
            return place
        return int(self._borders[np.argmin(np.abs(self._borders - place))])

    @cached_property
    def _borders(self) -> NDArray[np.int64]:
        """Where layer groups begin, and the end."""
        parts = list(self.recipe.parts.values())
        inner = [b.offset for a, b in itertools.pairwise(parts) if a.layer != b.layer]
        return np.array([0, *inner, self.recipe.flat_size])

    @cached_property
    def _grams(self) -> Grams:
        return Grams(self.recipe)

    @cached_property
    def _strands(self) -> tuple[Strand, ...]:
        n = len(self.names)
        return tuple(Strand(Segments([0], row[None]), np.zeros((1, n, n))) for row in np.eye(n))

    @cached_property
    def _ancestors(self) -> Ancestors:
        return Ancestors(self.recipe, *self._cache)

    def _crossed(self, a: Strand, b: Strand, split: int, ratio: float) -> Strand:
        starts, before = self._joined(a, b, split)
        of_a, of_b = (_at(one.segments, starts) for one in (a, b))
        products = np.concatenate([before[1:], self._grams.total[None]]) - before
        left = int(starts.searchsorted(split))
        sums = np.array([np.einsum("si,sij,sj->s", x, products, y) for x, y in _pairs(of_a, of_b)])
        factors = self._factors(sums[:, :left].sum(1), sums[:, left:].sum(1), ratio)
        coefficients = np.empty_like(of_a)
        for range_, (f, g) in zip((slice(left), slice(left, None)), factors, strict=True):
            coefficients[range_] = f * of_a[range_] + g * of_b[range_]
        return Strand(Segments(starts, coefficients), before)

    def _joined(self, a: Strand, b: Strand, split: int) -> tuple[NDArray[np.int64], Products]:
        """The starts of both and the split, and the products before each."""
        own = [split] if 0 < split < self.recipe.flat_size else []
        starts = np.concatenate([a.segments.starts, b.segments.starts, own]).astype(np.int64)
        starts, first = np.unique(starts, return_index=True)
        new = len(a.before) + len(b.before)
        known = [a.before, b.before]
        if own and first[starts.searchsorted(split)] == new:
            known.append(self._grams.up_to(split)[None])
        return starts, np.concatenate(known)[first]

    def _mutated(self, a: Ancestor, b: Ancestor, split: int, ratio: float, seed: int) -> Ancestor:
        self._ancestors.keep([a, b])
        sums = np.zeros((2, 3))
        for name, part in self.recipe.parts.items():
            weights = Inputs(self._ancestors.tensor(one, name) for one in (a, b))
            here = min(max(split - part.offset, 0), part.size)
            for side, range_ in enumerate(((0, here), (here, part.size))):
                products = gram(weights, *range_)
                sums[side] += products[[0, 0, 1], [0, 1, 1]]
        before, after = self._factors(sums[0], sums[1], ratio)
        blend = Blend(split, (*before, *after), self.mutation_std, seed)
        return self._ancestors.child(blend, [a, b])

    def _factors(
        self, before: Products, after: Products, ratio: float
    ) -> tuple[tuple[float, float], tuple[float, float]]:
        """The factors of both parents before and from the split on.

        Args:
            before: (3,) dot products a·a, a·b and b·b before the split.
            after: The same from it on.
            ratio: t before the split; after it 1 − t.
        """
        if self.angle == "global":
            before = after = before + after
        return slerp_factors(before, ratio), slerp_factors(after, 1 - ratio)


def _pairs(a: Products, b: Products) -> tuple[tuple[Products, Products], ...]:
    return (a, a), (a, b), (b, b)


def _at(segments: Segments, starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The coefficients at some places."""
    found: NDArray[np.float64] = segments.coefficients[
        segments.starts.searchsorted(starts, "right") - 1
    ]
    return found


def slerp_factors(products: Products, t: float) -> tuple[float, float]:
    """sin((1−t)·ω)/sin ω and sin(t·ω)/sin ω; 1 − t and t where sin ω ≤ 1e-6.

    Args:
        products: (3,) a·a, a·b and b·b.
        t: 0 gives a.
    """
    aa, ab, bb = map(float, products)
    norms = math.sqrt(aa) * math.sqrt(bb)
    omega = math.acos(min(max(ab / norms, -1.0), 1.0)) if norms else 0.0
    sine = math.sin(omega)
    if sine <= _PARALLEL:
        return 1 - t, t
    return math.sin((1 - t) * omega) / sine, math.sin(t * omega) / sine
