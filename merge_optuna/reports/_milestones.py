"""Which trials are worth a note: every new best, and the first failure of each kind."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from merge_optuna._records import violation_of
from merge_optuna._schema import SURPLUS
from merge_optuna.study import failure

_LONGEST = 200
_SILENT = "stopped or killed"
_KINDS = 20
"""Failures that are told apart; a search that fails in more ways is told by its first."""


class Bests:
    """The trials that none is better than, so far; of one objective those are equally good.

    Deb's rule (2000) says which of two is better where there are constraints.

    Args:
        directions: Of the study.
    """

    def __init__(self, directions: Sequence[StudyDirection]) -> None:
        self._signs = np.array([-1 if d == StudyDirection.MAXIMIZE else 1 for d in directions])
        self._front: list[tuple[float, tuple[float, ...]]] = []
        self._seen: set[int] = set()

    def learn(self, trials: Sequence[FrozenTrial]) -> None:
        """Takes note of what has been completed, by whatever process."""
        for trial in trials:
            if trial.state == TrialState.COMPLETE and trial.number not in self._seen:
                self._seen.add(trial.number)
                self._add(violation_of(trial), self._losses(trial.values))

    def beaten_by(self, values: Sequence[float], violation: float = 0.0) -> bool:
        """Whether nobody is as good as something with these values."""
        losses = self._losses(values)
        return not any(_covers(one, (violation, losses)) for one in self._front)

    def _losses(self, values: Sequence[float]) -> tuple[float, ...]:
        return tuple((self._signs * np.asarray(values, dtype=float)).tolist())

    def _add(self, violation: float, losses: tuple[float, ...]) -> None:
        new = violation, losses
        if not any(_covers(one, new) for one in self._front):
            self._front = [one for one in self._front if not _covers(new, one)] + [new]


def _covers(one: tuple[float, tuple[float, ...]], other: tuple[float, tuple[float, ...]]) -> bool:
    """Whether the first is no worse than the second in anything."""
    if one[0] != other[0]:
        return one[0] < other[0]
    return all(a <= b for a, b in zip(one[1], other[1], strict=True))


class Failures:
    """The ways in which trials have failed, so far."""

    def __init__(self) -> None:
        self._kinds: set[str] = set()
        self._seen: set[int] = set()

    def learn(self, trials: Sequence[FrozenTrial]) -> None:
        """Takes note of what has failed, by whatever process."""
        for trial in trials:
            if trial.state == TrialState.FAIL and trial.number not in self._seen:
                self._seen.add(trial.number)
                self._kinds |= {kind} if (kind := kind_of(trial)) else set()

    def is_new(self, trial: FrozenTrial) -> bool:
        """Whether none has failed so before."""
        kind = kind_of(trial)
        return bool(kind) and kind not in self._kinds and len(self._kinds) < _KINDS


def failures_of(trials: Sequence[FrozenTrial]) -> dict[str, list[FrozenTrial]]:
    """The trials that have failed in the same way, by that way: the first of each first."""
    found: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        if trial.state == TrialState.FAIL and (kind := kind_of(trial)):
            found.setdefault(kind, []).append(trial)
    return found


def kind_of(trial: FrozenTrial) -> str:
    """How a trial has failed: the last line of what it said, whatever numbers are in it.

    Empty if that is no fault of its candidate.
    """
    if SURPLUS in trial.system_attrs:
        return ""
    lines = (failure(trial) or "").strip().splitlines()
    return re.sub(r"\d+", "#", lines[-1])[:_LONGEST] if lines else _SILENT
