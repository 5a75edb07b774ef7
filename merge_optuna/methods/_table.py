"""Every method by name: those of the files beside this one, and those that users register."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

from merge_optuna.errors import NotImported, RecipeError
from merge_optuna.methods import descent, path, splice
from merge_optuna.methods._spec import Method

GROUP = "merge_optuna.methods"
"""The entry points of installed packages that register methods, each under the method's name."""


def _ours() -> Iterator[Method]:
    """Each file has a ``METHOD``, or several ``METHODS``."""
    for file in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if not file.name.startswith("_"):
            names = vars(importlib.import_module(f"{__package__}.{file.name}"))
            yield from names.get("METHODS", ())
            if "METHOD" in names:
                yield names["METHOD"]


METHODS: dict[str, Method] = {
    method.name: method for method in sorted(_ours(), key=lambda method: method.name)
}
"""Every method by name."""

EVOLVED: dict[str, Method] = {
    method.name: method for method in (splice.SPLICE, descent.DESCENT, path.PATH)
}
"""By name, the methods that take more than models and numbers: an individual or a layer path."""


def get(name: str, module: object = None) -> Method:
    """Returns a method by name.

    Args:
        name: As in ``mo.recipes.<name>``.
        module: Where a recipe says that it is registered. Nothing is imported from there, since a
            recipe may be anybody's; only what an installed package declares as an entry point.

    Raises:
        RecipeError: If there is none of that name; NotImported if its module is known.
    """
    found = METHODS.get(name) or EVOLVED.get(name)
    if found is not None:
        return found
    load_installed(name)
    if name in METHODS:
        return METHODS[name]
    if isinstance(module, str) and module.replace(".", "_").isidentifier():
        raise NotImported(
            f"Unknown method {name!r}: the module {module} registers it, which is not imported "
            f"just because a recipe says so. Do it first: import {module} in Python, or "
            f"merge-optuna --import {module} on the command line."
        )
    close = difflib.get_close_matches(name, METHODS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise RecipeError(f"Unknown method {name!r}.{hint} Methods: {', '.join(METHODS)}.")


def register(method: Method, *, module: str | None = None) -> Method:
    """Makes a method of your own known: ``mo.recipes.<name>``, recipe files, the command line.

    Call it where the method is defined, so that importing that module registers it. Recipes say
    which module that is. A process that reads one must have imported it: the file of a search does
    so anyway; elsewhere ``import my_method`` or ``merge-optuna --import my_method``. A package can
    declare it instead, ``[project.entry-points."merge_optuna.methods"]`` with
    ``my_method = "my_package.my_method"``; it is then imported when the method is asked for.

    Args:
        method: Its name must be new. Registered again by the same module, it is replaced.
        module: Import path of the calling module, ``__name__``; that of the kernel when omitted.

    Returns:
        The method as it is known from now on.

    Raises:
        RecipeError: If another method has the name.

    Example:
        >>> METHOD = mo.methods.register(mo.methods.Method(name="my_method", kernel=mine, ...))
        >>> recipe = mo.recipes.my_method(base, experts)
    """
    own = _import_path(module or method.kernel.__module__)
    if own.partition(".")[0] == __package__.partition(".")[0]:
        raise RecipeError(
            f"The kernel of {method.name} is one of merge_optuna. Say whose method it is: "
            "mo.methods.register(METHOD, module=__name__)."
        )
    known = METHODS.get(method.name) or EVOLVED.get(method.name)
    if known is not None and known.module != own:
        raise RecipeError(
            f"There is a method {method.name!r} already, of {known.module or 'merge_optuna'}. "
            "Give yours another name."
        )
    METHODS[method.name] = replace(method, module=own)
    return METHODS[method.name]


def load_installed(name: str | None = None) -> None:
    """Imports what installed packages declare as methods, so that they register them.

    Args:
        name: Of one method; all when omitted.

    Raises:
        RecipeError: If one of them cannot be imported.
    """
    for entry in entry_points(group=GROUP):
        if name in (None, entry.name):
            try:
                entry.load()
            except ImportError as error:
                raise RecipeError(
                    f"{entry.value} of an installed package, which should register the method "
                    f"{entry.name!r}, cannot be imported: {error}"
                ) from error


def _import_path(name: str) -> str:
    """Under which name others import a module, which may run as a script or as a search."""
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(module, "__file__", None)
    return name if file is None else Path(file).stem
