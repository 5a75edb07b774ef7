"""What to merge: one function per method, each returning a recipe.

A method's file in ``merge_optuna/methods/`` says all about it; its function is made from that
(:mod:`merge_optuna.recipes._functions`), also that of a method of your own
(:func:`mo.methods.register`).

Every numeric parameter may be a number; a free number, ``mo.free(low, high, per=...)``; one value
per layer group, ``mo.per_group([...])``; or ``{filter: value, "*": value}`` by tensor name.
``weight`` and ``density`` belong to each model: give one value for all, or a list with one each.

``exclude`` takes name filters: matching tensors come unchanged from the base (from the first model
for methods without one).

``tokenizer`` is for models whose vocabularies differ: ``"base"`` (the first model, for methods
without one), ``"union"`` or the name of a source says whose tokens the merged model has, and
:class:`mo.Vocabulary` more than that. ``chat_template`` is ``"auto"``, the name of a source or a
template. ``config`` is for models whose configs give weights another meaning, e.g. by another base
of the rotary positions: ``"base"`` or the name of a source says whose counts. All three are given
to the outermost recipe.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from merge_optuna import methods
from merge_optuna.recipes._documents import mergekit
from merge_optuna.recipes._fisher_and_gram import KEY as STATISTICS
from merge_optuna.recipes._functions import PerModel, Setting, Source, Tokenizer, function_of
from merge_optuna.recipes._panels import ALL, Panel, panels_of, summary_of
from merge_optuna.recipes._params import check_params
from merge_optuna.recipes._path import path
from merge_optuna.recipes._picture import range_of, route_panels, svg_of
from merge_optuna.recipes._structure import Chain, Structure
from merge_optuna.recipes._tree import Recipe, check_sources, frame_of, leaves_of
from merge_optuna.recipes._values import (
    ByName,
    Free,
    PerGroup,
    Value,
    as_value,
    form_of,
    free,
    per_group,
)
from merge_optuna.recipes.groups import Depth, Layout, depth
from merge_optuna.recipes.route import MOST_HOPS, Hop, Route, ScaleTarget

if TYPE_CHECKING:
    from merge_optuna.recipes._merges import *  # noqa: F403 - it has an __all__
else:

    def __getattr__(name):
        """The function of a method, also of one that is registered later; what stood here."""
        if name in methods.METHODS:
            return function_of(methods.METHODS[name])
        if name in ("Genome", "read_genome"):
            return getattr(mergekit(), name)
        close = difflib.get_close_matches(name, methods.METHODS, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else "Import the module that registers it."
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}. {hint}")


def __dir__() -> list[str]:
    return sorted({*__all__, *methods.METHODS})


LayerPath = Route  # its name before mo.spaces.LayerPath

__all__ = [
    "ALL",
    "MOST_HOPS",
    "STATISTICS",
    "ByName",
    "Chain",
    "Depth",
    "Free",
    "Hop",
    "LayerPath",
    "Layout",
    "Panel",
    "PerGroup",
    "PerModel",
    "Recipe",
    "Route",
    "ScaleTarget",
    "Setting",
    "Source",
    "Structure",
    "Tokenizer",
    "Value",
    "as_value",
    "check_params",
    "check_sources",
    "depth",
    "form_of",
    "frame_of",
    "free",
    "leaves_of",
    "panels_of",
    "path",
    "per_group",
    "range_of",
    "route_panels",
    "summary_of",
    "svg_of",
]
if not TYPE_CHECKING:
    __all__ += methods.METHODS.keys() - set(__all__)
