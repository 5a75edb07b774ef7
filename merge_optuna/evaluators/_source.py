"""What a function is known by: its name and its source text."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Callable
from typing import Any


def function_digest(fn: Callable[..., Any]) -> str:
    """32 hexadecimal digits over name and source of a function, or of the class of an object.

    Comments and layout do not count, nor does the module: a script is ``__main__`` when it is run
    and has a name when it is imported.
    """
    return hashlib.blake2b("\n".join(_facts(fn)).encode(), digest_size=16).hexdigest()


def _facts(fn: Any) -> list[str]:
    if isinstance(fn, functools.partial):
        given = [*enumerate(fn.args), *sorted(fn.keywords.items())]
        return [*_facts(fn.func), *(f"{key}={_given(value)}" for key, value in given)]
    fn = inspect.unwrap(getattr(fn, "__func__", fn))
    named = fn if hasattr(fn, "__qualname__") else type(fn)
    return [named.__qualname__, _source(named)]


def _given(value: Any) -> str:
    text = repr(value)
    # an address is another in every process
    return text if " at 0x" not in text else "\n".join(_facts(value))


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
