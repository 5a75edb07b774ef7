"""Evolver: differential evolution on the weights of models (Du et al. 2024, arXiv 2406.12208).

Unlike :class:`DESampler` it proposes no point but parents: who is mutated, by the difference of
whom, and the seed of the crossover mask. ``mo.spaces.DifferentialCrossover`` says what that means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from merge_optuna.errors import StudyError
from merge_optuna.samplers._genealogy import (
    CHILD,
    ORIGIN,
    SEEDS,
    child,
    individual_id,
    origin,
    seed_number,
    source,
    sources_of,
)
from merge_optuna.samplers._protocol.sampler import ArchiveSampler
from merge_optuna.samplers.algorithm import ArchiveAlgorithm, Candidate, Member
from merge_optuna.samplers.de import Adaptation, Fixed

if TYPE_CHECKING:
    from merge_optuna.samplers.box import Box

MEMBER = "member/"
"""Prefix of the parameters that name who is in the merged population."""
POPULATION = "population"
"""Origin of the merge of the models as they are."""
_RATES: dict[str, BaseDistribution] = {
    "F": FloatDistribution(0.0, 2.0),
    "CR": FloatDistribution(0.0, 1.0),
    "mask_seed": seed_number(),
}


def individuals_space(sources: Sequence[str], *, donors: int) -> dict[str, BaseDistribution]:
    """The space of individuals that are scored themselves: target and donors by their ids."""
    parents = ("target", *DONORS[:donors])
    return {ORIGIN: origin(sources), **dict.fromkeys(parents, individual_id()), **_RATES}


def merged_space(sources: Sequence[str], *, donors: int) -> dict[str, BaseDistribution]:
    """The space of merged populations: target and donors by their slots, and who is in each.

    A slot has the name of the model that it began with; id 0, which is the merge of the models as
    they are, means that it is still there.
    """
    slot = CategoricalDistribution(list(sources))
    return {
        ORIGIN: origin([POPULATION]),
        **dict.fromkeys(("target", *DONORS[:donors]), slot),
        **{MEMBER + name: individual_id() for name in sources},
        **_RATES,
    }


DONORS = ("donor_a", "donor_b")


@dataclass
class _State:
    """The population.

    Attributes:
        box: the search space.
        learned: what the adaptation has learned.
        slots: name of a slot -> who is in it.
        tried: origins that have a result.
        results: number of children that have been scored.
        best: the best merged population.
        accepted: id -> whoever has been in a slot of the best merged population.
        pairs: (target, child) that the adaptation has not learned yet.
    """

    box: Box
    learned: Any
    slots: dict[str, Member] = field(default_factory=dict)
    tried: set[str] = field(default_factory=set)
    results: int = 0
    best: Member | None = None
    accepted: dict[int, Member] = field(default_factory=dict)
    pairs: list[tuple[Member, Member]] = field(default_factory=list)


_FIXED = Fixed(0.5, 0.5)


@dataclass(frozen=True)
class Evolver(ArchiveAlgorithm):
    """Evolver; the options are those of :class:`EvolverSampler`.

    A candidate takes the next slot as its target and draws the donors at once, then F and CR, then
    the seed of the mask. A child replaces its target at once if it is strictly better.
    """

    adaptation: Adaptation = _FIXED

    def start(self, box: Box) -> _State:
        """Nobody is known."""
        return _State(box, self.adaptation.start())

    def ask(self, state: _State, rng: np.random.Generator) -> Candidate:
        """A child; once more a source while the first results are not in."""
        donors = [name for name in DONORS if name in state.box.space]
        names = list(state.slots)
        if len(names) <= len(donors):
            return self._early(state, rng)
        slot = names[state.results % len(names)]
        others = [name for name in names if name != slot]
        chosen = [others[i] for i in rng.choice(len(others), len(donors), replace=False)]
        F, CR = self.adaptation.draw(state.learned, state.slots[slot], rng)
        numbers = {"F": F, "CR": CR, "mask_seed": int(rng.integers(SEEDS))}
        hidden = {"F_CR": np.array([F, CR]), "slot": np.array([float(names.index(slot))])}
        roles = dict(zip(("target", *donors), (slot, *chosen), strict=True))
        return self._child(state, roles, numbers, hidden)

    def _early(self, state: _State, rng: np.random.Generator) -> Candidate:
        sources = sources_of(state.box.space)
        if state.tried >= set(sources):
            raise StudyError(
                f"Only {len(state.slots)} of the models could be scored, too few for a "
                "difference. See the attribute 'error' of the first trials, or use "
                "mutation='toward'."
            )
        return source(state.box, str(rng.choice(sources)))

    def _child(
        self,
        state: _State,
        roles: Mapping[str, str],
        numbers: Mapping[str, Any],
        hidden: Mapping[str, Any],
    ) -> Candidate:
        """The candidate whose target and donors are in these slots."""
        parents = {role: state.slots[slot] for role, slot in roles.items()}
        return child(state.box, parents, numbers, hidden)

    def insert(self, state: _State, child: Member) -> _State:
        """A source takes its slot; a child that of its target, if it is better."""
        name = _params(state, child)[ORIGIN]
        if name != CHILD:
            state.tried.add(name)
            if child.rank.state < 2 and name not in state.slots:
                state.slots[name] = child
                order = sources_of(state.box.space)
                state.slots = {n: state.slots[n] for n in order if n in state.slots}
            return state
        slot = list(state.slots)[int(child.hidden["slot"][0])]
        target = state.slots[slot]
        won = child.rank < target.rank
        if won:
            state.slots[slot] = child
        return self._after(state, target, child, won=won)

    def _after(self, state: _State, target: Member, child: Member, *, won: bool) -> _State:
        """One more child has been scored; the adaptation learns after each generation."""
        state.results += 1
        if won:
            state.pairs.append((target, child))
        if state.results % len(state.slots) == 0:
            state.learned = self.adaptation.learn(state.learned, state.pairs)
            state.pairs = []
        return state


@dataclass(frozen=True)
class MergedEvolver(Evolver):
    """Evolver that scores the merged population: a child stays if the merge with it is better.

    A child that is scored while the population has moved on, which takes several workers, is
    compared with the best all the same; if it is better, the population is the one that it was
    scored with.
    """

    def _child(
        self,
        state: _State,
        roles: Mapping[str, str],
        numbers: Mapping[str, Any],
        hidden: Mapping[str, Any],
    ) -> Candidate:
        members = {MEMBER + name: one for name, one in state.slots.items()}
        return child(state.box, members, {**roles, **numbers}, hidden)

    def insert(self, state: _State, child: Member) -> _State:
        """The first result is the merge of the models as they are; then the best merge stays."""
        names = [name.removeprefix(MEMBER) for name in state.box.names if name.startswith(MEMBER)]
        params = _params(state, child)
        if params[ORIGIN] != CHILD:
            state.tried.add(params[ORIGIN])
            if child.rank.state < 2 and state.best is None:
                state.best, state.slots = child, dict.fromkeys(names, child)
                state.accepted[child.id] = child
            return state
        assert state.best is not None  # every child has a population
        target, before = str(params["target"]), state.best
        won = child.rank < before.rank
        if won:
            state.accepted[child.id] = child
            state.slots = {name: state.accepted[params[MEMBER + name]] for name in names}
            state.slots[target] = state.best = child
        return self._after(state, before, child, won=won)


def _params(state: _State, member: Member) -> dict[str, Any]:
    """What was proposed; a trial that failed may not have come to suggest it."""
    return state.box.params(member.x)


class EvolverSampler(ArchiveSampler):
    """Differential evolution on the weights of models; its population is the stored trials.

    The first trials are the models themselves, or their merge. Then one model after the other is
    the target: a mutant is made of it by the difference of two others (or of one other and
    itself), some of its coordinates go into the child, and the child takes the target's place at
    once if it is strictly better. One generation is as many trials as there are models.

    A search that is killed and started again goes on exactly as if nothing had happened; with
    several workers every result takes its place as it comes.

    Args:
        search_space: ``space.distributions()`` of a ``mo.spaces.DifferentialCrossover``.
        F: scale factor of the difference.
        CR: crossover rate: the share of coordinates that come from the mutant.
        scoring: what is compared: ``"individual"`` scores the child, ``"merged"`` the whole
            population merged with the child in the place of its target. That of the space.
        adaptation: where F and CR come from instead: ``JDE()``, ``SHADE(memory)``, ``Dither()``.
        seed: a non-negative integer. None takes the seed of the study's first trial, or draws
            one.
        max_attempts: how often a candidate is proposed until its trial does not fail.

    Raises:
        StudyError: for another space, or options that are out of range.
    """

    _algorithm: Evolver
    breeds = True

    def __init__(
        self,
        search_space: Mapping[str, BaseDistribution],
        *,
        F: float = 0.5,
        CR: float = 0.5,
        scoring: Literal["individual", "merged"] = "individual",
        adaptation: Adaptation | None = None,
        seed: int | None = None,
        max_attempts: int = 3,
    ) -> None:
        if not {ORIGIN, "target", DONORS[0], *_RATES} <= set(search_space):
            raise StudyError(
                "EvolverSampler searches a mo.spaces.DifferentialCrossover: "
                "sampler=space.sampler(seed=0)."
            )
        found = "merged" if any(name.startswith(MEMBER) for name in search_space) else "individual"
        if scoring != found:
            remedy = (
                "merger=None" if found == "merged" else "merger=a recipe, e.g. mo.recipes.ties"
            )
            raise StudyError(
                f"scoring={scoring!r}, but the space scores the {found} "
                f"{'population' if found == 'merged' else 'model'}. Make it with {remedy}."
            )
        kind = MergedEvolver if scoring == "merged" else Evolver
        super().__init__(
            kind(Fixed(F, CR) if adaptation is None else adaptation),
            search_space,
            initial_population=[{ORIGIN: name} for name in sources_of(search_space)],
            seed=seed,
            max_attempts=max_attempts,
        )
