"""The front of a search with several objectives: the trials that none other dominates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, overload

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

from merge_optuna import _markdown as markdown
from merge_optuna import _optuna_compat as compat
from merge_optuna._records import breakdown_of, decoding, violation_of
from merge_optuna._schema import SAME_AS
from merge_optuna.errors import StudyError, shown
from merge_optuna.study._baselines import Baseline, Baselines, aligned, stored_baselines
from merge_optuna.study._constraints import infeasible
from merge_optuna.study._export import complete_trials

_WIDTH = 80


@dataclass(frozen=True)
class Point:
    """A trial of a front.

    Attributes:
        number: Of the trial, for ``mo.export(study, folder, trial=)`` and ``mo.recipe_of``.
        values: One per objective.
        breakdown: What they are made of, e.g. by task; mostly nothing.
        constraints: By name, none above 0; mostly nothing.
        dominates: Names of the baselines that are better in no objective and worse in one, or
            infeasible.
        no_better_than: Names of the baselines that are worse in no objective: with one of these
            the search has gained nothing here.
        trial: As Optuna has it.
    """

    number: int
    values: tuple[float, ...]
    breakdown: Mapping[str, float]
    constraints: Mapping[str, float]
    dominates: tuple[str, ...]
    no_better_than: tuple[str, ...]
    trial: FrozenTrial = field(repr=False, compare=False)

    def __index__(self) -> int:
        """Its number: a point can be given wherever that of a trial can."""
        return self.number

    @property
    def name(self) -> str:
        """As it is called in tables."""
        return f"trial {self.number}"

    def to_data(self) -> dict[str, Any]:
        """As plain dictionaries, lists and numbers."""
        return {
            "trial": self.number,
            "values": [*self.values],
            "breakdown": dict(self.breakdown),
            "constraints": dict(self.constraints),
            "dominates": [*self.dominates],
            "no_better_than": [*self.no_better_than],
        }


class Front(Sequence[Point]):
    """The points of a front, best first in the first objective, with the baselines beside them.

    A sequence, and a table when printed.

    Attributes:
        study: Name of the study.
        directions: ``"maximize"`` or ``"minimize"``, one per objective.
        metrics: Names, one per objective.
        baselines: Those of the study.
        reference: The worst value that any completed trial or baseline has, one per objective.
    """

    def __init__(
        self,
        study: str,
        trials: Sequence[FrozenTrial],
        baselines: Baselines,
        worst: Sequence[float],
    ) -> None:
        """Orders the points and compares them with the baselines.

        Args:
            study: Name of the study.
            trials: Of which none dominates another, with one value per direction.
            baselines: Those of the study.
            worst: The reference.
        """
        self.study, self.baselines, self.reference = study, baselines, tuple(worst)
        self.directions, self.metrics = baselines.directions, baselines.metrics
        self._signs = signs_of(self.directions)
        points = map(self._point, trials)
        self._points = sorted(points, key=lambda p: (*(self._signs * p.values), p.number))

    @overload
    def __getitem__(self, key: int) -> Point: ...
    @overload
    def __getitem__(self, key: slice) -> list[Point]: ...
    def __getitem__(self, key: int | slice) -> Point | list[Point]:
        return self._points[key]

    def __len__(self) -> int:
        return len(self._points)

    # -- how good it is ------------------------------------------------------------------------

    def hypervolume(self, reference: Sequence[float] | None = None) -> float:
        """The volume between the points and a reference: what they dominate of it, all together.

        It grows with every point that is new on the front. To compare two fronts give both the
        same reference. A point that is worse than it in an objective adds nothing.

        Args:
            reference: A bad value per objective; :attr:`reference` when omitted.

        Raises:
            StudyError: If it is not one finite number per objective.
        """
        given = self.reference if reference is None else self._checked(reference)
        limit, losses = self._signs * given, self._losses()
        inside = losses[(losses <= limit).all(axis=1)]
        return compat.hypervolume(inside, limit) if len(inside) else 0.0

    def spread(self, most: int) -> list[Point]:
        """The points, or ``most`` of them that spread best: together they dominate most.

        They are chosen one after the other, each the one that adds most to the hypervolume.

        Args:
            most: How many, at least 1.

        Raises:
            StudyError: If it is less than 1.
        """
        if most < 1:
            raise StudyError(f"most= is how many points to keep, at least 1, not {most}.")
        if most >= len(self):
            return [*self]
        limit = self._signs * self.reference
        chosen = compat.hypervolume_subset(self._losses(), most, limit)
        return [self[i] for i in sorted(chosen)]

    @cached_property
    def dominated(self) -> tuple[str, ...]:
        """Names of the baselines that a point dominates."""
        names = {name for point in self for name in point.dominates}
        return tuple(row.name for row in self.baselines if row.name in names)

    # -- in words ------------------------------------------------------------------------------

    def table(self, *, parts: bool = True) -> tuple[list[str], list[list[str]]]:
        """Heads of the columns and cells: the points, then the baselines.

        Args:
            parts: Whether there is a column for each part that values are made of.
        """
        rows = self._baselines_shown()
        broken = [one.breakdown for one in (*self, *rows)]
        names = dict.fromkeys(name for one in broken for name in one if name not in self.metrics)
        kept = [*names] if parts else []
        head = ["", *self.metrics, *kept, "no better than", ""]
        points = [
            [
                *(p.name, *_cells(p.values, p.breakdown, kept)),
                *(_number(len(p.no_better_than), "baseline"), ""),
            ]
            for p in self
        ]
        beside = [
            [row.name, *_cells(row.values, row.breakdown, kept), self._beaten_by(row), row.note]
            for row in rows
            if row.values is not None
        ]
        return head, [*points, *beside]

    def to_markdown(self) -> str:
        """The table, and what is to be known of it."""
        return markdown.page([markdown.table(*self.table()), " ".join(self.notes)])

    def to_data(self) -> dict[str, Any]:
        """As plain dictionaries, lists and numbers."""
        return {
            "study": self.study,
            "directions": [*self.directions],
            "metrics": [*self.metrics],
            "reference": [*self.reference],
            "hypervolume": self.hypervolume(),
            "points": [point.to_data() for point in self],
            "dominated": [*self.dominated],
        }

    @property
    def notes(self) -> list[str]:
        """What the table does not say, in sentences."""
        worst = zip(self.metrics, self.reference, strict=True)
        where = ", ".join(f"{name} {value:.4g}" for name, value in worst)
        points, volume = _number(len(self), "point"), self.hypervolume()
        said = [f"{points}, hypervolume {volume:.4g} from {where}."]
        if self._scored:
            known = _number(len(self._scored), "baseline")
            said.append(f"Of {known} it dominates {len(self.dominated)}.")
        return said

    def __repr__(self) -> str:
        return str(self) if self._points else f"no point on the front of {self.study!r}"

    def __str__(self) -> str:
        """The table in at most 80 columns, without the parts of values where these need more."""
        lines = [aligned(*self.table(), texts=(0, -2, -1)), "", *self.notes]
        if max(map(len, lines[0].splitlines())) > _WIDTH and any(one.breakdown for one in self):
            lines[0] = aligned(*self.table(parts=False), texts=(0, -2, -1))
            lines.append("What values are made of is in front[i].breakdown.")
        return "\n".join(lines)

    def _repr_markdown_(self) -> str:
        return self.to_markdown()

    # -- beside the baselines ------------------------------------------------------------------

    @cached_property
    def _scored(self) -> list[Baseline]:
        """The baselines that can be compared: an ensemble is no checkpoint."""
        return [row for row in self.baselines if row.values is not None and row.is_checkpoint]

    def _baselines_shown(self) -> list[Baseline]:
        """The headlines, and those that a point does not beat."""
        ahead = {name for point in self for name in point.no_better_than[:1]}
        kept = {row.name for row in self.baselines.headlines} | ahead
        return [row for row in self.baselines if row.name in kept]

    def _beaten_by(self, row: Baseline) -> str:
        """How many points are in no objective worse than a baseline."""
        if not row.is_checkpoint:
            return ""
        losses = self._signs * np.array(row.values)
        number = int((self._losses() <= losses).all(axis=1).sum())
        return _number(number, "trial")

    def _point(self, trial: FrozenTrial) -> Point:
        own = self._signs * trial.values
        losses = {row.name: self._signs * np.array(row.values) for row in self._scored}
        # what is infeasible is dominated by all that is feasible, as every point of a front is
        out = {row.name for row in self._scored if row.violation}
        behind = [
            n for n, x in losses.items() if n in out or ((own <= x).all() and (own < x).any())
        ]
        ahead = [n for n, x in losses.items() if n not in out and (x <= own).all()]
        return Point(
            trial.number,
            tuple(trial.values),
            breakdown_of(trial),
            dict(trial.constraints),
            tuple(behind),
            tuple(ahead),
            trial,
        )

    def _losses(self) -> NDArray[np.float64]:
        """The values to be minimised, (n, objectives)."""
        values = np.array([point.values for point in self], np.float64)
        return self._signs * values.reshape(len(self), len(self.metrics))

    def _checked(self, reference: Sequence[float]) -> tuple[float, ...]:
        given = tuple(map(float, np.atleast_1d(reference)))
        if len(given) != len(self.metrics) or not np.isfinite(given).all():
            raise StudyError(
                f"reference= is a finite number for each of {', '.join(self.metrics)}, not "
                f"{shown(reference)}."
            )
        return given


def front_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials of :func:`pareto`, in the order of their numbers.

    Raises:
        StudyError: If a completed one has more or fewer values than the study has objectives, or
            constraints that are no numbers.
    """
    complete_trials(study)  # Optuna takes it for granted that they have their values
    with decoding(f"list of constraints of a trial of the study {study.study_name!r}"):
        return [t for t in compat.pareto_trials(study) if SAME_AS not in t.user_attrs]


def front_of(study: optuna.Study) -> Front:
    """As :func:`pareto`, but empty where no trial is complete and feasible."""
    if not isinstance(study, optuna.Study):
        raise StudyError(
            f"Expected a study, e.g. what mo.MergeStudy.run returns, not {shown(study)}: "
            "mo.pareto(study)."
        )
    trials, baselines = front_trials(study), stored_baselines(study)
    signs = signs_of(baselines.directions)
    known = [t.values for t in complete_trials(study)]
    known += [row.values for row in baselines if row.values is not None and row.is_checkpoint]
    worst = signs * (signs * np.array(known or [[np.nan] * len(signs)])).max(axis=0)
    return Front(study.study_name, trials, baselines, [*map(float, worst)])


def pareto(study: optuna.Study) -> Front:
    """The front of a study: its completed trials that are feasible and that none other dominates.

    One dominates another if it is worse in no objective and better in one; feasible is what
    violates no constraint. These are Optuna's ``study.best_trials``, without those whose model is
    that of another trial. :func:`mo.export` writes one, ``trial=front[0].number``, and
    :func:`mo.export_front` all of them.

    Args:
        study: With several objectives. Of a study with one it is the best trial, and those that
            are as good.

    Raises:
        StudyError: If no trial is complete, or none is feasible: then the one that is least
            infeasible is named.

    Example:
        >>> front = mo.pareto(study)
        >>> print(front)  # beside the baselines
        >>> front.hypervolume(reference=(0.0, 200.0))  # accuracy, tokens
    """
    front = front_of(study)
    if not front:
        raise StudyError(why_empty(study))
    return front


def why_empty(study: optuna.Study) -> str:
    """Why a study has no front."""
    complete = complete_trials(study)
    if not complete:
        return f"The study {study.study_name!r} has no completed trial yet."
    nearest = min(complete, key=lambda trial: (violation_of(trial), trial.number))
    values = ", ".join(f"{value:.4g}" for value in nearest.values)
    return (
        f"{infeasible(study, nearest)} It is the least infeasible one, with the values {values}: "
        f"to take it nevertheless say trial={nearest.number} (--trial)."
    )


def signs_of(directions: Sequence[str]) -> NDArray[np.float64]:
    """What values are multiplied by to be minimised, one per objective."""
    return np.array([-1.0 if direction == "maximize" else 1.0 for direction in directions])


def _cells(
    values: Sequence[float] | None, breakdown: Mapping[str, float], parts: Sequence[str]
) -> list[str]:
    numbers = [*(values or ()), *(breakdown.get(name) for name in parts)]
    return ["" if number is None else f"{number:.4g}" for number in numbers]


def _number(n: int, what: str) -> str:
    """So many of them, or nothing."""
    return f"{n} {what}{'s' if n > 1 else ''}" if n else ""
