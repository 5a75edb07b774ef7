"""Writes the samplers down for editors and type checkers, from the options of their algorithms.

Their constructors are made when the classes are, so that nothing but a stub can show them to who
only reads. Write it again with ``python -m merge_optuna.samplers._stub``; a test compares.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from merge_optuna import samplers

FILE = Path(__file__).with_name("__init__.pyi")

_HEAD = '''\
# ruff: noqa
# fmt: off
"""Samplers: how a search varies a recipe. State lives in the study's storage alone.

Generated from the options of the algorithms by ``python -m merge_optuna.samplers._stub``; do not
edit.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

'''


def stub() -> str:
    """The text of the stub."""
    public = {name: vars(samplers)[name] for name in samplers.__all__}
    made = [kind for kind in public.values() if hasattr(_constructor(kind), "__signature__")]
    classes = "\n\n".join("\n".join(_class(kind)) for kind in made)
    imported = {
        f"from {value.__module__} import {name} as {name}\n"
        for name, value in public.items()
        if value not in made
    }
    for kind in made:
        for name in set(re.findall(r"\b[A-Z]\w+", "".join(_signatures(kind)))):
            value = vars(sys.modules[kind.__module__]).get(name)
            if name not in public and getattr(value, "__module__", "").startswith(
                samplers.__name__
            ):
                imported.add(f"from {value.__module__} import {name}\n")
    listed = "".join(f'    "{name}",\n' for name in public)
    return f"{_HEAD}{''.join(sorted(imported))}\n__all__ = [\n{listed}]\n\n{classes}\n"


def _class(kind: type) -> Iterator[str]:
    yield f"class {kind.__name__}({kind.__base__.__name__}):"  # type: ignore[union-attr]
    yield textwrap.indent(f'"""{kind.__doc__}"""', "    ", lambda line: line.strip() != "")
    for text in _signatures(kind):
        yield textwrap.indent(text, "    ")


def _signatures(kind: type) -> Iterator[str]:
    """What a class defines itself, as it is called."""
    for name, value in vars(kind).items():
        if name.startswith("_") and name != "__init__":
            continue
        if isinstance(value, property):
            yield f"@property\n{_function(value.fget)}"
        elif isinstance(value, classmethod):
            yield f"@classmethod\n{_function(value.__func__)}"
        elif inspect.isfunction(value):
            yield _function(value)


def _function(function: Any) -> str:
    signature = inspect.signature(function)
    lines, by_name = [], False
    for one in signature.parameters.values():
        if one.kind is one.KEYWORD_ONLY and not by_name:
            lines.append("    *,")
            by_name = True
        kind = "" if one.annotation is one.empty else f": {one.annotation}"
        lines.append(f"    {one.name}{kind}{'' if one.default is one.empty else ' = ...'},")
    return "\n".join(
        [f"def {function.__name__}(", *lines, f") -> {signature.return_annotation}: ..."]
    )


def _constructor(kind: type) -> Any:
    return vars(kind).get("__init__")


if __name__ == "__main__":
    FILE.write_text(stub())
