"""What a search shows while it runs."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna._bar import ProgressBar
from merge_optuna._records import violation_of
from merge_optuna.errors import few
from merge_optuna.samplers.plumbing import owner_alive, owner_of
from merge_optuna.study._baselines import Baseline, beside, stored_baselines
from merge_optuna.study._constraints import infeasible
from merge_optuna.study._counts import counts, remaining
from merge_optuna.study._export import best_trial
from merge_optuna.study._front import front_of, front_trials, why_empty
from merge_optuna.study._objective import MergeObjective
from merge_optuna.study._outcome import failure

_LOGGER = logging.getLogger("merge_optuna")
_SECONDS = 0.2  # between two looks at all trials, which take longer the more there are


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Optuna's lines per trial, with all parameters, would tear the progress bar apart."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.ERROR))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


class Bar:
    """Progress with the best value or the size of the front, and trials pruned and failed."""

    def __init__(self, study: optuna.Study, total: int, *, show: bool) -> None:
        self._study = study
        self._total = total
        self._shown = -math.inf
        self._baselines = stored_baselines(study)
        done = total - remaining(study, total)
        name = compat.given_name(study)
        self._bar = ProgressBar(
            total=total, initial=done, desc=name, unit="trial", disable=not show
        )

    def __enter__(self) -> Bar:
        self.update(self._study)
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            self._show(self._study)
        finally:  # else what is said of a broken storage stands in the line of the bar
            self._bar.close()

    def update(self, study: optuna.Study, trial: FrozenTrial | None = None) -> None:
        """Shows how far the study is, and why a trial has failed."""
        if time.monotonic() - self._shown > _SECONDS:
            self._show(study)
            self._shown = time.monotonic()
        if trial is None or trial.state != TrialState.FAIL:
            return
        if reason := failure(trial):
            self.say(f"Trial {trial.number} failed: {reason.strip().splitlines()[-1]}")

    def _show(self, study: optuna.Study) -> None:
        if self._bar.disable:
            return
        number = counts(study)
        self._bar.n = min(self._total, number["complete"] + number["pruned"])
        shown: dict[str, Any] = {}
        if len(study.directions) > 1:
            shown["front"] = len(front_trials(study))
        elif number["complete"]:
            best = best_trial(study)
            shown["best"] = (
                f"{best.values[0]:.4g}, infeasible"
                if violation_of(best)
                else beside(self._baselines, best.values[0])
            )
        self._bar.set_postfix({**shown, "pruned": number["pruned"], "failed": number["failed"]})

    def say(self, line: str) -> None:
        """Prints a line above the bar, or logs it if there is none.

        Python prints warnings of a logger that nobody has set up on standard error.
        """
        if self._bar.disable:
            _LOGGER.warning(line)
        else:
            self._bar.write(line, file=sys.stderr)


def beaten(study: optuna.Study) -> str | None:
    """What is said of a search that has found nothing feasible, or no better than a baseline."""
    if not counts(study)["complete"]:
        return None
    if len(study.directions) > 1:
        return _front_beaten(study)
    baselines = stored_baselines(study)
    row = baselines.best
    if said := infeasible(study, best_trial(study)):
        if row is None or row.violation:
            return said
        return (
            f"{said} The baseline {row.name!r} keeps them, with {baselines.metrics[0]} "
            f"{row.value:.4g}. {_writing(study, row)}"
        )
    if row is None:
        return None
    best = best_trial(study).values
    gain = baselines.gain(best)
    if gain is None or gain > 0:
        return None
    than = "no better than" if gain else "as good as, not better than,"
    return (
        f"The best trial is {than} the baseline {row.name!r}: {baselines.metrics[0]} "
        f"{best[0]:.4g}, that {row.value:.4g}. {_writing(study, row)}"
    )


def _writing(study: optuna.Study, row: Baseline) -> str:
    """How a baseline is written."""
    place = shlex.quote(compat.url_of(study) or "STORAGE")
    return (
        f"To write the baseline: mo.export(study, folder, baseline={row.name!r}), or merge-optuna "
        f"export {place} DIR --study {shlex.quote(study.study_name)} --baseline "
        f"{shlex.quote(row.name)}"
    )


def _front_beaten(study: optuna.Study) -> str | None:
    """The same of the points of a front: each should be better than any baseline somewhere."""
    if not (front := front_of(study)):
        return why_empty(study)
    behind = {f"{p.name} than {p.no_better_than[0]!r}": p for p in front if p.no_better_than}
    if not behind:
        return None
    return (
        f"In no objective better than a baseline: {len(behind)} of {len(front)} points of the "
        f"front, {few([*behind], 3)}. print(mo.pareto(study)) shows them side by side."
    )


class Crowd:
    """Says once that processes of this machine take the cores from each other."""

    def __init__(self, objective: MergeObjective) -> None:
        self._silent = objective.engine.device.type != "cpu"
        self._looked = -math.inf

    def __call__(
        self, say: Callable[[str], None], study: optuna.Study, trial: FrozenTrial
    ) -> None:
        """Looks at the running trials."""
        threads, cores = torch.get_num_threads(), _cores()
        if self._silent or threads == 1 or time.monotonic() - self._looked < _SECONDS:
            return
        self._looked = time.monotonic()
        running = [t for t in compat.all_trials(study) if t.state == TrialState.RUNNING]
        owners = [owner for t in running if owner_alive(t) and (owner := owner_of(t))]
        processes = len({os.getpid(), *(owner["pid"] for owner in owners)})
        if processes > 1 and processes * threads > cores:
            self._silent = True
            say(
                f"{processes} processes of this machine run {study.study_name!r} with {threads} "
                f"threads each on {cores} cores and get in each other's way. Start them with "
                f"OMP_NUM_THREADS={max(1, cores // processes)}."
            )


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
