"""Writes the samplers down for editors and type checkers, from the options of their algorithms.

Their constructors are made when the classes are, so that nothing but a stub can show them to who
only reads. Write it again with ``python -m tests.samplers.stub``; a test compares.
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

FILE = Path(samplers.__file__).with_name("__init__.pyi")
_PACKAGE = samplers.__name__

_HEAD = '''\
# ruff: noqa
# fmt: off
"""Samplers: how a search varies a recipe. State lives in the study's storage alone.

Generated from the options of the algorithms by ``python -m tests.samplers.stub``; do not
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
    made = {n: kind for n, kind in public.items() if hasattr(kind.__init__, "__signature__")}
    known = {n: v for kind in made.values() for n, v in vars(sys.modules[kind.__module__]).items()}
    classes = "\n\n".join(map(_class, made.values()))
    ours = {n for n, v in known.items() if getattr(v, "__module__", "").startswith(_PACKAGE)}
    named = ours.intersection(re.findall(r"[:|] (\w+)", classes)) | public.keys()
    places = sorted(((known | public)[n].__module__, n) for n in named - made.keys())
    imports = "".join(f"from {module} import {n} as {n}\n" for module, n in places)
    listed = "".join(f'    "{name}",\n' for name in public)
    return f"{_HEAD}{imports}\n__all__ = [\n{listed}]\n\n{classes}\n"


def _class(kind: type) -> str:
    (base,) = kind.__bases__
    told = textwrap.indent(f'"""{kind.__doc__}"""', "    ", lambda line: line.strip() != "")
    return "\n".join([f"class {kind.__name__}({base.__name__}):", told, *_methods(kind)])


def _methods(kind: type) -> Iterator[str]:
    """What a class defines itself, as it is called."""
    for name, value in vars(kind).items():
        function = getattr(value, "fget", None) or getattr(value, "__func__", value)
        if inspect.isfunction(function) and (name == "__init__" or not name.startswith("_")):
            if function is not value:
                yield f"    @{type(value).__name__}"
            returned = inspect.signature(function).return_annotation
            yield f"    def {name}({', '.join(_parameters(function))}) -> {returned}: ..."


def _parameters(function: Any) -> Iterator[str]:
    parameters = list(inspect.signature(function).parameters.values())
    for before, one in zip([None, *parameters], parameters, strict=False):
        if one.kind is one.KEYWORD_ONLY and before is not None and before.kind is not one.kind:
            yield "*"
        kind = "" if one.annotation is one.empty else f": {one.annotation}"
        yield f"{one.name}{kind}{'' if one.default is one.empty else ' = ...'}"


if __name__ == "__main__":
    FILE.write_text(stub())
