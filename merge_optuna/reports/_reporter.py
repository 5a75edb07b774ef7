"""Shows a search while it runs: cards, notes and artifacts of what is worth it, at little cost."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import optuna
from optuna.trial import FrozenTrial, TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna._records import violation_of
from merge_optuna.recipes import Recipe
from merge_optuna.reports._artifacts import Artifacts
from merge_optuna.reports._budget import JOURNAL, Budget
from merge_optuna.reports._cards import CARDS
from merge_optuna.reports._evidence import of_best, of_failure
from merge_optuna.reports._milestones import Bests, Failures
from merge_optuna.reports._note import failure_note, study_note, trial_note
from merge_optuna.reports._post import post, post_note, posted, written
from merge_optuna.reports._reports import as_reports
from merge_optuna.reports._view import View
from merge_optuna.spaces import Space
from merge_optuna.study import failure

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from merge_optuna.checkpoints import Checkpoint

Replies: TypeAlias = Callable[[], Sequence[Mapping[str, Any]]]

FINISHED, RESUME = "finished", "resume"


class Reporter(Protocol):
    """What the run of a search tells; nothing of it may end the search."""

    def evaluated(self, trial: optuna.Trial, value: Any) -> None:
        """A trial is evaluated and about to end, with this value; NaN if it has failed."""

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """A trial has ended."""

    def finish(self) -> None:
        """There are no further trials."""


def reporter(
    study: optuna.Study,
    reports: object,
    space: Recipe | Space | None,
    replies: Replies,
    say: Callable[[str], None],
) -> Reporter:
    """Who shows a search.

    Args:
        study: Of the search.
        reports: As a search is given it: True, False or :class:`mo.reports.Reports`.
        space: That it searches, if it is declared.
        replies: What the model that was scored last has written, a mapping per example.
        say: Prints a line.
    """
    declared = as_reports(reports)
    if declared is None or compat.is_in_memory(study):
        return _Silent()
    folder = declared.folder(compat.url_of(study))
    artifacts = None if folder is None else Artifacts(folder, declared.limit_mb * 1e6)
    return _Reporter(study, space, replies, artifacts, say)


def refresh(
    study: optuna.Study, *, sources: Mapping[str, Checkpoint | str | Path] | None = None
) -> None:
    """Writes the cards and the note of a study for optuna-dashboard, as they are now.

    A search does that by itself, whenever it has found something better. A note that somebody
    has changed is left as it is; what was added below it is kept.

    Args:
        study: Any study; what it does not hold is not shown.
        sources: Checkpoints by name, as for :func:`mo.recipe_of`.
    """
    view = View(study, sources)
    _post(view, {card.key: card.draw(view) for card in CARDS}, posted(study).get(RESUME))


def note_again(study: optuna.Study, space: Recipe | Space | None) -> None:
    """Writes the note of a study anew, if it has one of ours: its cards stay as they are.

    Args:
        study: The study.
        space: That it searches, if it is declared.
    """
    if known := posted(study):
        view = View(study, _sources_of(space), space)
        facts = {key: known[key] for key in (FINISHED, RESUME) if key in known}
        post(study, {}, study_note(view, known.get(RESUME)), facts)


def _sources_of(space: Recipe | Space | None) -> dict[str, Checkpoint]:
    return {} if space is None else {one.name: one for one in space.leaves()}


def _post(view: View, cards: Mapping[str, Figure | None], resume: str | None) -> None:
    facts = {FINISHED: _finished(view.trials), **({RESUME: resume} if resume else {})}
    post(view.study, cards, study_note(view, resume), facts)


def _finished(trials: Sequence[FrozenTrial]) -> int:
    return sum(trial.state.is_finished() for trial in trials)


class _Silent:
    """For searches that nobody looks at."""

    def evaluated(self, trial: optuna.Trial, value: Any) -> None:
        pass

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        pass

    def finish(self) -> None:
        pass


class _Reporter:
    def __init__(
        self,
        study: optuna.Study,
        space: Recipe | Space | None,
        replies: Replies,
        artifacts: Artifacts | None,
        say: Callable[[str], None],
    ) -> None:
        self._study, self._space, self._say = study, space, say
        self._sources = _sources_of(space)
        self._replies, self._artifacts = replies, artifacts
        self._bests, self._failures = Bests(study.directions), Failures()
        self._budget = Budget()
        self._marked: set[int] = set()  # own trials that get a note once they have ended
        self._due = self._said = False

    def evaluated(self, trial: optuna.Trial, value: Any) -> None:
        with self._paid():
            values = [float(one) for one in (value if isinstance(value, Sequence) else [value])]
            if any(map(math.isnan, values)):
                self._look_at_failure(trial)
            elif self._bests.beaten_by(values):
                self._look_at_best(trial, values)

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        with self._paid():
            if trial.number in self._marked:
                self._marked.remove(trial.number)
                self._note(trial)
            if self._due and self._budget.allows() and self._has_room():
                self._refresh()

    def finish(self) -> None:
        with self._paid():
            if posted(self._study).get(FINISHED) != _finished(compat.all_trials(self._study)):
                self._refresh()

    # -- what is worth it ------------------------------------------------------------------

    def _look_at_best(self, trial: optuna.Trial, values: Sequence[float]) -> None:
        self._bests.learn(compat.all_trials(self._study))  # of other processes as well
        stored = compat.stored_trial(trial)
        if self._bests.beaten_by(values, violation_of(stored)):
            self._marked.add(trial.number)
            if self._artifacts is not None:
                self._artifacts.put(trial, of_best(self._view, stored, self._replies()))

    def _look_at_failure(self, trial: optuna.Trial) -> None:
        stored = compat.stored_trial(trial)
        if not self._failures.is_new(stored):
            return
        self._failures.learn(compat.all_trials(self._study))
        if self._failures.is_new(stored):
            self._marked.add(trial.number)
            if self._artifacts is not None:
                self._artifacts.put(trial, of_failure(failure(stored) or ""))

    # -- what is written -------------------------------------------------------------------

    def _note(self, trial: FrozenTrial) -> None:
        if trial.state == TrialState.FAIL:
            self._failures.learn([trial])
            post_note(self._study, trial, failure_note(trial, failure(trial) or ""))
        elif trial.state == TrialState.COMPLETE:
            self._bests.learn([trial])
            post_note(self._study, trial, trial_note(self._view, trial))
            self._due = True

    def _refresh(self) -> None:
        with self._budget.drawing():
            self._due = False
            view, cards = self._view, {}
            for card in CARDS:
                with self._harmless():  # one that fails takes no other with it
                    cards[card.key] = card.draw(view)
            _post(view, cards, _command())

    def _has_room(self) -> bool:
        """Whether a storage that only ever grows would not grow much by it."""
        size = compat.journal_size(self._study)
        return size is None or sum(written(posted(self._study))) <= JOURNAL * size

    @property
    def _view(self) -> View:
        return View(self._study, self._sources, self._space)

    @contextlib.contextmanager
    def _paid(self) -> Iterator[None]:
        """All that a search has to pay for."""
        with self._budget.spending(), self._harmless():
            yield

    @contextlib.contextmanager
    def _harmless(self) -> Iterator[None]:
        """A block whose errors do not end the search, and are told once."""
        try:
            yield
        except Exception as error:  # whatever it is, the search has nothing to do with it
            if not self._said:
                self._said = True
                self._say(
                    f"Cards and notes of {self._study.study_name!r} could not be written: "
                    f"{type(error).__name__}: {error}. The search goes on; "
                    "mo.reports.refresh(study) writes them later."
                )


def _command() -> str | None:
    """What has started this process, from where; None if nobody has typed it, as in a notebook."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is None or not Path(script).is_file() or not sys.argv:
        return None
    start = ["python", sys.argv[0]] if script.endswith(".py") else [Path(script).name]
    typed = shlex.join([*start, *map(compat.without_password, sys.argv[1:])])
    return f"cd {shlex.quote(os.getcwd())} && {typed}"
