"""What a function is known by: its name and its source text."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from torch import Tensor

from merge_optuna.checkpoints import bytes_of, hex_digest


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


def _lambdas(file: str, line: int) -> str:
    """The lambdas that begin on a line: what stands around them is not theirs."""
    nodes = [node for node in ast.walk(ast.parse(file)) if isinstance(node, ast.Lambda)]
    return "\n".join(ast.unparse(node) for node in nodes if node.lineno == line)
