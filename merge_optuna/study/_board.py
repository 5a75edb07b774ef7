"""Methods compared: what each has come to, what it cost, and how far that is from chance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from merge_optuna import _markdown as markdown
from merge_optuna.errors import StudyError, few
from merge_optuna.study._bootstrap import (
    Array,
    Draws,
    Estimate,
    Sample,
    Value,
    mean,
    over_examples,
)

Kind: TypeAlias = Literal["search", "baseline", "tuned baseline"]
Part: TypeAlias = Literal["test", "dev"]
SEARCH: Kind = "search"
BASELINE: Kind = "baseline"
TUNED: Kind = "tuned baseline"


class Cost(NamedTuple):
    """What a run has cost; None what is not known.

    Attributes:
        evaluations: How many models were scored on dev.
        examples: On how many examples in all.
        tokens: How many tokens these had.
        seconds: They took.
    """

    evaluations: float | None = None
    examples: float | None = None
    tokens: float | None = None
    seconds: float | None = None

    @classmethod
    def mean(cls, costs: Sequence[Cost]) -> Cost:
        """Over runs, of what all of them know."""
        parts = zip(*costs, strict=True)
        return cls(*(None if None in part else float(np.mean(part)) for part in parts))


UNKNOWN = Cost()


@dataclass(frozen=True)
class Run:
    """What one run of a method has come to.

    Attributes:
        dev: Its value on dev.
        scores: Its scores of the held-out examples, (n,) or (n, k) as an evaluator yields them,
            in the order of the examples; or its value alone, where no more is known. Where
            nothing was held out, those of the dev examples, or None.
        seed: Of everything that is random about it; None if nothing is.
        cost: What it has cost.
    """

    dev: float
    scores: Array | float | None = field(repr=False)
    seed: int | None = None
    cost: Cost = UNKNOWN


@dataclass(frozen=True)
class Entry:
    """A method with all its runs: a search, or a baseline.

    Attributes:
        name: As in the table.
        runs: One per seed; a single one without a seed if nothing is random.
        kind: ``"search"``; ``"baseline"``, what takes no search; or ``"tuned baseline"``, a
            simple one with few numbers that were chosen on dev.
    """

    name: str
    runs: Sequence[Run]
    kind: Kind = SEARCH

    def __post_init__(self) -> None:
        seeds = [run.seed for run in self.runs]
        if not seeds or len(set(seeds)) < len(seeds) or (None in seeds and len(seeds) > 1):
            raise StudyError(
                f"The runs of {self.name!r} have the seeds {seeds}: each needs one of its own, "
                "and None stands alone."
            )

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of its runs; empty if nothing is random."""
        return tuple(run.seed for run in self.runs if run.seed is not None)


@dataclass(frozen=True)
class Row:
    """A line of a leaderboard.

    Attributes:
        name: Of the method.
        kind: See :class:`Entry`.
        seeds: How many there are; 0 if nothing about it is random.
        dev: The mean over the runs; with an interval only where nothing is held out.
        test: The same on held-out examples, with its interval; None if there are none.
        difference: To the best baseline, where the interval is; None for that one itself.
        cost: The mean over the runs.
    """

    name: str
    kind: Kind
    seeds: int
    dev: Estimate
    test: Estimate | None
    difference: Estimate | None
    cost: Cost


@dataclass(frozen=True)
class Leaderboard:
    """Methods, the best first, with 95 % intervals over seeds and examples.

    Printed it is a table; ``rows`` has the numbers.

    Attributes:
        metric: What is measured.
        direction: ``"maximize"`` or ``"minimize"``.
        on: ``"test"``, or ``"dev"`` if nothing is held out: what is compared and ordered by.
        dev_metric: What searches have chosen by, where that is another metric.
        rows: The best first.
        best_baseline: The name of the best of all baselines, tuned or not, there; None if there
            is none.
        notes: What the numbers do not say, in sentences.
    """

    metric: str
    direction: str
    on: Part
    dev_metric: str
    rows: tuple[Row, ...]
    best_baseline: str | None
    notes: tuple[str, ...]
    _samples: Mapping[str, Sample] = field(repr=False, compare=False)

    @classmethod
    def of(
        cls,
        entries: Sequence[Entry],
        *,
        value: Value = mean,
        metric: str = "value",
        direction: str = "maximize",
        on: Part = "test",
        dev_metric: str | None = None,
        draws: Draws | None = None,
    ) -> Leaderboard:
        """Compares runs whose scores are there already.

        Args:
            entries: The methods, their scores all of the same examples.
            value: The metric over the scores of any of the examples, e.g. that of an evaluator;
                the mean of their first column when omitted.
            metric: What it is called.
            direction: ``"maximize"`` or ``"minimize"``.
            on: ``"test"``, or ``"dev"`` if the scores are of the dev examples.
            dev_metric: What the dev values are called, if they are of another metric.
            draws: The resamples; 2,000 if omitted.

        Raises:
            StudyError: If two methods have one name, or their scores are of other examples.
        """
        check_names([entry.name for entry in entries])
        samples = _samples(entries, value, draws or Draws())
        sign = -1 if direction == "maximize" else 1
        values = {name: sign * sample.value for name, sample in samples.items()}
        # NaN last, in either direction; among equals what is tuned after what needs no tuning
        ordered = sorted(
            entries,
            key=lambda e: (np.nan_to_num(values[e.name], nan=np.inf), e.kind == TUNED),
        )
        best = next((entry.name for entry in ordered if entry.kind != SEARCH), None)
        rows = tuple(_row(entry, samples, best, on) for entry in ordered)
        notes = tuple(_notes(rows, best, on, direction))
        return cls(metric, direction, on, dev_metric or metric, rows, best, notes, samples)

    def difference(self, one: str, other: str) -> Estimate:
        """One method minus another where they are compared, paired over examples and seeds.

        Raises:
            StudyError: If there is no such method.
        """
        for name in (one, other):
            if name not in self._samples:
                raise StudyError(f"There is no {name!r} among {', '.join(self._samples)}.")
        return self._samples[one].minus(self._samples[other])

    # -- in words ------------------------------------------------------------------------------

    def table(self, digits: int = 3) -> tuple[list[str], list[list[str]]]:
        """Heads of the columns and cells; columns that say nothing are left out.

        Args:
            digits: After the point.
        """
        columns = {head: [cell(row, digits) for row in self.rows] for head, cell in _COLUMNS}
        kept = {
            head.format(self=self): cells
            for head, cells in columns.items()
            if head == "method" or any(cells)
        }
        return [*kept], [list(cells) for cells in zip(*kept.values(), strict=True)]

    def to_markdown(self, digits: int = 3) -> str:
        """The table and its notes.

        Args:
            digits: After the point.
        """
        return markdown.page([markdown.table(*self.table(digits)), " ".join(self.notes)])

    def to_data(self) -> dict[str, Any]:
        """As plain dictionaries, lists and numbers; None where there is no interval."""
        rows = [_plain(asdict(row)) for row in self.rows]
        about = {name: getattr(self, name) for name in ("metric", "direction", "on", "dev_metric")}
        return {**about, "best_baseline": self.best_baseline, "rows": rows, "notes": self.notes}

    def __repr__(self) -> str:
        head, cells = self.table()
        widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
        lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in (head, *cells)]
        return "\n".join([*lines, "", *self.notes])

    def _repr_markdown_(self) -> str:
        return self.to_markdown()


def check_names(names: Sequence[str]) -> None:
    """Checks that a leaderboard can tell its rows apart.

    Raises:
        StudyError: If it cannot, or there are none.
    """
    if not names:
        raise StudyError("There is nothing to compare: no study and no baseline.")
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise StudyError(
            f"Several rows are called {few(twice)}. Give names that differ, e.g. "
            "mo.leaderboard({'first': study, 'second': other})."
        )


# -- samples and rows ---------------------------------------------------------------------------


def _samples(entries: Sequence[Entry], value: Value, draws: Draws) -> dict[str, Sample]:
    """Of each method: its runs on the examples as they are and as they are drawn."""
    known = {entry.name: _scores(entry) for entry in entries}
    n = _number_of_examples(known)
    runs = [scores for of_entry in known.values() for scores in of_entry]
    resampled = iter(over_examples(runs, value, draws) if runs else ())
    samples = {}
    for entry in entries:
        parts = [next(resampled) for _ in known[entry.name]]
        plain = [np.array([_plain_value(run, value)]) for run in entry.runs]
        values = np.stack(parts or plain)
        samples[entry.name] = Sample(entry.seeds, values, n if parts else 0, draws)
    return samples


def _scores(entry: Entry) -> list[Array]:
    """Of single examples, of all runs; none if there is nothing to draw."""
    known = [run.scores for run in entry.runs if isinstance(run.scores, np.ndarray)]
    return known if len(known) == len(entry.runs) and len(known[0]) > 1 else []


def _number_of_examples(known: Mapping[str, Sequence[Array]]) -> int:
    """Of which there are scores.

    Raises:
        StudyError: If some runs have scores of more examples than others.
    """
    sizes = {len(scores): name for name, runs in known.items() for scores in runs}
    if len(sizes) > 1:
        there = ", ".join(f"{n} of {name!r}" for n, name in sizes.items())
        raise StudyError(
            f"Scores must be of the same examples for all rows, but there are {there}."
        )
    return next(iter(sizes), 0)


def _plain_value(run: Run, value: Value) -> float:
    if run.scores is None:
        return run.dev
    return float(value(run.scores)) if isinstance(run.scores, np.ndarray) else float(run.scores)


def _row(entry: Entry, samples: Mapping[str, Sample], best: str | None, on: Part) -> Row:
    own = samples[entry.name]
    compared = own.estimate()
    dev = float(np.mean([run.dev for run in entry.runs]))
    return Row(
        entry.name,
        entry.kind,
        len(entry.seeds),
        compared if on == "dev" else Estimate(dev, np.nan, np.nan, 0, 0),
        compared if on == "test" else None,
        None if best in (None, entry.name) else own.minus(samples[best]),
        Cost.mean([run.cost for run in entry.runs]),
    )


def _notes(rows: Sequence[Row], best: str | None, on: Part, direction: str) -> Iterator[str]:
    parts = [row.test or row.dev for row in rows]
    examples = max(part.examples for part in parts)
    drawn = [
        *(["seeds"] if any(part.seeds for part in parts) else []),
        *([f"{examples:,} {on} examples"] if examples else []),
    ]
    if drawn:
        yield (
            f"[95 % intervals] by a bootstrap that draws {' and '.join(drawn)}; differences are "
            "paired where these match."
        )
    alone = [row.name for row in rows if row.seeds == 1]
    if alone:
        yield (
            "Run with one seed, and another may give another result, also outside of an interval: "
            f"{'; '.join(alone)}."
        )
    if blind := [row.name for row, part in zip(rows, parts, strict=True) if not part.examples]:
        whose = "" if len(blind) == len(rows) else f" of {'; '.join(blind)}"
        yield (
            f"No interval over {on} examples{whose}: there are no scores of single examples whose "
            "mean is the value."
        )
    if on == "dev":
        yield (
            "Searches have chosen by these values, so they look better than they are; held-out "
            "data tell (test=)."
        )
    if best is not None:
        yield from _about_the_best(rows, best, on, direction)


def _about_the_best(rows: Sequence[Row], best: str, on: Part, direction: str) -> Iterator[str]:
    baselines = sum(row.kind != SEARCH for row in rows)
    yield f"The best baseline is {best}, of all {baselines} the best on {on}."
    searches = [row for row in rows if row.kind == SEARCH and row.difference is not None]
    better = [row.name for row in searches if is_better(row.difference, direction)]
    known = [row for row in searches if row.difference and _has_interval(row.difference)]
    if known and not better:
        yield "No search beats it beyond chance."
    elif searches and not known:
        yield "Whether a search beats it beyond chance cannot be told without intervals."


def _has_interval(difference: Estimate) -> bool:
    return bool(difference.examples or difference.seeds)


def is_better(difference: Estimate | None, direction: str) -> bool:
    """Whether a whole interval of differences is on the better side."""
    if difference is None:
        return False
    return difference.low > 0 if direction == "maximize" else difference.high < 0


def _cell(estimate: Estimate | None, spec: str) -> str:
    return "" if estimate is None or np.isnan(estimate.value) else format(estimate, spec)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.1f}"


_COLUMNS: Sequence[tuple[str, Callable[[Row, int], str]]] = (
    ("method", lambda row, digits: row.name),
    ("kind", lambda row, digits: row.kind),
    ("seeds", lambda row, digits: str(row.seeds or "")),
    ("dev {self.dev_metric}", lambda row, digits: _cell(row.dev, f".{digits}f")),
    ("test {self.metric}", lambda row, digits: _cell(row.test, f".{digits}f")),
    ("− best baseline", lambda row, digits: _cell(row.difference, f"+.{digits}f")),
    ("evaluations", lambda row, digits: _number(row.cost.evaluations)),
    ("examples", lambda row, digits: _number(row.cost.examples)),
    ("tokens", lambda row, digits: _number(row.cost.tokens)),
    ("seconds", lambda row, digits: _number(row.cost.seconds)),
)
"""Head and cells of each column; a cell is text of a row, with so many digits."""


def _plain(data: Any) -> Any:
    """NaN as None, numpy as Python."""
    if isinstance(data, dict):
        return {name: _plain(value) for name, value in data.items()}
    if isinstance(data, Estimate | Cost):
        return {name: _plain(value) for name, value in data._asdict().items()}
    return None if isinstance(data, float) and np.isnan(data) else data
