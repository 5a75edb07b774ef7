"""Baselines as values: what was scored beside a search, and how it is kept in the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, overload

import numpy as np
import optuna
from numpy.typing import NDArray

from merge_optuna import _optuna_compat as compat
from merge_optuna._records import check_type, decoding, metric_names
from merge_optuna._schema import BASELINE
from merge_optuna._scores import pack, unpack
from merge_optuna.errors import StudyError, few, short
from merge_optuna.recipes import Recipe
from merge_optuna.study._baseline_recipes import ARITHMETIC, ENSEMBLE

T = TypeVar("T")


@dataclass(frozen=True)
class Baseline:
    """One merge that needs no search, or a model as it is, and what it scores on the dev data.

    Attributes:
        name: Unique within a study, e.g. ``"uniform average"`` or ``"source ja"``.
        kind: ``"base"``, ``"source"``, ``"uniform average"``, ``"untuned operator"``, ``"task
            arithmetic"``, ``"greedy soup"`` or ``"ensemble"``.
        tuned: Whether the dev data have chosen it, as they choose the scaling coefficient of task
            arithmetic and the members of a soup: then its dev score flatters it.
        values: One per objective; None if it has none.
        reason: Why it has none.
        examples: Number of dev examples that were scored for it; more than the dev data have where
            it was found by trying.
        seconds: How long that took, merging included.
        document: Its recipe as JSON text; None for an ensemble, which is no checkpoint.
        packed: Its per-example scores as they are stored.
        of: Digest of what was scored, and on what.
        place: In the table.
        breakdown: What the values are made of, e.g. by task; mostly nothing.
        constrained: What it scores in the constraints of the search, by their names.
        violations: How far that is beyond their bounds; 0 or less where they are kept.
    """

    name: str
    kind: str
    tuned: bool
    values: tuple[float, ...] | None
    reason: str | None
    examples: int
    seconds: float
    document: str | None
    packed: Mapping[str, Any] | None
    of: str
    place: int
    breakdown: Mapping[str, float] = field(default_factory=dict)
    constrained: Mapping[str, float] = field(default_factory=dict)
    violations: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def recipe(self) -> Recipe | None:
        """Its recipe; None for an ensemble. Also of a base or a source: a merge of that alone."""
        if self.document is None:
            return None
        with decoding(f"recipe of the baseline {self.name!r}"):
            return Recipe.from_json(self.document)

    def own(self, sources: Mapping[str, T]) -> dict[str, T]:
        """Those of the sources of its study that it is made of, by name."""
        called = () if self.recipe is None else self.recipe.called()
        return {name: source for name, source in sources.items() if name in called}

    @property
    def is_checkpoint(self) -> bool:
        """Whether it can be written as a checkpoint; an ensemble is for reference only."""
        return self.kind != ENSEMBLE

    @property
    def violation(self) -> float:
        """The sum of what is beyond the bounds of constraints; 0 if it is feasible."""
        return sum(max(0.0, one) for one in self.violations.values())

    @property
    def value(self) -> float | tuple[float, ...] | None:
        """A number where there is one objective, else a tuple; None if it has none."""
        return self.values[0] if self.values is not None and len(self.values) == 1 else self.values

    @property
    def scores(self) -> NDArray[np.float32] | None:
        """Per-example scores as :func:`mo.scores` gives those of a trial; None if there are none.

        Shape (n,), in the order of the dev examples.
        """
        what = f"the baseline {self.name!r}"
        return None if self.packed is None else unpack(dict(self.packed), what)

    @property
    def note(self) -> str:
        """What is to be known of it, in a few words."""
        words = ["tuned on dev"] if self.tuned else []
        words += [] if self.is_checkpoint else ["not a checkpoint"]
        broken = [(name, by) for name, by in self.violations.items() if by > 0]
        words += [f"violates {name!r} by {by:.2g}" for name, by in broken]
        return short(self.reason, 100) if self.reason else ", ".join(words)

    def to_data(self) -> dict[str, Any]:
        """As it is stored: what JSON can hold."""
        fields = {
            "recipe": self.document,
            "values": None if self.values is None else list(self.values),
            "breakdown": dict(self.breakdown),
            "scores": None if self.packed is None else dict(self.packed),
        }
        if self.violations:
            fields["constraints"] = {
                name: {"value": self.constrained[name], "violation": violation}
                for name, violation in self.violations.items()
            }
        kept = ("place", "kind", "tuned", "reason", "examples", "seconds", "of")
        return {**{name: getattr(self, name) for name in kept}, **fields}

    @classmethod
    def from_data(cls, name: str, data: Mapping[str, Any]) -> Baseline:
        """Inverse of :meth:`to_data`.

        Raises:
            StudyError: If it is not what that writes.
        """
        with decoding(f"baseline {name!r}"):
            values, held = data["values"], data.get("constraints", {})
            check_type("its place", data["place"], int)
            return cls(
                name=name,
                kind=str(data["kind"]),
                tuned=bool(data["tuned"]),
                values=None if values is None else tuple(map(float, values)),
                reason=None if data["reason"] is None else str(data["reason"]),
                examples=int(data["examples"]),
                seconds=float(data["seconds"]),
                document=data["recipe"],
                packed=data["scores"],
                of=str(data["of"]),
                place=data["place"],
                breakdown={str(name): float(x) for name, x in data["breakdown"].items()},
                constrained={str(name): float(one["value"]) for name, one in held.items()},
                violations={str(name): float(one["violation"]) for name, one in held.items()},
            )


class Baselines(Sequence[Baseline]):
    """The baselines of a search: a sequence, a table when printed, and which is the best.

    Args:
        rows: The baselines.
        directions: ``"maximize"`` or ``"minimize"``, one per objective.
        metrics: Names, one per objective.
    """

    def __init__(
        self, rows: Sequence[Baseline], directions: Sequence[str], metrics: Sequence[str]
    ) -> None:
        self._rows = sorted(rows, key=lambda row: row.place)
        self.directions, self.metrics = tuple(directions), tuple(metrics)

    @overload
    def __getitem__(self, key: int | str) -> Baseline: ...
    @overload
    def __getitem__(self, key: slice) -> list[Baseline]: ...
    def __getitem__(self, key: int | str | slice) -> Baseline | list[Baseline]:
        """One by its name or place.

        Raises:
            StudyError: If none is called so.
        """
        if not isinstance(key, str):
            return self._rows[key]
        names = [row.name for row in self._rows]
        if key not in names:
            known = f"there are {few(names, 20)}" if names else "there are none"
            raise StudyError(f"No baseline is called {key!r}; {known}.")
        return self._rows[names.index(key)]

    def __len__(self) -> int:
        return len(self._rows)

    def best_in(self, objective: int, *, tuned: bool = True) -> Baseline | None:
        """The best one in an objective: feasible before infeasible; ensembles do not count.

        Among equals an untuned one comes before a tuned one, then the first.

        Args:
            objective: Its number.
            tuned: Whether those count that the dev data have chosen.
        """
        sign = -1 if self.directions[objective] == "maximize" else 1
        scored = [row for row in self._rows if row.values is not None and row.is_checkpoint]
        those = [row for row in scored if tuned or not row.tuned]
        return min(
            those,
            key=lambda row: (row.violation, sign * row.values[objective], row.tuned),  # type: ignore[index]
            default=None,
        )

    @property
    def best(self) -> Baseline | None:
        """The best one, tuned on the dev data or not; None if none has a value.

        Raises:
            StudyError: If there are several objectives: each has a best one, :meth:`best_in`.
        """
        self._check_one_objective()
        return self.best_in(0)

    @property
    def best_untuned(self) -> Baseline | None:
        """The best one that owes nothing to the dev data; None if none has a value.

        Raises:
            StudyError: If there are several objectives: each has a best one, :meth:`best_in`.
        """
        self._check_one_objective()
        return self.best_in(0, tuned=False)

    @property
    def headlines(self) -> list[Baseline]:
        """Those to show beside a result: of task arithmetic only the best coefficients."""
        grid = [row for row in self._rows if row.kind == ARITHMETIC]
        found = Baselines(grid, self.directions, self.metrics)
        kept = [found.best_in(i) for i in range(len(self.directions))]
        return [row for row in self._rows if row not in grid or row in kept]

    def gain(self, values: Sequence[float]) -> float | None:
        """How much better than the best baseline something is; negative if it is worse.

        None if there is no baseline that is feasible, or several objectives.

        Args:
            values: Of something feasible.
        """
        if len(self.directions) != 1 or (best := self.best) is None or best.values is None:
            return None
        if best.violation:
            return None
        sign = 1 if self.directions[0] == "maximize" else -1
        return sign * (values[0] - best.values[0])

    def __repr__(self) -> str:
        return str(self) if self._rows else "no baselines"

    def __str__(self) -> str:
        """A table."""
        names = dict.fromkeys(name for row in self._rows for name in row.breakdown)
        parts = [name for name in names if name not in self.metrics]
        head = ("", *self.metrics, *parts, "", "examples", "seconds")
        return aligned(head, [self._line(row, parts) for row in self._rows], texts=(0, -3))

    def _line(self, row: Baseline, parts: Sequence[str]) -> tuple[str, ...]:
        numbers = [None] * len(self.metrics) if row.values is None else row.values
        cells = [*numbers, *(row.breakdown.get(name) for name in parts)]
        shown = ("" if cell is None else f"{cell:.4g}" for cell in cells)
        return (row.name, *shown, row.note, str(row.examples), f"{row.seconds:.1f}")

    def _check_one_objective(self) -> None:
        if len(self.directions) > 1:
            raise StudyError(
                f"There are {len(self.directions)} objectives, and each has its best baseline: "
                f"best_in(0) in {self.metrics[0]}."
            )


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]], *, texts: Sequence[int]) -> str:
    """A table as text: texts to the left, numbers to the right.

    Args:
        head: Of the columns.
        rows: Cells.
        texts: Places of the columns that hold names and notes.
    """
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = {range(len(head))[place] for place in texts}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def stored_baselines(study: optuna.Study) -> Baselines:
    """The baselines that are kept in a study, as far as they are scored.

    Raises:
        StudyError: If one of them is damaged.
    """
    attrs = compat.study_system_attrs(study).items()
    rows = [
        Baseline.from_data(key.removeprefix(BASELINE), data)
        for key, data in attrs
        if key.startswith(BASELINE) and data is not None
    ]
    directions = [direction.name.lower() for direction in study.directions]
    names = metric_names(study) or ["value"] * len(directions)
    return Baselines(rows, directions, names)


def store(study: optuna.Study, row: Baseline) -> None:
    """Keeps a baseline in its study, in place of an earlier one of this name."""
    compat.set_study_system_attr(study, BASELINE + row.name, row.to_data())


def drop(study: optuna.Study, name: str) -> None:
    """Forgets a baseline of other models or data; storages cannot delete an attribute."""
    compat.set_study_system_attr(study, BASELINE + name, None)


def beside(baselines: Baselines, value: float) -> str:
    """A value and how it stands to the best baseline, in a few words."""
    row = baselines.best
    if row is None or row.values is None:
        return f"{value:.4g}"
    if row.violation:
        return f"{value:.4g}, no baseline is feasible"
    difference = value - row.values[0]
    if difference == 0:
        stands = "as good as"
    elif baselines.directions[0] == "minimize":  # "over" would sound good
        stands = f"{abs(difference):.2g} {'worse' if difference > 0 else 'better'} than"
    else:
        stands = f"+{difference:.2g} over" if difference > 0 else f"{-difference:.2g} under"
    return f"{value:.4g}, {stands} the best baseline"


def packed_scores(scores: NDArray[np.float32]) -> dict[str, Any] | None:
    """As they are stored; None for one number for all."""
    return pack(scores) if len(scores) > 1 else None
