"""What a model card tells of a search: scores, and how they compare with the baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, SupportsIndex

import optuna
from optuna.trial import FrozenTrial

from merge_optuna import _markdown as markdown
from merge_optuna import _optuna_compat as compat
from merge_optuna._records import breakdown_of, constrained_of, metric_names
from merge_optuna.errors import StudyError
from merge_optuna.study._baselines import Baseline, stored_baselines
from merge_optuna.study._constraints import words_for
from merge_optuna.study._counts import COUNTED
from merge_optuna.study._export import baseline_of, frozen_trial
from merge_optuna.study._held_out import held_out
from merge_optuna.study._leaderboard import leaderboard

_COSTS = "seeds", "evaluations", "examples", "tokens", "seconds"


@dataclass(frozen=True)
class Exported:
    """A trial or a baseline, as a model card tells it.

    Attributes:
        kind: ``"trial"`` or ``"baseline"``.
        name: Number or name.
        values: One per objective; empty where there is none.
        breakdown: What they are made of.
        constrained: What it scores in constraints.
        violations: How far that is beyond their bounds.
        trial: As Optuna has it; None for a baseline.
    """

    kind: str
    name: int | str
    values: Sequence[float]
    breakdown: Mapping[str, float]
    constrained: Mapping[str, float]
    violations: Mapping[str, float]
    trial: FrozenTrial | None = None

    @classmethod
    def of(
        cls,
        study: optuna.Study,
        trial: FrozenTrial | SupportsIndex | None,
        baseline: str | None,
    ) -> Self:
        """A baseline by its name, or else a trial.

        Raises:
            StudyError: If there is no such trial or baseline, or both are given.
        """
        if baseline is not None:
            row = baseline_of(study, trial, baseline)
            held = row.constrained, row.violations
            return cls("baseline", row.name, row.values or (), row.breakdown, *held)
        one = frozen_trial(study, trial)
        held = constrained_of(one), one.constraints
        return cls("trial", one.number, one.values or (), breakdown_of(one), *held, one)


def scores_of(study: optuna.Study, one: Exported, more: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of what is exported, and what it is, by the names of the model card's rows.

    Args:
        study: Of the trial or baseline.
        one: What is exported.
        more: Further results, e.g. on test data; when empty, what the study keeps of such.
    """
    values = {**dict(zip(_metrics(study), one.values, strict=False)), **one.breakdown}
    dev = {f"{name} (dev)": value for name, value in values.items()}
    kept = words_for(study, one.constrained, one.violations)
    test = held_out(study).get(f"{one.kind} {one.name}")
    kept_test = {} if test is None else dict(zip(test.metrics, test.values, strict=True))
    unseen = {f"{name} (held-out data)": value for name, value in kept_test.items()}
    return {**dev, **(more or unseen), "study": study.study_name, one.kind: one.name, **kept}


def comparison_of(study: optuna.Study, one: Exported) -> str | None:
    """The exported trial beside the baselines, in Markdown; None where none is scored.

    With 95 % intervals over the dev examples, if there is one objective without constraints.
    """
    rows = [row for row in stored_baselines(study).headlines if row.values is not None]
    if not rows:
        return None
    try:
        cells = _board(study, one, rows)
    except StudyError:  # other scores than of the same examples, or none
        cells = None
    table = markdown.table(*(cells or _plain(study, one, rows)))
    return f"{table}\n\n{_in_words(study, with_intervals=cells is not None)}"


def _board(
    study: optuna.Study, one: Exported, rows: Sequence[Baseline]
) -> tuple[Sequence[str], Sequence[Sequence[str]]] | None:
    """Heads and cells of the leaderboard; None where it would pass over something."""
    if one.trial is None or len(one.values) != 1 or any(row.violations for row in rows):
        return None
    head, cells = leaderboard(study, trials=[one.trial]).table(4)
    kept = [i for i, name in enumerate(head) if name not in _COSTS]  # those of one trial mislead
    return [head[i] for i in kept], [[line[i] for i in kept] for line in cells]


def _plain(
    study: optuna.Study, one: Exported, rows: Sequence[Baseline]
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Heads and cells of the values alone."""
    held = [(row.name, row.values or (), row.note) for row in rows if row.name != one.name]
    named = f"trial {one.name}" if one.trial is not None else str(one.name)
    lines = [(f"**{named}**", one.values, ""), *held]
    cells = [[name, *(f"{value:.4g}" for value in values), note] for name, values, note in lines]
    return ["", *_metrics(study), ""], cells


def _in_words(study: optuna.Study, *, with_intervals: bool) -> str:
    """What the table does not say."""
    directions = [direction.name.lower() for direction in study.directions]
    which = [
        f"{name}: {'higher' if direction == 'maximize' else 'lower'} is better"
        for name, direction in zip(_metrics(study), directions, strict=True)
    ]
    trials = sum(trial.state in COUNTED for trial in compat.all_trials(study))
    drawn = "[95 % intervals] over the dev examples. " if with_intervals else ""
    return (
        f"{'; '.join(which)}. {drawn}All values of this table are on the dev data, by which "
        f"the search has chosen among {trials:,} trials: they flatter the trial, and what it is "
        "worth is told by data that it has not seen."
    )


def _metrics(study: optuna.Study) -> Sequence[str]:
    return metric_names(study) or ["value"] * len(study.directions)
