"""Which parameters of a search belong together: of one model, of one layer, of one parameter."""

from __future__ import annotations

from collections.abc import Sequence
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
    spaces = _spaces(view.paid)
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
    """Parameters as numbers, and who has an order.

    Choices are numbered, and have an order if they are numbers.

    Args:
        trials: The trials.
        names: Of parameters that some of them have.

    Returns:
        Shape (trials, names), NaN where one is absent, and shape (names,).
    """
    spaces = _spaces(trials)
    params = [trial.params for trial in trials]
    values, ordered = np.empty((len(trials), len(names))), np.ones(len(names), bool)
    for i, name in enumerate(names):
        column = [one.get(name, np.nan) for one in params]
        if (choices := _unordered(spaces[name])) is not None:
            ordered[i] = False
            column = [choices.index(one) if one in choices else np.nan for one in column]
        values[:, i] = column
    return values, ordered


def _spaces(trials: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
    """The distribution of every parameter, in the order in which they first come."""
    found: dict[str, BaseDistribution] = {}
    for trial in trials:
        found.update(trial.distributions)
    return found


def _unordered(distribution: BaseDistribution) -> list[object] | None:
    """The choices that have no order."""
    if not isinstance(distribution, CategoricalDistribution):
        return None
    real = all(isinstance(one, int | float) for one in distribution.choices)
    return None if real else [*distribution.choices]
