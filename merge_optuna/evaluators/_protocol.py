"""What an evaluator is, and what it yields and returns, checked.

Evaluators are anybody's code, and every score counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from merge_optuna.errors import EvaluationError, shown

if TYPE_CHECKING:
    from torch import nn

Ids: TypeAlias = NDArray[np.int64]
Scores: TypeAlias = NDArray[np.float64]
Batch: TypeAlias = tuple[Ids, Scores]
DIRECTIONS = ("maximize", "minimize")
_MOST_EXAMPLES = 10_000_000
_REAL = "biuf"  # kinds of numpy's data types

BATCH_SIZE = "batch_size"
"""The part of a digest that changes no score, but which examples a batch holds."""
ADDED_PARTS = frozenset((BATCH_SIZE, "function", "head_content", "max_length", "tokenizer"))
"""Parts of digests that earlier versions have not stored: without them, nothing is said."""


@runtime_checkable
class Evaluator(Protocol):
    """Scores a model example by example.

    An evaluator may also have

    - ``check(model)``, called once before a search: it raises
      :class:`~merge_optuna.errors.EvaluationError` if it cannot score this model;
    - ``digest``, a mapping from the parts of its data, e.g. inputs and labels, to digests or plain
      values: with it a search is not continued on other data than it began with. The part
      ``batch_size`` may be another, unless the pruner compares trials batch by batch;
    - ``deterministic``, whether the same model always gets the same scores: if it says so, and has
      a digest, a model that a complete trial has scored is not scored again;
    - ``breakdown(scores)``, what :meth:`value` is made of: a mapping from names, e.g. of tasks, to
      numbers, which are kept with a trial and shown beside its value;
    - ``parts``, the name of the task or group of each example, in their order, or None: it is kept
      with a study, so that cards and pages tell where a merge is better;
    - ``ensemble(models)``, which scores the mean of what several models predict, loaded one after
      another, as a baseline;
    - ``heads``: the checkpoint whose head it puts on the model for each task, by the task's name,
      or None where the model's own head counts;
    - ``last_replies()``, what the model that was scored last has written: a mapping per example,
      kept as an artifact with every new best.
    """

    @property
    def directions(self) -> Sequence[str]:
        """``"maximize"`` or ``"minimize"``, one per objective."""

    @property
    def metric_names(self) -> Sequence[str]:
        """One name per objective."""

    def __len__(self) -> int:
        """Number of examples."""

    def __call__(self, model: nn.Module) -> Iterator[Batch]:
        """Yields batches of example ids, shape (b,), and scores, shape (b,) or (b, k).

        The ids lie in ``range(len(self))``, each comes once, and the batches are the same, in the
        same order, for every model. Column 0 is the score of the example; further columns are
        whatever :meth:`value` needs besides. Not asking for the next batch stops early.
        """

    def value(self, scores: Scores) -> float | tuple[float, ...]:
        """The metric over the scores of any examples, in any order: shape (n,) or (n, k)."""


def part_name(part: str) -> str:
    """What a part of a digest is called, without the task that it is of: ``"task/part"``."""
    return part.rpartition("/")[2]


def name_of(evaluator: Evaluator) -> str:
    """What an evaluator is called in messages: the function's name, or else its class's."""
    one = getattr(evaluator, "fn", evaluator)
    return getattr(one, "__name__", type(one).__name__)


def is_deterministic(evaluator: Evaluator) -> bool:
    """Whether an evaluator says that the same model always gets the same scores, and on what."""
    deterministic = bool(getattr(evaluator, "deterministic", False))
    return deterministic and getattr(evaluator, "digest", None) is not None


# -- checks ---------------------------------------------------------------------------------------


def check_evaluator(evaluator: Evaluator) -> None:
    """Checks directions, names and length.

    Raises:
        EvaluationError: If they are not those of an evaluator, or there are no examples.
    """
    check_metrics(evaluator)
    check_length(evaluator)


def check_metrics(evaluator: Evaluator) -> None:
    """Checks directions and names.

    Raises:
        EvaluationError: If they are not those of an evaluator.
    """
    name = type(evaluator).__name__
    directions, names = evaluator.directions, evaluator.metric_names
    if not _are_words(directions) or not directions or not set(directions) <= {*DIRECTIONS}:
        raise EvaluationError(
            f"{name}.directions must be a list of {' or '.join(DIRECTIONS)}, one per objective, "
            f"not {shown(directions)}."
        )
    if not _are_words(names) or len(names) != len(directions):
        raise EvaluationError(
            f"{name}.metric_names must be a list of {len(directions)} names, one per objective, "
            f"not {shown(names)}."
        )


def check_length(evaluator: Evaluator) -> None:
    """Checks the number of examples, which some know only after their ``check(model)``.

    Raises:
        EvaluationError: If there are none.
    """
    name = type(evaluator).__name__
    try:
        examples = len(evaluator)
    except EvaluationError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise EvaluationError(
            f"The length of {name} is no number of examples: {error}."
        ) from error
    if examples < 1:
        raise EvaluationError(f"{name} has no examples: there is nothing to score a model on.")
    if examples > _MOST_EXAMPLES:
        raise EvaluationError(
            f"{name} says that it has {examples:,} examples; {_MOST_EXAMPLES:,} are allowed."
        )


def batches_of(evaluator: Evaluator, model: nn.Module) -> Generator[Batch, None, None]:
    """The batches of an evaluator, each example once: ids (b,) and scores (b,) or (b, k).

    Raises:
        EvaluationError: If a batch is none, or an example comes twice or not at all.
    """
    name, batches = type(evaluator).__name__, iter(evaluator(model))
    first = list(itertools.islice(batches, 1))  # at which some learn how many examples they have
    total = len(evaluator)
    seen = np.zeros(total, bool)
    columns: tuple[int, ...] | None = None
    for number, batch in enumerate(itertools.chain(first, batches)):
        where = f"Batch {number} of {name}"
        ids, scores = _batch(batch, where)
        if ids.size and not 0 <= ids.min() <= ids.max() < total:
            raise EvaluationError(
                f"{where} has example ids from {ids.min()} to {ids.max()}, but the examples are "
                f"0 to {total - 1}."
            )
        again = seen[ids] if len(np.unique(ids)) == len(ids) else np.ones(len(ids), bool)
        if again.any():
            raise EvaluationError(
                f"{where} has an example that came before, {ids[again.argmax()]}: each comes once."
            )
        seen[ids] = True
        columns = scores.shape[1:] if columns is None else columns
        if scores.shape[1:] != columns:
            raise EvaluationError(
                f"{where} has scores of shape {scores.shape}, but those before are "
                f"{('b', *columns)}: every example needs as many numbers."
            )
        yield ids, scores
    if not seen.all():
        raise EvaluationError(
            f"{name} has yielded {seen.sum()} of its {total} examples, not {seen.argmin()}: a "
            "score is over all of them."
        )


def value_of(evaluator: Evaluator, model: nn.Module) -> float | tuple[float, ...]:
    """The metric over all examples.

    Raises:
        EvaluationError: If what the evaluator yields or returns is no score.
    """
    batches = batches_of(evaluator, model)
    return value_over(evaluator, np.concatenate([scores for _, scores in batches]))


def value_over(evaluator: Evaluator, scores: Scores) -> float | tuple[float, ...]:
    """The metric over the scores of some examples.

    Raises:
        EvaluationError: If it is no number, or not one per objective.
    """
    what = f"{type(evaluator).__name__}.value"
    value: Any = evaluator.value(scores)
    if len(evaluator.directions) == 1 and not isinstance(value, tuple):
        return as_number(value, what)
    if not isinstance(value, tuple) or len(value) != len(evaluator.directions):
        raise EvaluationError(
            f"{what} must return {len(evaluator.directions)} numbers, one per objective, not "
            f"{shown(value)}."
        )
    return tuple(as_number(one, what) for one in value)


def breakdown_over(evaluator: Evaluator, scores: Scores) -> dict[str, float]:
    """What the metric over the scores of some examples is made of, by name; mostly nothing.

    Raises:
        EvaluationError: If that is no mapping from names to numbers.
    """
    breakdown = getattr(evaluator, "breakdown", None)
    if breakdown is None:
        return {}
    what, found = f"{type(evaluator).__name__}.breakdown", breakdown(scores)
    if not isinstance(found, Mapping) or not _are_words([*found]):
        raise EvaluationError(
            f"{what} must return a mapping from names to numbers, not {shown(found)}."
        )
    return {name: as_number(value, what) for name, value in found.items()}


def parts_of(evaluator: Evaluator) -> list[str] | None:
    """The name of the task or group of each example, shape (n,); None if there are none.

    Raises:
        EvaluationError: If there are more or fewer than examples.
    """
    parts = getattr(evaluator, "parts", None)
    if parts is None:
        return None
    what = f"{type(evaluator).__name__}.parts"
    if not _are_words(parts) or len(parts) != len(evaluator):
        raise EvaluationError(
            f"{what} must be the name of a task or group for each of {len(evaluator)} examples, "
            f"or None, not {shown(parts)}."
        )
    return [*parts]


def check_counts(**numbers: int | None) -> None:
    """Checks numbers of examples and the like, by the names of the arguments.

    Raises:
        EvaluationError: If one is below 1.
    """
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise EvaluationError(f"{name} must be at least 1, not {number}.")


def as_number(value: Any, who: str) -> float:
    """A number, or an array or tensor that is one, as a float.

    Words and truth values are none: ``"0.5"`` comes of a mistake, and so would its score.

    Raises:
        EvaluationError: If it is none.
    """
    try:
        one = value.item() if getattr(value, "ndim", None) == 0 else value
        if isinstance(one, Real) and not isinstance(one, bool):
            return float(one)
    except (OverflowError, RuntimeError) as error:
        raise EvaluationError(f"{who} must return a number, not {shown(value)}.") from error
    raise EvaluationError(f"{who} must return a number, not {shown(value)}.")


def as_scores(values: ArrayLike, where: str) -> NDArray[np.generic]:
    """Scores as an array of real numbers, of any shape.

    Raises:
        EvaluationError: If they are none.
    """
    try:
        found = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise EvaluationError(f"{where}: {shown(values)} is no array of numbers.") from error
    if found.dtype.kind not in _REAL:
        raise EvaluationError(
            f"{where}: scores must be real numbers, not {found.dtype}: {shown(values)}."
        )
    return found


def _batch(batch: Any, where: str) -> Batch:
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        raise EvaluationError(f"{where} must be a pair (example ids, scores), not {shown(batch)}.")
    ids, scores = as_scores(batch[0], where), as_scores(batch[1], where)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise EvaluationError(
            f"{where} must have example ids of shape (b,), whole numbers, not {ids.dtype} of "
            f"shape {ids.shape}."
        )
    if scores.ndim not in (1, 2) or len(scores) != len(ids) or 0 in scores.shape[1:]:
        raise EvaluationError(
            f"{where} has {len(ids)} example ids, but scores of shape {scores.shape}: "
            f"({len(ids)},) or ({len(ids)}, k) are needed."
        )
    return ids.astype(np.int64), scores.astype(np.float64)


def _are_words(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
