"""What is kept with studies and trials, and is not always what was written.

Databases are restored, edited by hand, cut off by full disks and written by other versions. What
is read from one is decoded in a :func:`decoding` block, so that whatever is wrong with it is one
sentence that names the study or trial.
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from merge_optuna._schema import CONSTRAINT, VALUE
from merge_optuna.errors import MergeOptunaError, NotImported, RecipeError, StudyError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial


@contextlib.contextmanager
def decoding(what: str) -> Iterator[None]:
    """A block that decodes something stored.

    Args:
        what: E.g. ``"claim of trial 4"``.

    Raises:
        StudyError: If it is not what this package writes.
        NotImported: If it is of a module that must be imported first.
    """
    try:
        yield
    except NotImported:
        raise
    except RecipeError as error:
        raise _damaged(what, error) from error
    except MergeOptunaError:
        raise
    except (
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        zlib.error,
    ) as error:
        raise _damaged(what, error) from error


def _damaged(what: str, error: Exception) -> StudyError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return StudyError(
        f"The {what} is damaged, or was written by a newer version ({reason}). Restore a copy of "
        "the storage, or use another study_name."
    )


def check_type(name: str, value: object, kind: type | tuple[type, ...]) -> None:
    """Checks the type of a decoded field; a bool is no number.

    Raises:
        TypeError: If it is another.
    """
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{name} is {str(value)[:40]!r}")


def values_of(trial: FrozenTrial, directions: int) -> list[float]:
    """The values of a completed trial.

    Raises:
        StudyError: If it has not one per direction.
    """
    values = trial.values or []
    if len(values) != directions:
        there = f"{len(values)} values instead of {directions}" if values else "no value"
        raise StudyError(
            f"Trial {trial.number} is complete, but has {there}: the storage is damaged. Restore "
            "a copy of it, or use another study_name."
        )
    return values


def breakdown_of(trial: FrozenTrial) -> dict[str, float]:
    """What the value of a trial is made of, by name, e.g. of the task; mostly nothing."""
    return _behind(VALUE, trial)


def constrained_of(trial: FrozenTrial) -> dict[str, float]:
    """What a trial scores in its constraints, by their names; mostly nothing."""
    return _behind(CONSTRAINT, trial)


def violation_of(trial: FrozenTrial) -> float:
    """The sum of what is beyond the bounds of its constraints, 0 if it is feasible.

    Of two trials the one with less comes first, whatever their values, which decide among
    feasible ones: the rule of Deb (2000).

    Raises:
        StudyError: If one of them is no number.
    """
    with decoding(f"constraints of trial {trial.number}"):
        return sum(max(0.0, c) if c == c else math.inf for c in trial.constraints.values())


def _behind(prefix: str, trial: FrozenTrial) -> dict[str, float]:
    attrs = trial.user_attrs.items()
    return {key.removeprefix(prefix): number for key, number in attrs if key.startswith(prefix)}


def metric_names(study: Study) -> list[str] | None:
    """The names of a study's metrics, one per direction; None if it has none.

    Raises:
        StudyError: If there are more or fewer.
    """
    with decoding(f"list of metric names of the study {study.study_name!r}"):
        names = study.metric_names
        if names is None:
            return None
        check_type("it", names, list)
        if len(names) != len(study.directions):
            raise ValueError(f"{len(names)} for {len(study.directions)} values")
        return [*map(str, names)]
