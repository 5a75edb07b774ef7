"""Writes the functions of ``mo.recipes`` down for editors and type checkers, and their page.

They are made when they are asked for, so that nothing but a stub shows them to those who only
read. Write both again with ``python -m tests.methods.stub``; tests compare.
"""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path

from merge_optuna import recipes
from merge_optuna.methods import METHODS, markdown
from merge_optuna.recipes._functions import function_of

FILE = Path(recipes.__file__).with_name("_merges.pyi")
PAGE = Path(__file__).parents[2] / "docs" / "methods.md"

_HEAD = '''\
"""One function per merge method.

Generated from the specs in ``merge_optuna/methods/`` by
``python -m tests.methods.stub``; do not edit.
"""

from collections.abc import Sequence

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.recipes._functions import PerModel, Setting, Source, Tokenizer
from merge_optuna.recipes._tree import Recipe
'''


def stub() -> str:
    """The text of the stub."""
    names = sorted(METHODS)
    listed = "".join(f'    "{name}",\n' for name in names)
    functions = "".join(f"\n{_function(name)}" for name in names)
    return f"{_HEAD}\n__all__ = [\n{listed}]\n{functions}"


def _function(name: str) -> str:
    made = function_of(METHODS[name])
    lines, by_name = [], False
    for parameter in inspect.signature(made).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not by_name:
            lines.append("    *,")
            by_name = True
        has_default = parameter.default is not parameter.empty
        default = f" = {_literal(parameter.default)}" if has_default else ""
        lines.append(f"    {parameter.name}: {parameter.annotation}{default},")
    text = textwrap.indent(f'"""{made.__doc__}\n"""', "    ", lambda line: line.strip() != "")
    return "\n".join([f"def {name}(", *lines, ") -> Recipe:", text, ""])


def _literal(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


if __name__ == "__main__":
    # All texts before a file is written: none is emptied by an error.
    texts = {FILE: stub(), PAGE: markdown(METHODS.values())}
    for file, text in texts.items():
        file.write_text(text)
