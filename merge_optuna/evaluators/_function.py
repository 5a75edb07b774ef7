"""A plain function of the model as an evaluator, known by its name and its source text."""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from merge_optuna.checkpoints import bytes_of, hex_digest
from merge_optuna.errors import EvaluationError, shown
from merge_optuna.evaluators._protocol import (
    DIRECTIONS,
    Batch,
    Evaluator,
    Scores,
    as_number,
    as_scores,
    check_counts,
    name_of,
)

if TYPE_CHECKING:
    from torch import nn


class Function:
    """A function of the model as an evaluator.

    It returns one number, which is then the one example there is; or, with ``per_example=True``,
    a score for each of its examples, in an order that is always the same, and the value is their
    mean. Scores per example are what niches need and what intervals are made of. A pruner saves
    nothing on either: the function runs as a whole.
    """

    def __init__(
        self,
        fn: Callable[[nn.Module], Any],
        *,
        per_example: bool = False,
        examples: int | None = None,
        direction: str = "maximize",
        name: str = "score",
        digest: str | Mapping[str, str] | None = None,
        deterministic: bool = False,
    ) -> None:
        """Wraps ``fn``.

        Args:
            fn: Takes the live model and returns a number. The model is refilled for the next
                trial: keep no reference to it.
            per_example: Whether ``fn`` returns a sequence (list, array, tensor) with a score for
                each example, a number or whether it is right.
            examples: How many scores ``fn`` then returns. When omitted, it is run once before the
                search, and has to return as many ever after.
            direction: ``"maximize"`` or ``"minimize"``.
            name: Name of the metric.
            digest: What a search must go on with: a word for the version of the function, or a
                mapping from the parts of its data to digests. When omitted, the name and the
                source text of the function without comments; neither what it calls nor the data
                that it reads count then.
            deterministic: Whether the same model always gets the same number: a search does not
                score it twice then.

        Raises:
            EvaluationError: If ``fn`` cannot be called or another argument is not valid.
        """
        if not callable(fn):
            raise EvaluationError(f"fn must be a function of the model, not {fn!r}.")
        if direction not in DIRECTIONS:
            raise EvaluationError(f"direction must be one of {DIRECTIONS}, not {direction!r}.")
        if examples is not None and not per_example:
            raise EvaluationError(
                f"examples={examples} is for a function that returns a score for each of them: "
                "add per_example=True."
            )
        check_counts(examples=examples)
        self.fn = fn
        self.directions = (direction,)
        self.metric_names = (name,)
        self._scores = _one_per_example if per_example else _one_for_all
        self._examples = examples if per_example else 1
        self._digest = digest
        self.deterministic = deterministic

    @property
    def digest(self) -> Mapping[str, str]:
        """What a search is not continued without; see ``digest`` of :class:`Function`."""
        if isinstance(self._digest, Mapping):
            return self._digest
        return {"function": self._digest or function_digest(self.fn)}

    def __len__(self) -> int:
        """The number of examples.

        Raises:
            EvaluationError: If the function has to be run first.
        """
        if self._examples is None:
            raise EvaluationError(
                f"How many examples {name_of(self)} scores is not known before it has been run: "
                "say it, Function(..., per_example=True, examples=...)."
            )
        return self._examples

    def check(self, model: nn.Module) -> None:
        """Runs the function if the number of examples is not known yet.

        Raises:
            EvaluationError: If it does not return a score for each example.
        """
        if self._examples is None:
            list(self(model))

    def __call__(self, model: nn.Module) -> Iterator[Batch]:
        """Yields all examples in one batch.

        Raises:
            EvaluationError: If the function returns anything but a number, or one per example.
        """
        scores = self._scores(self.fn(model), name_of(self))
        self._examples = self._examples or len(scores)
        if len(scores) != self._examples:
            raise EvaluationError(
                f"{name_of(self)} has returned {len(scores)} scores, but there are "
                f"{self._examples} examples: it must return one for each, in the same order, "
                "whatever the model."
            )
        yield np.arange(len(scores)), scores

    def value(self, scores: Scores) -> float:
        """The one number, or the mean."""
        return float(np.mean(scores))


def _one_for_all(result: Any, who: str) -> Scores:
    if isinstance(result, tuple | list):
        raise EvaluationError(
            f"{who} must return a number, not {shown(result)}. Scores of examples: "
            "mo.evaluators.Function(f, per_example=True). Several objectives: a function for "
            "each, mo.evaluators.Tasks({'a': f, 'b': g}, aggregate='each')."
        )
    return np.full(1, as_number(result, who))


def _one_per_example(result: Any, who: str) -> Scores:
    values = result.detach().cpu().numpy() if isinstance(result, Tensor) else result
    scores = as_scores(values, who)
    if scores.ndim != 1 or not len(scores):
        raise EvaluationError(
            f"{who} must return a score for each example, not {shown(result)} of shape "
            f"{scores.shape}."
        )
    return scores.astype(np.float64)


@contextlib.contextmanager
def calling(who: str, takes: str) -> Iterator[None]:
    """A block that calls a function of a user's own.

    Args:
        who: The function, and where.
        takes: What it is called with.

    Raises:
        EvaluationError: If it looks up what is not there, or takes something else.
    """
    try:
        yield
    except (KeyError, TypeError) as error:
        raise EvaluationError(
            f"{who} raises {type(error).__name__}: {error}. It is called with {takes}."
        ) from error


def as_evaluator(obj: Any) -> Evaluator:
    """Returns an evaluator as it is and wraps a function ``(model) -> float``.

    Raises:
        EvaluationError: If it is neither, or an evaluator that lacks a part.
    """
    if isinstance(obj, Evaluator):
        return obj
    parts = ("directions", "metric_names", "__len__", "__call__", "value")
    missing = [part for part in parts if not hasattr(obj, part)]
    if "value" not in missing or "directions" not in missing:
        raise EvaluationError(
            f"{type(obj).__name__} is not an evaluator: it has no {', '.join(missing)}."
        )
    if not callable(obj):
        raise EvaluationError(
            f"An evaluator or a function (model) -> float is needed, not {obj!r}."
        )
    return Function(obj)


# -- what a function is known by ------------------------------------------------------------------


def function_digest(fn: Callable[..., Any]) -> str:
    """32 hexadecimal digits over name and source of a function, or of the class of an object.

    Comments and layout do not count, nor does the module: a script is ``__main__`` when it is run
    and has a name when it is imported.
    """
    return hex_digest(["\n".join(_facts(fn)).encode()])


def _facts(fn: Any) -> list[str]:
    if isinstance(fn, functools.partial):
        given = [*enumerate(fn.args), *sorted(fn.keywords.items())]
        return [*_facts(fn.func), *(f"{key}={_given(value)}" for key, value in given)]
    fn = inspect.unwrap(getattr(fn, "__func__", fn))
    named = fn if hasattr(fn, "__qualname__") else type(fn)
    return [named.__qualname__, _source(named)]


@functools.singledispatch
def _given(value: Any) -> str:
    """What tells a value from others, and is the same in every process."""
    text = repr(value)
    # an address is another in every process
    return text if " at 0x" not in text else "\n".join(_facts(value))


@_given.register
def _(value: list) -> str:  # type: ignore[type-arg]
    return f"[{_all(value)}]"


@_given.register
def _(value: tuple) -> str:  # type: ignore[type-arg]
    return f"({_all(value)}{',' * (len(value) == 1)})"


@_given.register
def _(value: dict) -> str:  # type: ignore[type-arg]
    return f"{{{', '.join(f'{_given(key)}: {_given(inner)}' for key, inner in value.items())}}}"


@_given.register(set)
@_given.register(frozenset)
def _(value: set[Any] | frozenset[Any]) -> str:
    """Its order is another in every process."""
    return f"{type(value).__name__}({', '.join(sorted(map(_given, value)))})"


@_given.register
def _(value: np.ndarray) -> str:
    if value.dtype.hasobject:  # whose bytes are addresses
        return f"array({_given(value.tolist())})"
    return f"array({value.dtype}, {value.shape}, {hex_digest([value.tobytes()])})"


@_given.register
def _(value: Tensor) -> str:
    return f"tensor({value.dtype}, {tuple(value.shape)}, {hex_digest([bytes_of(value)])})"


def _all(values: Iterable[Any]) -> str:
    return ", ".join(map(_given, values))


def _source(named: Any) -> str:
    """The text as a parser writes it; empty where there is none, as of a builtin."""
    try:
        if getattr(named, "__name__", "") == "<lambda>":
            return _lambdas("".join(inspect.findsource(named)[0]), named.__code__.co_firstlineno)
        return ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(named))))
    except (OSError, TypeError, SyntaxError):
        return ""


@functools.lru_cache(maxsize=16)  # a search asks for it at each of its checks
def _lambdas(file: str, line: int) -> str:
    """The lambdas that begin on a line: what stands around them is not theirs."""
    nodes = [node for node in ast.walk(ast.parse(file)) if isinstance(node, ast.Lambda)]
    return "\n".join(ast.unparse(node) for node in nodes if node.lineno == line)
