"""Who a trial descends from, in searches whose individuals are named by their parents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from merge_optuna.spaces import family_of, parents_of
from merge_optuna.study._export import frozen_trial

if TYPE_CHECKING:
    import optuna


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
    """

    study: str
    ancestors: tuple[Ancestor, ...]

    @property
    def trial(self) -> Ancestor:
        """The trial itself."""
        return self.ancestors[-1]

    @cached_property
    def shares(self) -> dict[str, float] | None:
        """How much of each source is in the weights: mean coefficients, which sum to 1.

        As :meth:`shares_between` has them of all of the weights, the largest first. None for the
        merge of a population and for particles.
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
        layer; target + CR F (a − b) for a crossover, whose mask is known by its rate; no noise.

        Args:
            places: Borders of the stretches as fractions of the flat model (all merged elements,
                tensors from input to output), rising; (n + 1,).

        Returns:
            By source (n,), which sum to 1 in each stretch; of donors they may be negative. None
            for the merge of a population and for particles.
        """
        if any(name.startswith(MEMBER) or name == "position" for name in self.trial.parents):
            return None
        splits = [a.params["split"] for a in self.ancestors if "split" in a.params]
        borders = np.array(places, np.float64)
        inner = [split for split in splits if borders[0] < split < borders[-1]]
        ends = np.unique([*borders, *inner])
        found = self._coefficients(ends[:-1])
        stretch = borders.searchsorted(ends[:-1], "right") - 1
        sizes = np.diff(borders)
        parts = {n: np.bincount(stretch, c * np.diff(ends), len(sizes)) for n, c in found.items()}
        return {name: part / sizes for name, part in parts.items()}

    def _coefficients(self, places: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Of each source from each place on, between two of which nothing splits."""
        amounts: defaultdict[int, Any] = defaultdict(lambda: np.zeros(len(places)))
        amounts[self.trial.trial] = np.ones(len(places))
        found: defaultdict[str, Any] = defaultdict(lambda: np.zeros(len(places)))
        for one in reversed(self.ancestors):  # children first
            amount = amounts.pop(one.trial)
            if not one.parents:
                found[one.origin] = found[one.origin] + amount
            for role, factor in _factors(one, places).items() if one.parents else ():
                amounts[one.parents[role]] = amounts[one.parents[role]] + factor * amount
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
    return Lineage(study.study_name, tuple(sorted(found.values())))


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


def _factors(one: Ancestor, places: NDArray[np.float64]) -> dict[str, Any]:
    """How much of each parent is in a child, from each of these places of the flat model on."""
    if "split" in one.params:
        t = np.where(places < one.params["split"], one.params["ratio"], 1 - one.params["ratio"])
        return {"parent_a": 1 - t, "parent_b": t}
    target, *donors = one.parents
    moved = one.params["F"] * one.params["CR"]
    if len(donors) == 1:
        return {target: 1 - moved, donors[0]: moved}
    return {target: 1.0, donors[0]: moved, donors[1]: -moved}
