"""Evolver: differential evolution on the weights of models (Du et al. 2024, arXiv 2406.12208).

Unlike :class:`DESampler` it proposes no point but parents: who is mutated, by the difference of
whom, and the seed of the crossover mask. ``mo.spaces.DifferentialCrossover`` says what that means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from merge_optuna.errors import StudyError
from merge_optuna.samplers._protocol.sampler import ArchiveSampler
from merge_optuna.samplers.adaptation import Adaptation, Fixed
from merge_optuna.samplers.algorithm import ArchiveAlgorithm, Candidate, Member
from merge_optuna.samplers.breeding import (
    CHILD,
    INDIVIDUAL,
    ORIGIN,
    SEED,
    Pedigree,
    breeding_of,
    draw_seed,
)

if TYPE_CHECKING:
    from merge_optuna.samplers.box import Box

__all__ = ["Evolver", "EvolverSampler"]

MEMBER = "member/"
"""Prefix of the parameters that name who is in the merged population."""
POPULATION = "population"
"""Origin of the merge of the models as they are."""
DONORS = ("donor_a", "donor_b")
_RATES: dict[str, BaseDistribution] = {
    "F": FloatDistribution(0.0, 2.0),
    "CR": FloatDistribution(0.0, 1.0),
    "mask_seed": SEED,
}


@dataclass
class _State:
    """The population; each model has a slot, named after it.

    Attributes:
        box: the search space.
        learned: what the adaptation has learned.
        slots: name of a slot -> who is in it.
        rivals: name of a slot -> whom a child with that target has to beat.
        tried: origins that have a result.
        results: number of children that have been scored.
        accepted: id -> whoever has been in a slot of the best merged population.
        pairs: (target, child) that the adaptation has not learned yet.
    """

    box: Box
    learned: Any
    slots: dict[str, Member] = field(default_factory=dict)
    rivals: dict[str, Member] = field(default_factory=dict)
    tried: set[str] = field(default_factory=set)
    results: int = 0
    accepted: dict[int, Member] = field(default_factory=dict)
    pairs: list[tuple[Member, Member]] = field(default_factory=list)


# -- Individuals ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutants(Pedigree):
    """Children of a target and donors, named by their ids, at given rates.

    A child draws the seed of its mask.

    Attributes:
        donors: 2 for the difference of two, 1 for that of one and the target.
        slots: Those of the parents: the target's first, then the donors', then all others.
        F: Scale factor of the difference.
        CR: Crossover rate.
        scoring: See :class:`EvolverSampler`.
        prefix: Before the name of the algorithm in databases.
    """

    donors: int = field(default=2, repr=False)
    slots: tuple[str, ...] = field(default=(), repr=False)
    F: float = field(default=0.5, repr=False)
    CR: float = field(default=0.5, repr=False)
    scoring: ClassVar[str] = "individual"
    prefix: ClassVar[str] = ""

    @property
    def roles(self) -> tuple[str, ...]:
        """The parameters that say who is mutated, and by whom."""
        return ("target", *DONORS[: self.donors])

    def cross(self, box: Box, parents: Sequence[Member], rng: np.random.Generator) -> Candidate:
        """See :class:`Breeding`."""
        named, words = self.named(parents)
        rates = {"F": self.F, "CR": self.CR, "mask_seed": draw_seed(rng)}
        return self.child(box, named, {**words, **rates})

    def children(self) -> dict[str, BaseDistribution]:
        """See :class:`Pedigree`."""
        return {**dict.fromkeys(self.roles, INDIVIDUAL), **_RATES}

    def named(self, parents: Sequence[Member]) -> tuple[dict[str, Member], dict[str, str]]:
        """Parents by the parameter that names them, and the parameters that name slots."""
        return dict(zip(self.roles, parents, strict=False)), {}

    def begin(self, state: _State, source: str, member: Member) -> None:
        """Put a source in its slot, unless it has been there; slots are in the models' order."""
        known = {source: member, **state.slots}
        state.slots = state.rivals = {name: known[name] for name in self.sources if name in known}

    def accept(self, state: _State, slot: str, child: Member) -> None:
        """Put a child that has beaten its rival in the slot of its target."""
        state.slots[slot] = child


@dataclass(frozen=True)
class Merged(Mutants):
    """Individuals of which the merged population is scored, the child in its target's place.

    Target and donors are named by their slots, and parameters of all slots say who is in each; id
    0, which is the merge of the models as they are, means that it is still its model. A child that
    is scored while the population has moved on, which takes several workers, is compared with the
    best all the same; if it is better, the population is the one that it was scored with.

    Attributes:
        models: What the slots are called.
    """

    models: tuple[str, ...] = field(default=(), repr=False)
    scoring = "merged"
    prefix = "Merged"

    def children(self) -> dict[str, BaseDistribution]:
        """See :class:`Pedigree`."""
        slot = CategoricalDistribution(self.models)
        members = {MEMBER + name: INDIVIDUAL for name in self.models}
        return {**dict.fromkeys(self.roles, slot), **members, **_RATES}

    def named(self, parents: Sequence[Member]) -> tuple[dict[str, Member], dict[str, str]]:
        """See :class:`Mutants`."""
        population = sorted(zip(self.slots, parents, strict=True))  # in the order of all slots
        members = {MEMBER + slot: one for slot, one in population}
        return members, dict(zip(self.roles, self.slots, strict=False))

    def begin(self, state: _State, source: str, member: Member) -> None:
        """See :class:`Mutants`: in all slots, which are in the order of their names."""
        if not state.slots:
            state.slots = dict.fromkeys(sorted(self.models), member)
            state.rivals, state.accepted[member.id] = state.slots, member

    def accept(self, state: _State, slot: str, child: Member) -> None:
        """See :class:`Mutants`."""
        params = state.box.params(child.x)
        state.accepted[child.id] = child
        state.slots = {name: state.accepted[params[MEMBER + name]] for name in state.slots}
        state.slots[slot] = child
        state.rivals = dict.fromkeys(state.slots, child)


# -- The algorithm ----------------------------------------------------------------------------

_FIXED = Fixed(0.5, 0.5)


@dataclass(frozen=True)
class Evolver(ArchiveAlgorithm):
    """Evolver.

    A candidate takes the next slot as its target and draws the donors at once, then F and CR, then
    what the crossover needs. A child takes its target's place at once if it is strictly better.
    """

    adaptation: Adaptation = _FIXED
    breeding: Mutants = field(kw_only=True, repr=False)

    @property
    def label(self) -> str:
        """See :class:`DistributionAlgorithm`."""
        return f"{self.breeding.prefix}{self!r}"

    def start(self, box: Box) -> _State:
        """Nobody is known."""
        return _State(box, self.adaptation.start())

    def ask(self, state: _State, rng: np.random.Generator) -> Candidate:
        """A child; once more a source while the first results are not in."""
        names, donors = list(state.slots), self.breeding.donors
        if len(names) <= donors:
            return self._early(state, rng)
        slot = names[state.results % len(names)]
        others = [name for name in names if name != slot]
        chosen = [others[i] for i in rng.choice(len(others), donors, replace=False)]
        order = tuple(dict.fromkeys([slot, *chosen, *others]))
        F, CR = self.adaptation.draw(state.learned, state.slots[slot], rng)
        crossover = replace(self.breeding, slots=order, F=F, CR=CR)
        child = crossover.cross(state.box, [state.slots[name] for name in order], rng)
        hidden = {"F_CR": np.array([F, CR]), "slot": np.array([float(names.index(slot))])}
        return replace(child, hidden=hidden)

    def _early(self, state: _State, rng: np.random.Generator) -> Candidate:
        if state.tried.issuperset(self.breeding.sources):
            raise StudyError(
                f"Only {len(state.slots)} of the models could be scored, too few for a "
                "difference. See the attribute 'error' of the first trials, or use "
                "mutation='toward'."
            )
        return self.breeding.first(self.breeding.uniform(state.box, rng), rng)

    def insert(self, state: _State, child: Member) -> _State:
        """A source takes its slot; a child that of its target, if it is better."""
        # A trial that failed may not have come to suggest its parameters.
        origin = state.box.params(child.x)[ORIGIN]
        if origin != CHILD:
            state.tried.add(origin)
            if self.breeding.fertile(child):
                self.breeding.begin(state, origin, child)
            return state
        slot = list(state.slots)[int(child.hidden["slot"][0])]
        rival = state.rivals[slot]
        state.results += 1
        if child.rank < rival.rank:
            self.breeding.accept(state, slot, child)
            state.pairs.append((rival, child))
        if state.results % len(state.slots) == 0:
            state.learned = self.adaptation.learn(state.learned, state.pairs)
            state.pairs = []
        return state


def _evolver(
    search_space: Mapping[str, BaseDistribution],
    *,
    F: float = 0.5,
    CR: float = 0.5,
    scoring: Literal["individual", "merged"] = "individual",
    adaptation: Adaptation | None = None,
) -> Evolver:
    """The algorithm of :class:`EvolverSampler`.

    Args:
        search_space: ``space.distributions()`` of a ``mo.spaces.DifferentialCrossover``.
        F: scale factor of the difference.
        CR: crossover rate: the share of coordinates that come from the mutant.
        scoring: what is compared: ``"individual"`` scores the child, ``"merged"`` the whole
            population merged with the child in the place of its target. That of the space.
        adaptation: where F and CR come from instead: ``JDE()``, ``SHADE(memory)``, ``Dither()``.
    """
    breeding = breeding_of(search_space)
    if not isinstance(breeding, Mutants):
        raise StudyError(
            "EvolverSampler searches a mo.spaces.DifferentialCrossover: "
            "sampler=space.sampler(seed=0)."
        )
    if scoring != breeding.scoring:
        merged = breeding.scoring == "merged"
        remedy = "merger=None" if merged else "merger=a recipe, e.g. mo.recipes.ties"
        raise StudyError(
            f"scoring={scoring!r}, but the space scores the {breeding.scoring} "
            f"{'population' if merged else 'model'}. Make it with {remedy}."
        )
    return Evolver(Fixed(F, CR) if adaptation is None else adaptation, breeding=breeding)


class EvolverSampler(ArchiveSampler, algorithm=_evolver, without=("initial_population",)):
    """Differential evolution on the weights of models; its population is the stored trials.

    The first trials are the models themselves, or their merge. Then one model after the other is
    the target: a mutant is made of it by the difference of two others (or of one other and
    itself), some of its coordinates go into the child, and the child takes the target's place at
    once if it is strictly better. One generation is as many trials as there are models. With
    several workers every result takes its place as it comes.
    """

    breeds = True
