"""Identical candidates: what a finished trial has scored already is not scored again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna._records import values_of
from merge_optuna._schema import (
    CANDIDATE,
    CONSTRAINT,
    EXAMPLES,
    SAME_AS,
    SCORES,
    SECONDS_EVALUATE,
    SECONDS_MERGE,
    VALUE,
)
from merge_optuna.study._recorded import stream_of


class Scored:
    """The complete trials of one study by what they have scored, read as the study grows.

    Genetic algorithms, layer paths and spaces of choices propose the same recipe again and again.
    Only trials that were evaluated count: what has taken over the result of another does not.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._unfinished: set[int] = set()
        self._read = 0  # trials below this number have been looked at

    def same_as(self, trial: optuna.Trial, candidates: Sequence[str]) -> FrozenTrial | None:
        """A complete trial that has scored one of these, as far as this process knows."""
        # What Optuna has read when it made this trial: another read takes a millisecond.
        trials = compat.trials_at_hand(trial.study, trial.number)
        trials = compat.all_trials(trial.study) if trials is None else trials
        try:
            self._read_on(trials, trial.number)
        except KeyError:  # others have made trials meanwhile
            trials = compat.all_trials(trial.study)
            self._read_on(trials, trial.number)
        known = (self._numbers.get(candidate) for candidate in candidates)
        number = next((number for number in known if number is not None), None)
        return None if number is None else compat.numbered(trials, number)

    def _read_on(self, trials: Sequence[FrozenTrial], until: int) -> None:
        for number in [*sorted(self._unfinished), *range(self._read, until)]:
            self._learn(compat.numbered(trials, number), number)
        self._read = max(self._read, until)

    def _learn(self, trial: FrozenTrial | None, number: int) -> None:
        if trial is not None and not trial.state.is_finished():
            self._unfinished.add(number)
            return
        self._unfinished.discard(number)
        if trial is None or trial.state != TrialState.COMPLETE or SAME_AS in trial.user_attrs:
            return
        candidate = trial.system_attrs.get(CANDIDATE)
        if isinstance(candidate, str):
            self._numbers.setdefault(candidate, number)


def take_over(
    trial: optuna.Trial, same: FrozenTrial, facts: Mapping[str, Any]
) -> float | tuple[float, ...]:
    """Gives a trial the result of another: scores, constraints, reports, and the value it returns.

    Args:
        trial: The running trial.
        same: The complete one.
        facts: User attributes that are the running trial's own.

    Raises:
        StudyError: If the complete trial has not as many values as the study has objectives.
    """
    values = tuple(values_of(same, len(trial.study.directions)))
    if stream_of(trial.study):
        for step, value in sorted(same.intermediate_values.items()):
            trial.report(value, step)
    own = {SAME_AS: same.number, SECONDS_MERGE: 0.0, SECONDS_EVALUATE: 0.0, EXAMPLES: 0}
    named = (VALUE, CONSTRAINT)
    parts = {name: value for name, value in same.user_attrs.items() if name.startswith(named)}
    scores = {key: packed for key, packed in same.system_attrs.items() if key == SCORES}
    system = {**compat.constraint_attrs(same.constraints), **scores}
    compat.set_attrs(trial.study, trial, user={**parts, **facts, **own}, system=system)
    return values[0] if len(values) == 1 else values
