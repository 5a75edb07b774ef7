"""Which parameters of a search belong together: of one model, of one layer, of one parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial

from merge_optuna.errors import MergeOptunaError
from merge_optuna.reports._explained import Array
from merge_optuna.reports._view import View
from merge_optuna.samplers.breeding import ORIGIN

_NAMES = 2**20  # of whole numbers: what has so many is an id or a seed, where near means nothing


class Place(NamedTuple):
    """What a parameter of a trial is about; empty if that is everything, or not known."""

    parameter: str
    model: str = ""
    layer: str = ""


def places(view: View) -> dict[str, Place]:
    """Every parameter of the trials that can explain something.

    Ids, seeds and the origin of individuals are left out, and what has one value only. What a
    study does not know of its parameters is read from their names: the word before the first
    ``/``.
    """
    known = _known(view)
    spaces: dict[str, BaseDistribution] = {}
    for trial in view.paid:
        spaces.update(trial.distributions)
    names = [name for name in known if name in spaces]  # in the order of the recipe
    names += [name for name in spaces if name not in known]
    return {
        name: known.get(name, Place(name.partition("/")[0]))
        for name in names
        if name != ORIGIN and not _is_name(spaces[name]) and not spaces[name].single()
    }


def _is_name(distribution: BaseDistribution) -> bool:
    """Whether its numbers name something, as ids and seeds do."""
    if not isinstance(distribution, IntDistribution):
        return False
    return distribution.high - distribution.low >= _NAMES


def _known(view: View) -> dict[str, Place]:
    """By the names of parameters, of recipes with free numbers."""
    try:
        slots = [slot for recipe in view.recipes.values() for slot in recipe.slots]
    except MergeOptunaError:  # their sources are gone
        return {}
    return {slot.name: Place(slot.parameter, slot.model, slot.layer) for slot in slots}


def numbers(
    trials: Sequence[FrozenTrial], names: Sequence[str]
) -> tuple[Array, NDArray[np.bool_]]:
    """Parameters as numbers: shape (trials, names), NaN where one is absent, and who has an order.

    Choices are numbered, and have an order if they are numbers.
    """
    spaces: dict[str, BaseDistribution] = {}
    for trial in trials:
        spaces.update(trial.distributions)
    coded = {name: _codes(spaces[name]) for name in names}
    rows = [[_number(trial.params, name, coded[name]) for name in names] for trial in trials]
    ordered = [codes is None for codes in coded.values()]
    return np.array(rows, np.float64).reshape(len(trials), len(names)), np.array(ordered, bool)


def _codes(distribution: BaseDistribution) -> list[object] | None:
    """The choices that have no order."""
    if not isinstance(distribution, CategoricalDistribution):
        return None
    real = all(isinstance(one, int | float) for one in distribution.choices)
    return None if real else [*distribution.choices]


def _number(params: Mapping[str, object], name: str, codes: list[object] | None) -> float:
    if name not in params:
        return float("nan")
    value = params[name]
    if codes is None:
        return float(value)  # type: ignore[arg-type]
    return float(codes.index(value)) if value in codes else float("nan")
