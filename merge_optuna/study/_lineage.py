"""Who a trial descends from, in searches whose individuals are named by their parents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

from merge_optuna import _optuna_compat as compat
from merge_optuna.errors import StudyError
from merge_optuna.samplers.breeding import ORIGIN
from merge_optuna.samplers.evolver import MEMBER
from merge_optuna.samplers.plumbing import own_claim
from merge_optuna.spaces import Declaration, family_of, parents_of
from merge_optuna.study._export import frozen_trial
from merge_optuna.study._recorded import stored_space

if TYPE_CHECKING:
    import optuna

_ROLES = "target", "donor_a", "donor_b"


class Ancestor(NamedTuple):
    """A trial that another descends from, or that trial itself.

    Attributes:
        trial: Number of the trial.
        individual: What parameters call it: its place among the finished trials; None if no
            trial of the study is its child.
        origin: The source it is, or ``"child"``.
        value: What it was scored; None if it has no score (yet).
        parents: Numbers of the parents' trials by the parameter that names them; empty for a
            source.
        params: The other parameters, e.g. split and ratio.
        generation: 0 for a source, one more than the highest of its parents for a child.
    """

    trial: int
    individual: int | None
    origin: str
    value: float | None
    parents: Mapping[str, int]
    params: Mapping[str, Any]
    generation: int


@dataclass(frozen=True)
class Lineage:
    """A trial and everybody whom it descends from.

    Attributes:
        study: Name of the study.
        ancestors: Parents before children, the trial itself last.
        inertia: w, c1 and c2 of a swarm of particles; None in other spaces.
    """

    study: str
    ancestors: tuple[Ancestor, ...]
    inertia: tuple[float, float, float] | None = field(default=None, compare=False)

    @property
    def trial(self) -> Ancestor:
        """The trial itself."""
        return self.ancestors[-1]

    @cached_property
    def shares(self) -> dict[str, float] | None:
        """How much of each source is in the weights: mean coefficients, which sum to 1.

        As :meth:`shares_between` has them of all of the weights, the largest first. None for the
        merge of a population.
        """
        found = self.shares_between((0.0, 1.0))
        if found is None:
            return None
        whole = {name: float(amount[0]) for name, amount in found.items()}
        return dict(sorted(whole.items(), key=lambda share: -share[1]))

    def shares_between(self, places: Sequence[float]) -> dict[str, NDArray[np.float64]] | None:
        """How much of each source is in each stretch of the flat model, e.g. of each layer.

        Every child is a combination of its parents, element by element, and so of the sources. A
        share is the mean, over the elements of a stretch, of the coefficient that a source has in
        the trial. It follows from the genealogy alone, without the weights: (1 − t) a + t b for an
        interpolation, also where that is spherical; split points as drawn, before they snap to a
        layer; target + CR F (a − b) for a crossover, whose mask is known by its rate; r1 and r2 of
        a particle by their mean, a half; no noise.

        Args:
            places: Borders of the stretches as fractions of the flat model (all merged elements,
                tensors from input to output), rising; (n + 1,).

        Returns:
            By source (n,), which sum to 1 in each stretch; of donors they may be negative. None
            for the merge of a population, see :attr:`members`.
        """
        if self._is_merged or (self._is_particle and self.inertia is None):
            return None
        splits = [a.params["split"] for a in self.ancestors if "split" in a.params]
        borders = np.array(places, np.float64)
        inner = [split for split in splits if borders[0] < split < borders[-1]]
        ends = np.unique([*borders, *inner])
        found = self._coefficients(self.trial.trial, ends[:-1])
        stretch = borders.searchsorted(ends[:-1], "right") - 1
        sizes = np.diff(borders)
        parts = {n: np.bincount(stretch, c * np.diff(ends), len(sizes)) for n, c in found.items()}
        return {name: part / sizes for name, part in parts.items()}

    @property
    def members(self) -> dict[str, dict[str, float]] | None:
        """How much of each model is in each member of the population whose merge was scored.

        By slot, in the order of their names, then by model, as in :attr:`shares`. None where a
        trial is one individual.
        """
        if not self._is_merged:
            return None
        known = {one.trial: one for one in self.ancestors}
        found: dict[str, dict[str, float]] = {}
        for name, number in sorted(self.trial.parents.items()):
            slot = name.removeprefix(MEMBER)
            who = self.trial if slot == self.trial.params["target"] else known[number]
            if not who.parents:
                found[slot] = {slot: 1.0}
                continue
            own = self._coefficients(who.trial, np.zeros(1))
            found[slot] = {model: float(share[0]) for model, share in own.items()}
        return found

    @property
    def _is_merged(self) -> bool:
        return any(name.startswith(MEMBER) for name in self.trial.parents)

    @property
    def _is_particle(self) -> bool:
        return "position" in self.trial.parents

    def _coefficients(
        self, of: int, places: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """Of each source in a trial, from each place on, between two of which nothing splits."""
        amounts: defaultdict[int, Any] = defaultdict(lambda: np.zeros(len(places)))
        amounts[of] = np.ones(len(places))
        found: defaultdict[str, Any] = defaultdict(lambda: np.zeros(len(places)))
        if not (sources := {one.trial: one.origin for one in self.ancestors if not one.parents}):
            return {}
        for one in reversed(self.ancestors):  # children first
            if one.trial not in amounts or one.trial in sources:
                continue
            amount = amounts.pop(one.trial)
            for role, factor in _factors(one, places, self.inertia).items():
                parent, slot = _parent(one, role)
                if parent in sources and slot is not None:  # still the model of that slot
                    found[slot] = found[slot] + factor * amount
                else:
                    amounts[parent] = amounts[parent] + factor * amount
        for number, amount in amounts.items():
            found[sources[number]] = found[sources[number]] + amount
        return dict(found)

    def tree(self, depth: int | None = None) -> str:
        """One line per ancestor, parents indented below their child; who comes again is named.

        Args:
            depth: How many generations back; all of them when omitted.
        """
        known = {one.trial: one for one in self.ancestors}
        lines, told = [], set()
        stack = [("", self.trial.trial, 0)]
        while stack:
            role, number, level = stack.pop()
            one, again = known[number], number in told
            told.add(number)
            lines.append("  " * level + role + (_again(one) if again else _line(one)))
            if not again and level != depth:
                parents = [(f"{name}: ", n, level + 1) for name, n in one.parents.items()]
                stack += reversed(parents)
        missing = len(known) - len(told)
        return "\n".join([*lines, *([f"{missing} earlier ancestors"] if missing else [])])

    def __str__(self) -> str:
        return self.tree()

    def to_data(self) -> dict[str, Any]:
        """As plain dictionaries, lists and numbers."""
        ancestors = [
            {**one._asdict(), "parents": dict(one.parents), "params": dict(one.params)}
            for one in self.ancestors
        ]
        return {
            "study": self.study,
            "trial": self.trial.trial,
            "shares": self.shares,
            "ancestors": ancestors,
        }


def lineage(study: optuna.Study, trial: FrozenTrial | int | None = None) -> Lineage:
    """Whom a trial descends from, from the database alone.

    Args:
        study: A study of ``mo.spaces.SplitSlerp``, ``DifferentialCrossover`` or ``ParticleSwarm``.
        trial: A trial or its number; the best one when omitted.

    Raises:
        StudyError: If trials of the study have no parents, there is no such trial, or somebody it
            descends from is missing or cannot be a parent.
    """
    last = frozen_trial(study, trial)
    if ORIGIN not in last.params:
        raise StudyError(
            f"Trial {last.number} of the study {study.study_name!r} descends from no other: "
            f"it has no {ORIGIN!r}. Those of mo.spaces.SplitSlerp, DifferentialCrossover and "
            "ParticleSwarm have; of others, mo.recipe_of(study, trial) says all there is."
        )
    ids = _ids(compat.all_trials(study))
    found: dict[int, Ancestor] = {}
    for one in family_of(study, last.number):
        parents = parents_of(one)
        above = [found[number].generation for number in parents.values()]
        found[one.number] = Ancestor(
            one.number,
            ids.get(one.number),
            one.params[ORIGIN],
            one.values[0] if one.values else None,
            parents,
            {k: v for k, v in one.params.items() if k != ORIGIN and k not in parents},
            1 + max(above) if above else 0,
        )
    ancestors = tuple(sorted(found.values()))
    return Lineage(study.study_name, ancestors, _inertia(study))


def _line(one: Ancestor) -> str:
    value = "no score" if one.value is None else f"{one.value:.4g}"
    if not one.parents:
        return f"trial {one.trial}: {one.origin}, {value}"
    how = ", ".join(f"{name}={_in_words(v)}" for name, v in one.params.items())
    return f"trial {one.trial}: {value}, {how}"


def _again(one: Ancestor) -> str:
    return f"trial {one.trial}" + (", see above" if one.parents else f": {one.origin}")


def _in_words(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _ids(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """Number of a trial -> what its children call it."""
    ids = {}
    for trial in trials:
        claim = own_claim(trial)
        for name, number in claim.parents.items() if claim is not None else ():
            if name in trial.params:
                ids[number] = trial.params[name]
    return ids


def _parent(one: Ancestor, role: str) -> tuple[int, str | None]:
    """The trial of a parent; where a population is merged also the slot that it is in."""
    if role in one.parents:
        return one.parents[role], None
    slot = one.params[role]
    return one.parents[MEMBER + slot], slot


def _factors(
    one: Ancestor, places: NDArray[np.float64], inertia: tuple[float, float, float] | None
) -> dict[str, Any]:
    """How much of each parent is in a child, from each of these places of the flat model on."""
    if "split" in one.params:
        t = np.where(places < one.params["split"], one.params["ratio"], 1 - one.params["ratio"])
        return {"parent_a": 1 - t, "parent_b": t}
    if "position" in one.parents:
        w, c1, c2 = inertia or (0.0, 0.0, 0.0)
        own, swarm = c1 / 2, c2 / 2
        here = 1 + w - own - swarm
        return {"position": here, "before": -w, "pbest": own, "gbest": swarm}
    target, *donors = [role for role in _ROLES if role in {**one.parents, **one.params}]
    moved = one.params["F"] * one.params["CR"]
    if len(donors) == 1:
        return {target: 1 - moved, donors[0]: moved}
    return {target: 1.0, donors[0]: moved, donors[1]: -moved}


def _inertia(study: optuna.Study) -> tuple[float, float, float] | None:
    """The constants of a swarm, if the study's space has them."""
    space = stored_space(study)
    options = space.options if isinstance(space, Declaration) else {}
    if not {"w", "c1", "c2"} <= options.keys():
        return None
    return options["w"], options["c1"], options["c2"]
