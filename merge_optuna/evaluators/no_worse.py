"""A constraint: what must not become worse."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from merge_optuna.errors import EvaluationError, shown
from merge_optuna.evaluators._function import as_evaluator
from merge_optuna.evaluators._protocol import Evaluator, as_number, check_metrics

if TYPE_CHECKING:
    from torch import nn

BASE, BEST_SOURCE = "base", "best source"
_LONGEST_NAME = 200  # characters: a key of a database has 512
_ROUNDING = 4 * sys.float_info.epsilon


@dataclass(frozen=True, init=False)
class NoWorse:
    """A constraint: a model is feasible if something else has not become worse by it.

    Given to ``mo.MergeObjective(space, evaluator, constraints=[...])``. Where the value of
    ``other`` is to be maximized, a merge is feasible if it is at least ``reference - slack``;
    where it is to be minimized, if it is at most ``reference + slack``.

    Attributes:
        other: The evaluator of what is constrained.
        than: ``"base"``, ``"best source"`` or a number.
        slack: How much worse is allowed, in the units of ``other``.
        name: In messages, user attributes and Optuna's ``trial.constraints``.
    """

    other: Evaluator
    than: str | float
    slack: float
    name: str

    def __init__(
        self,
        other: Evaluator | Callable[[nn.Module], float],
        than: str | float = BASE,
        slack: float = 0.0,
        *,
        name: str | None = None,
    ) -> None:
        """Declares it.

        Args:
            other: An evaluator with one objective, or a function from the live model to a number
                (higher is better).
            than: The reference: ``"base"``, what the base of the recipe scores; ``"best
                source"``, the best that the base or any of the merged models scores; or a number.
                Sources are scored once per study, before its first trial.
            slack: How much worse is allowed, 0 or more, in the units of ``other``.
            name: Tells constraints apart; e.g. ``"accuracy no worse than base"`` when omitted.

        Raises:
            EvaluationError: If one of them is not that.
        """
        evaluator = as_evaluator(other)
        check_metrics(evaluator)
        if len(evaluator.directions) != 1:
            raise EvaluationError(
                f"NoWorse compares one number, but {type(evaluator).__name__} has "
                f"{len(evaluator.directions)} objectives: {', '.join(evaluator.metric_names)}. "
                "Pass an evaluator with one of them, and a constraint for each."
            )
        reference = _reference(than)
        set_once = object.__setattr__
        set_once(self, "other", evaluator)
        set_once(self, "than", reference)
        set_once(self, "slack", _slack(slack))
        set_once(self, "name", _name(name, evaluator, reference))

    @property
    def direction(self) -> str:
        """``"maximize"`` or ``"minimize"``, that of ``other``."""
        return self.other.directions[0]

    def best(self, values: Iterable[float]) -> float:
        """The best of some values."""
        return (max if self.direction == "maximize" else min)(values)

    def violation(self, value: float, reference: float) -> float:
        """How far a value is beyond the bound; 0 or less if it is feasible, as Optuna has it.

        A difference that is nothing but rounding is none: with a slack of 0.1, 0.7 is no worse
        than 0.8, whose difference is 0.1 + 8e-17 in floating point.

        Args:
            value: Of the merge, finite.
            reference: What ``than`` stands for, finite.
        """
        worse = reference - value if self.direction == "maximize" else value - reference
        beyond = worse - self.slack
        size = max(abs(value), abs(reference), self.slack)
        return 0.0 if abs(beyond) <= _ROUNDING * size else beyond

    @property
    def declaration(self) -> Mapping[str, Any]:
        """What a search is not continued without, but for the data: those have a digest."""
        return {"than": self.than, "slack": self.slack, "direction": self.direction}


def _reference(than: object) -> str | float:
    wanted = f"than= is {BASE!r}, {BEST_SOURCE!r} or a finite number"
    if isinstance(than, str) and than in (BASE, BEST_SOURCE):
        return than
    number = math.nan if isinstance(than, str) else _number(than, wanted)
    if not math.isfinite(number):
        raise EvaluationError(f"{wanted}, not {shown(than)}.")
    return number


def _slack(slack: object) -> float:
    wanted = "slack= is how much worse is allowed, a finite number of 0 or more"
    number = _number(slack, wanted)
    if not 0 <= number < math.inf:
        raise EvaluationError(f"{wanted}, not {shown(slack)}.")
    return number


def _number(value: object, wanted: str) -> float:
    try:
        return as_number(value, wanted)
    except EvaluationError as error:
        raise EvaluationError(f"{wanted}, not {shown(value)}.") from error


def _name(name: object, evaluator: Evaluator, than: str | float) -> str:
    if name is None:
        shortened = f"{than:.6g}" if isinstance(than, float) else than
        name = f"{evaluator.metric_names[0]} no worse than {shortened}"[:_LONGEST_NAME]
    if not isinstance(name, str) or not name.strip() or len(name) > _LONGEST_NAME:
        raise EvaluationError(
            f"name= is a few words, at most {_LONGEST_NAME} characters, not {shown(name)}."
        )
    return name
