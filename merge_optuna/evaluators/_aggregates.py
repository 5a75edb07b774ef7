"""What the values of several tasks add up to, or that each of them is an objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from merge_optuna.errors import EvaluationError, few, shown
from merge_optuna.evaluators._protocol import Evaluator, Scores, as_number

TasksByName: TypeAlias = Mapping[str, Evaluator]
Values: TypeAlias = Mapping[str, Sequence[float]]
"""Those of a task by its name, one per objective; without tasks that have no example."""


class Aggregate(Protocol):
    """What becomes of the values of tasks.

    Attributes:
        directions: One per objective.
        metric_names: One per objective.
        digest: A word for it.
    """

    directions: tuple[str, ...]
    metric_names: tuple[str, ...]
    digest: str

    def value(self, values: Values) -> float | tuple[float, ...]:
        """The value of all, a float of one objective."""


def aggregate_of(aggregate: str | Mapping[str, float], tasks: TasksByName) -> Aggregate:
    """The aggregate that is asked for.

    Raises:
        EvaluationError: If there is no such aggregate, or the tasks do not fit it.
    """
    if aggregate == "each":
        return Each(tasks)
    if isinstance(aggregate, Mapping):
        _check_comparable(tasks)
        return OneValue(_WEIGHTED, tasks, _weights(aggregate, [*tasks]))
    if aggregate not in _MEANS:
        raise EvaluationError(
            f"Unknown aggregate {shown(aggregate)}. Aggregates: {', '.join(_MEANS)}, a weight per "
            "task, or each, for an objective per task."
        )
    _check_comparable(tasks)
    return OneValue(_MEANS[aggregate], tasks, dict.fromkeys(tasks, 1.0))


class Each:
    """An objective per task, and per objective of a task."""

    def __init__(self, tasks: TasksByName) -> None:
        self._objectives = {name: len(part.directions) for name, part in tasks.items()}
        self.directions = tuple(one for part in tasks.values() for one in part.directions)
        self.metric_names = tuple(
            one for name, part in tasks.items() for one in names_of(name, part)
        )
        self.digest = "each"

    def value(self, values: Values) -> float | tuple[float, ...]:
        """The values in the order of the tasks; NaN of a task without an example."""
        none = {name: (math.nan,) * count for name, count in self._objectives.items()}
        first, *others = (one for name in none for one in values.get(name, none[name]))
        return (first, *others) if others else first


class OneValue:
    """One value of all tasks, which have one direction."""

    def __init__(self, mean: _Mean, tasks: TasksByName, weights: Mapping[str, float]) -> None:
        (self._direction,) = next(iter(tasks.values())).directions
        self.directions: tuple[str, ...] = (self._direction,)
        self.metric_names: tuple[str, ...] = (f"{mean.name} of {', '.join(tasks)}",)
        self.digest = f"{mean.name} {weights}"
        self._mean, self._weights = mean, weights

    def value(self, values: Values) -> float:
        """The mean; tasks without an example are left out, with their weights."""
        weights = np.array([self._weights[name] for name in values])
        found = np.array([one for (one,) in values.values()])
        return self._mean.value(found, weights, self._direction)


def names_of(name: str, task: Evaluator) -> list[str]:
    """The names of a task's values: its own, or of several objectives ``"task/metric"``."""
    if len(task.directions) == 1:
        return [name]
    return [f"{name}/{metric}" for metric in task.metric_names]


# -- one value of all -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Mean:
    """What values add up to, given their weights and the direction."""

    name: str
    value: Callable[[Scores, Scores, str], float]


def _mean(values: Scores, weights: Scores, direction: str) -> float:
    return float(np.average(values, weights=weights))


def _geometric(values: Scores, weights: Scores, direction: str) -> float:
    if (values < 0).any():
        return float("nan")
    with np.errstate(divide="ignore"):  # log 0
        return float(np.exp(np.mean(np.log(values))))


def _worst(values: Scores, weights: Scores, direction: str) -> float:
    return float({"maximize": np.min, "minimize": np.max}[direction](values))


_MEANS = {
    "mean": _Mean("mean", _mean),
    "geometric": _Mean("geometric mean", _geometric),
    "worst": _Mean("worst", _worst),
}
_WEIGHTED = _Mean("weighted mean", _mean)


def _weights(given: Mapping[str, float], names: list[str]) -> dict[str, float]:
    unknown, missing = [n for n in given if n not in names], [n for n in names if n not in given]
    if unknown or missing:
        wrong = [f"no task {few([*map(repr, unknown)])}"] if unknown else []
        wrong += [f"no weight for {few([*map(repr, missing)])}"] if missing else []
        raise EvaluationError(
            f"aggregate= needs one weight per task ({', '.join(names)}), but there is "
            f"{' and '.join(wrong)}."
        )
    weights = {name: as_number(given[name], f"The weight of task {name!r}") for name in names}
    for name, weight in weights.items():
        if not 0 < weight < math.inf:
            raise EvaluationError(f"The weight of task {name!r} must be above 0, not {weight}.")
    return weights


def _check_comparable(tasks: TasksByName) -> None:
    """Checks that each has one objective, and all the same direction."""
    for name, task in tasks.items():
        if len(task.directions) != 1:
            raise EvaluationError(
                f"Task {name!r} has {len(task.directions)} objectives: "
                f"{', '.join(task.metric_names)}. A task has one; pass an evaluator for each, or "
                'take aggregate="each", for which each is an objective of the search.'
            )
    (first, one), *others = tasks.items()
    for name, other in others:
        if other.directions[0] != one.directions[0]:
            raise EvaluationError(
                f"Task {first!r} is to {one.directions[0]} {one.metric_names[0]}, task {name!r} "
                f"to {other.directions[0]} {other.metric_names[0]}: one value of both has no "
                "direction. Use metrics of one direction, e.g. a loss for each, or "
                'aggregate="each", for an objective per task.'
            )
