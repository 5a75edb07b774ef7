"""Several tasks as one evaluator."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from merge_optuna.errors import EvaluationError, shown
from merge_optuna.evaluators._aggregates import aggregate_of, names_of
from merge_optuna.evaluators._function import as_evaluator
from merge_optuna.evaluators._head import heads_of
from merge_optuna.evaluators._protocol import (
    Batch,
    Evaluator,
    Ids,
    Scores,
    batches_of,
    breakdown_over,
    check_length,
    check_metrics,
    is_deterministic,
    parts_of,
    value_over,
)

if TYPE_CHECKING:
    from torch import nn

    from merge_optuna.checkpoints import Checkpoint


class Tasks:
    """Several evaluators as one, each a task: one value of their values, or a value of each.

    The first batch holds one of every task, so that a pruner never judges by a part of them; each
    further one holds examples of one task. The next is always of the task of whose examples the
    smallest share is done: so tasks alternate in proportion to their numbers of batches, in the
    same order for every model.

    Scores per example are a row: what the example scores in its task; the further columns of that
    task, filled up with zeros where another task has more; how many further columns are its own
    (-1: its scores are a vector); and last the number of the task.

    Attributes:
        tasks: The evaluators by name.
        directions: That of all tasks, e.g. ``("maximize",)``; of an objective each, theirs.
        metric_names: Aggregate and tasks, e.g. ``("mean of mr, maths",)``; of an objective each,
            the tasks, ``("mr", "maths")``, and ``"maths/tokens"`` of one that has several.
    """

    def __init__(
        self,
        tasks: Mapping[str, Evaluator | Callable[[nn.Module], float]],
        aggregate: str | Mapping[str, float] = "mean",
    ) -> None:
        """Composes the tasks.

        Args:
            tasks: Evaluators, or functions from the live model to a number, by name, e.g.
                ``{"mr": Classification(mr_dev, head=mr), "subj": Classification(subj_dev,
                head=subj)}``. Each has one objective, and all have the same direction, unless
                each is an objective.
            aggregate: What their values add up to: ``"mean"``; a weight above 0 per task, e.g.
                ``{"mr": 2, "subj": 1}``, for the weighted mean; ``"geometric"``, the geometric
                mean: 0 as soon as a value is 0, NaN, with which a trial is pruned, if one is
                negative; ``"worst"``, the worst value. With ``"each"`` they are not added up:
                every task is an objective of the search, or several if it has several, in its own
                direction.

        Raises:
            EvaluationError: If there is no task, a name cannot be one, a part is no evaluator, or
                there is no such aggregate, or none of tasks with several objectives or another
                direction.
        """
        if not isinstance(tasks, Mapping) or not tasks:
            raise EvaluationError(
                "Tasks takes evaluators by name, {'mr': mo.evaluators.Classification(...), ...}, "
                f"not {shown(tasks)}."
            )
        self.tasks = {_checked_name(name): _part(name, part) for name, part in tasks.items()}
        self._aggregate = aggregate_of(aggregate, self.tasks)
        self.directions = self._aggregate.directions
        self.metric_names = self._aggregate.metric_names
        self.deterministic = all(map(is_deterministic, self.tasks.values()))
        self._names, self._parts = [*self.tasks], [*self.tasks.values()]

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __call__(self, model: nn.Module) -> Iterator[Batch]:
        """Scores the examples; those of the second task are numbered after those of the first.

        Args:
            model: One that every task can score.

        Yields:
            Example ids, shape (b,), and scores, shape (b, k), k ≥ 3.

        Raises:
            EvaluationError: If a task cannot score the model; the message names the task.
        """
        with contextlib.closing(self._alternating(model)) as batches:
            first = list(islice(batches, len(self._parts)))  # one of each: whose rows are longest?
            width = max(_further(scores) for _, _, scores in first)
            starts = np.cumsum([0, *map(len, self._parts)])  # some have not known it before

            def numbered(number: int, ids: Ids, scores: Scores) -> Batch:
                return starts[number] + ids, _row(number, scores, width)

            # All tasks at once, so that no pruner ever judges by a part of them.
            begun = [numbered(*batch) for batch in first]
            yield np.concatenate([b[0] for b in begun]), np.concatenate([b[1] for b in begun])
            for batch in batches:
                yield numbered(*batch)

    def value(self, scores: Scores) -> float | tuple[float, ...]:
        """The aggregate of the tasks' values over the scores of any examples.

        Tasks without an example among them are left out, with their weights; where each is an
        objective, its value is NaN.
        """
        own = self._own(scores).items()
        return self._aggregate.value({self._names[n]: self._values(n, some) for n, some in own})

    def breakdown(self, scores: Scores) -> dict[str, float]:
        """The value of every task that has an example among the scores, by its name.

        Those of one with several objectives are called ``"task/metric"``. What a task itself
        breaks down follows as ``"task/part"``.
        """
        found: dict[str, float] = {}
        for number, own in self._own(scores).items():
            name, task = self._names[number], self._parts[number]
            found |= zip(names_of(name, task), self._values(number, own), strict=True)
            for part, value in breakdown_over(task, own).items():
                found.setdefault(f"{name}/{part}", value)
        return found

    def check(self, model: nn.Module) -> None:
        """Checks that every task can score a model, as far as it checks that, and has examples.

        Raises:
            EvaluationError: If one cannot; the message names it.
        """
        for name, part in self.tasks.items():
            check = getattr(part, "check", None)
            with _of_task(name):
                if check is not None:
                    check(model)
                check_length(part)

    def last_replies(self) -> list[dict[str, Any]]:
        """What the model that was scored last has written in all tasks, with their ``task``."""
        return [
            {"task": name, **reply}
            for name, part in self.tasks.items()
            for reply in getattr(part, "last_replies", list)()
        ]

    @property
    def heads(self) -> dict[str, Checkpoint | None]:
        """Whose head is put on the model for each task; None where the model's own counts."""
        found = {name: [*heads_of(part).values()] for name, part in self.tasks.items()}
        return {name: heads[0] if heads else None for name, heads in found.items()}

    @property
    def parts(self) -> list[str]:
        """The task of each example, with its own part behind it if the task has any."""
        found = []
        for name, part in self.tasks.items():
            own = parts_of(part)
            found += [name] * len(part) if own is None else [f"{name}/{one}" for one in own]
        return found

    @cached_property
    def digest(self) -> dict[str, Any]:
        """The aggregate, and what digests the tasks have, as ``"task/part"``."""
        found: dict[str, Any] = {"aggregate": self._aggregate.digest}
        for name, part in self.tasks.items():
            own = getattr(part, "digest", None) or {}
            found |= {f"{name}/{key}": value for key, value in own.items()}
        return found

    def _alternating(self, model: nn.Module) -> Generator[tuple[int, Ids, Scores], None, None]:
        """Number of the task, and a batch of it; every task comes once before one comes twice."""
        with contextlib.ExitStack() as stack:
            streams = {
                number: stack.enter_context(contextlib.closing(batches_of(part, model)))
                for number, part in enumerate(self._parts)
            }
            done, asked = dict.fromkeys(streams, 0.0), dict.fromkeys(streams, 0)
            while streams:
                number = min(streams, key=lambda n: (done[n], asked[n]))
                with _of_task(self._names[number]):
                    batch = next(streams[number], None)
                if batch is None:
                    del streams[number]
                    continue
                asked[number] += 1
                done[number] += len(batch[0]) / len(self._parts[number])
                yield number, *batch

    def _own(self, scores: Scores) -> dict[int, Scores]:
        """The scores of each task as it has yielded them, by its number."""
        found = {}
        for number in np.unique(scores[:, -1]).astype(int).tolist():
            rows = scores[scores[:, -1] == number]
            further = int(rows[0, -2])
            found[number] = rows[:, 0] if further < 0 else rows[:, : 1 + further]
        return found

    def _values(self, number: int, own: Scores) -> tuple[float, ...]:
        with _of_task(self._names[number]):
            value = value_over(self._parts[number], own)
        return value if isinstance(value, tuple) else (value,)


# -- scores -----------------------------------------------------------------------------------


def _further(scores: Scores) -> int:
    """How many columns there are besides the score of an example; -1 for a vector."""
    return -1 if scores.ndim == 1 else scores.shape[1] - 1


def _row(number: int, scores: Scores, width: int) -> Scores:
    """The scores of a task with ``width`` further columns, how many are its own, its number."""
    further = _further(scores)
    columns = scores.reshape(len(scores), -1)
    filling = np.zeros((len(scores), max(width, 0) - max(further, 0)))
    ends = np.tile([float(further), float(number)], (len(scores), 1))
    return np.hstack([columns, filling, ends])


# -- tasks ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _of_task(name: str) -> Iterator[None]:
    """A block whose errors name the task."""
    try:
        yield
    except EvaluationError as error:
        raise EvaluationError(f"Task {name!r}: {error}") from error


def _checked_name(name: object) -> str:
    """A name that can also be that of a folder, and part of that of a value."""
    if not isinstance(name, str) or not name.strip(". ") or set(name) & set('/\\:*?"<>|\n'):
        raise EvaluationError(
            f"{shown(name)} cannot be the name of a task: a word without / and the like, as for "
            "the name of a folder, is needed."
        )
    return name


def _part(name: str, part: Any) -> Evaluator:
    if isinstance(part, Tasks):
        raise EvaluationError(
            f"Task {name!r} is itself several tasks: {', '.join(part.tasks)}. Name all of them in "
            "one Tasks, with weights if some are to count less."
        )
    with _of_task(name):
        evaluator = as_evaluator(part)
        check_metrics(evaluator)
    return evaluator
