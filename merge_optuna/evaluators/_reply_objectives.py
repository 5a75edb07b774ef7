"""What of replies is an objective: how good they are, how long they are, or both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from merge_optuna.errors import EvaluationError, shown
from merge_optuna.evaluators._data import Groups
from merge_optuna.evaluators._protocol import Scores


class Judged(NamedTuple):
    """A reply to an example."""

    example: int
    score: float
    tokens: int
    reply: str
    answer: str


class _Objective(NamedTuple):
    direction: str
    field: str  # of Judged
    metric: str  # its name, with {scorer} for that of the scorer


_OBJECTIVES = {
    "accuracy": _Objective("maximize", "score", "{scorer}"),
    "tokens": _Objective("minimize", "tokens", "tokens"),
}


class ReplyObjectives:
    """Objectives in the order that is asked for, and the rows of scores that they are means of.

    A row holds the objectives, so that column 0 is the first of them, then what is none.

    Attributes:
        directions: One per objective.
        metric_names: One per objective.
    """

    def __init__(self, names: str | Sequence[str], scorer: str, group: str | None) -> None:
        """Looks objectives up.

        Args:
            names: Of one or several of ``"accuracy"`` and ``"tokens"``.
            scorer: The metric of accuracy.
            group: Column of groups, if the value is the mean over them.

        Raises:
            EvaluationError: If there is no such objective, or one comes twice.
        """
        self._names = [names] if isinstance(names, str) else [*names]
        once = [name for name in _OBJECTIVES if self._names.count(name) == 1]
        if not self._names or len(once) < len(self._names):
            raise EvaluationError(
                f"objectives must be one or more of {', '.join(_OBJECTIVES)}, each once, in the "
                f"order that their values are to have, not {shown(names)}."
            )
        found = [_OBJECTIVES[name] for name in self._names]
        per_group = f" per {group}" if group else ""
        self.directions = tuple(one.direction for one in found)
        self.metric_names = tuple(one.metric.format(scorer=scorer) + per_group for one in found)
        others = [one for name, one in _OBJECTIVES.items() if name not in self._names]
        self._fields = [one.field for one in (*found, *others)]

    def scores(self, judged: Sequence[Judged]) -> Scores:
        """Rows of scores, shape (b, 2)."""
        return np.array([[getattr(one, field) for field in self._fields] for one in judged], float)

    def breakdown(self, scores: Scores) -> dict[str, float]:
        """The mean number of tokens of a reply, unless that is an objective."""
        column = self._fields.index("tokens")
        if column < len(self.directions):
            return {}
        return {"reply_tokens": float(np.mean(scores[:, column]))}

    def value(self, scores: Scores, groups: Groups | None) -> float | tuple[float, ...]:
        """The mean of each objective, with groups the mean of theirs; a float if there is one.

        NaN, all of them, where the score of an example is: a model with logits that are not finite
        writes short replies.
        """

        def of_column(column: int) -> float:
            def mean(rows: Scores) -> float:
                return math.nan if np.isnan(rows).any() else float(rows[:, column].mean())

            return mean(scores) if groups is None else groups.mean(mean, scores)

        first, *others = map(of_column, range(len(self.directions)))
        return (first, *others) if others else first
