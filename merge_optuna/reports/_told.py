"""One study in the words of a page: what was merged, what won, what it cost, how to get it."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from functools import cached_property

from optuna.trial import FrozenTrial

from merge_optuna._schema import DEV, EXAMPLES, RECIPE, SAME_AS, SPACE
from merge_optuna.errors import MergeOptunaError, few
from merge_optuna.recipes import Panel, summary_of
from merge_optuna.reports._boards import Boards
from merge_optuna.reports._commands import Command, commands_of, from_recipe
from merge_optuna.reports._milestones import failures_of
from merge_optuna.reports._style import better, duration, number
from merge_optuna.reports._tables import Fact, Table, count
from merge_optuna.reports._view import View
from merge_optuna.reports._winner import winning_panels
from merge_optuna.study import counts, front_of, in_words, infeasible, recipe_of

_REASONS = 5


class Told:
    """What a page says of a study.

    Args:
        view: The study.
        name: What it is called there.
    """

    def __init__(self, view: View, name: str) -> None:
        self.view, self.name, self.boards = view, name, Boards(view)

    # -- the result ------------------------------------------------------------------------------

    @property
    def result(self) -> str:
        """The best value, or how many points the front has."""
        if self.view.best is not None:
            return number(self.view.best.values[0])
        if not self.view.single and self.view.complete:
            return f"{len(front_of(self.view.study))} on the front"
        return "no result yet"

    @property
    def measure(self) -> str:
        """The metrics, and which way is better."""
        pairs = zip(self.view.metrics, self.view.directions, strict=True)
        return "; ".join(f"{name}, {better(direction)}" for name, direction in pairs)

    @property
    def sentences(self) -> Iterator[str]:
        """What was done and what has come out of it."""
        best = self.view.best
        if self.view.leaves:
            yield f"{self._method()}: which merge of them has the best {self._metrics}?"
        if not self.view.complete:
            yield f"No trial is complete yet: {self._trials()}."
        elif best is not None:
            yield f"Trial {best.number} is the best of {len(self.view.complete)} complete ones."
            if said := infeasible(self.view.study, best):
                yield said
        if not self.view.complete:
            return
        if self._merges:
            yield from self.boards.verdict()
        else:
            yield "This study merges no models, so that there is none to write."

    def tables(self, *, besides: Table | None = None) -> Iterator[Table]:
        """With what it is compared.

        Args:
            besides: A table that has all studies; then theirs are left out.
        """
        if self._merges or len(self.view.baselines):
            if besides is None or not self.view.complete:
                yield from self.boards.on_dev()
            yield from self.boards.on_held_out()

    @property
    def missing(self) -> str:
        """Why there is no recipe although something is merged; empty if there is one."""
        if self.view.best is None or self.view.winner is not None or not self._merges:
            return ""
        try:
            recipe_of(self.view.study, self.view.best, sources=self.view.sources)
        except MergeOptunaError as error:
            return str(error)
        return ""

    @property
    def line(self) -> str:
        """The recipe of the best trial in a line, as far as that can be said."""
        if self.view.winner is None:
            return ""
        try:
            return summary_of(self.view.winner)
        except MergeOptunaError:  # sources are gone
            return ""

    @cached_property
    def numbers(self) -> list[Table]:
        """What the figure of the winner shows, as numbers: layers by models."""
        try:
            return [_of_panel(panel) for panel in winning_panels(self.view)]
        except MergeOptunaError:  # sources are gone
            return []

    @cached_property
    def parameters(self) -> Table | None:
        """The parameters of the best trial, and their ranges."""
        best = self.view.best
        if best is None or not best.params:
            return None
        rows = [
            [name, _value(value), _range(best, name)]
            for name, value in sorted(best.params.items())
        ]
        title = f"All {len(rows)} parameters of trial {best.number}, rounded"
        return Table(title, ["parameter", "value", "range"], rows)

    # -- what it took ----------------------------------------------------------------------------

    @property
    def costs(self) -> Iterator[Fact]:
        """Trials, evaluations, examples and time."""
        paid, baselines = self.view.paid, self.view.baselines
        yield Fact("trials", self._trials())
        if paid:
            scored = sum(SAME_AS not in trial.user_attrs for trial in paid)
            yield Fact("models scored", count(scored))
        for unit, words in (
            ("examples", "dev examples scored"),
            ("seconds", "merging and scoring"),
        ):
            if paid and (total := float(self.view.costs(unit)[-1])):
                yield Fact(words, count(total) if unit == "examples" else duration(total))
        if (elapsed := self._elapsed()) is not None:
            yield Fact("from first to last trial", duration(elapsed))
        if len(baselines):
            examples, seconds = (
                sum(getattr(b, u) for b in baselines) for u in ("examples", "seconds")
            )
            yield Fact("the baselines", f"{count(examples)} examples, {duration(seconds)}")
        yield from self._failures()

    def _trials(self) -> str:
        shown = counts(self.view.study).items()
        return ", ".join(f"{n} {state}" for state, n in shown if n) or "none yet"

    def _elapsed(self) -> float | None:
        starts = [t.datetime_start for t in self.view.paid if t.datetime_start is not None]
        ends = [t.datetime_complete for t in self.view.paid if t.datetime_complete is not None]
        return (max(ends) - min(starts)).total_seconds() if starts and ends else None

    def _failures(self) -> Iterator[Fact]:
        kinds = sorted(failures_of(self.view.trials).items(), key=lambda one: -len(one[1]))
        said = [f"{len(those)} × {kind} (first: trial {those[0].number})" for kind, those in kinds]
        if said:
            yield Fact("failed", "; ".join(said[:_REASONS]))

    # -- what was merged -------------------------------------------------------------------------

    @property
    def search(self) -> Iterator[Fact]:
        """The task, the data and the space."""
        yield Fact("measure", self.measure)
        if isinstance(dev := self.view.study.user_attrs.get(DEV), dict):
            yield Fact("dev data", f"{count(dev.get(EXAMPLES, 0))} examples")
        if one := next(iter(self.boards.held_out.values()), None):
            yield Fact("held-out data", f"{count(one.examples)} examples")
        if self.view.leaves:
            yield Fact("merges", self._method())
        if self.view.best is not None:
            yield Fact("parameters", f"{len(self.view.best.params)} searched")
            for name, words in in_words(self.view.study, self.view.best).items():
                yield Fact(f"constraint {name}", words)

    @cached_property
    def sources(self) -> Table | None:
        """The models that were merged."""
        if not (leaves := self.view.leaves):
            return None
        rows = [[one.name, one.ref, one.revision or "", one.digest] for one in leaves]
        head = ["name", "checkpoint", "revision", "digest"]
        kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
        return Table(
            "The models", [head[i] for i in kept], [[row[i] for i in kept] for row in rows]
        )

    @property
    def space(self) -> str:
        """The space as it is kept; empty if it was a function."""
        return str(self.view.study.user_attrs.get(SPACE, ""))

    # -- how to get it ---------------------------------------------------------------------------

    @property
    def commands(self) -> list[Command]:
        """What to type."""
        return commands_of(self.view)

    @property
    def recipe(self) -> str:
        """The winner's recipe, exact; empty if there is none."""
        return "" if self.view.winner is None else self.view.winner.to_yaml()

    @property
    def recipe_url(self) -> str:
        """The same as something to save."""
        return f"data:application/yaml;base64,{base64.b64encode(self.recipe.encode()).decode()}"

    @property
    def from_recipe(self) -> Command | None:
        """How the model is written without the database."""
        return None if self.view.winner is None else from_recipe(self.view.winner)

    @property
    def _merges(self) -> bool:
        kept = SPACE in self.view.study.user_attrs
        return kept or any(RECIPE in trial.system_attrs for trial in self.view.complete)

    @property
    def _metrics(self) -> str:
        return " and ".join(self.view.metrics)

    def _method(self) -> str:
        names = [leaf.name for leaf in self.view.leaves]
        models = "1 model" if len(names) == 1 else f"{len(names)} models"
        return f"{models} ({few(names)}) by {self.view.made_of[0].method}"


def _of_panel(panel: Panel) -> Table:
    rows = [
        [name, *("" if math.isnan(value) else number(value) for value in values)]
        for name, values in zip(panel.rows, panel.values, strict=True)
    ]
    return Table(panel.parameter, ["layer", *panel.columns], rows)


def _value(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _range(trial: FrozenTrial, name: str) -> str:
    one = trial.distributions[name]
    low, high = getattr(one, "low", None), getattr(one, "high", None)
    if low is None or high is None:
        return few([*map(str, getattr(one, "choices", ()))], 6)
    return f"{number(low)} … {number(high)}{' (log)' if getattr(one, 'log', False) else ''}"
