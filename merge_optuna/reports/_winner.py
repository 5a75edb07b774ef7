"""What won: the best recipe as a picture, for every kind of space; or the front."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import FrozenTrial

from merge_optuna.errors import MergeOptunaError
from merge_optuna.recipes import ALL, Panel, panels_of, route_panels
from merge_optuna.reports import _front, _heat_map, _route
from merge_optuna.reports._style import number
from merge_optuna.reports._view import View
from merge_optuna.study import layer_shares
from merge_optuna.study.plumbing import MEMBERS

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def draw(view: View) -> Figure | None:
    """The winner; None where nothing is merged, or nothing is known of it."""
    if not view.single:
        return _front.draw(view)
    if view.best is None:
        return None
    return next((made for way in _WAYS if (made := way(view)) is not None), None)


def winning_panels(view: View) -> tuple[Panel, ...]:
    """As :func:`panels_of_trial`, of the best trial; empty where there is none."""
    return () if view.best is None else panels_of_trial(view, view.best)


def panels_of_trial(view: View, trial: FrozenTrial) -> tuple[Panel, ...]:
    """What there is to see of a trial, layer by layer or, of a layer path, step by step.

    For evolved weights the share of each source, else the parameters of the recipe.
    """
    if shares := _shares(view, trial):
        return shares
    recipe = view.recipe(trial)
    return () if recipe is None else (*route_panels(recipe), *panels_of(recipe))


def sentence(view: View) -> str:
    """Which trial has won, and by how much over the best baseline."""
    assert view.best is not None
    said = f"Trial {view.best.number} won: {view.metrics[0]} {number(view.best.values[0])}"
    gain, best = view.baselines.gain(view.best.values), view.baselines.best
    if gain is None or best is None:
        return said
    if not gain:
        return f"{said}, as good as {best.name}"
    return f"{said}, {number(abs(gain))} {'better' if gain > 0 else 'worse'} than {best.name}"


def _shares(view: View, trial: FrozenTrial | None) -> tuple[Panel, ...]:
    try:
        return layer_shares(view.study, trial, sources=view.sources)
    except MergeOptunaError:  # nobody descends from anybody, or sources are gone
        return ()


def _as_shares(view: View) -> Figure | None:
    if not (panels := _shares(view, view.best)):
        return None
    if panels[0].parameter == MEMBERS:
        said = "Share of each source in the members of the merged population"
        return _heat_map.drawn(panels, sentence(view), said, rows="member")
    where = "of the model" if len(panels[0].rows) == 1 else "of a layer"
    said = f"Share of each source in the weights {where}"
    return _heat_map.drawn(panels, sentence(view), said)


def _as_route(view: View) -> Figure | None:
    if view.winner is None or view.winner.path is None:
        return None
    return _route.drawn(view.winner.path, view.winner.model_names, sentence(view))


def _as_panels(view: View) -> Figure | None:
    if view.winner is None or not (panels := panels_of(view.winner)):
        return None
    subtitle = f"{view.winner.method} of {', '.join(view.winner.model_names)}: darker is more"
    return _heat_map.drawn(panels, sentence(view), subtitle)


def _as_parameters(view: View) -> Figure | None:
    """The free numbers alone, by their names, where the sources are on another machine."""
    assert view.best is not None
    if (recipe := view.recipes.get("")) is None:
        return None
    panels = tuple(_by_name(view.best.params, recipe.model_names))
    subtitle = f"{recipe.method} of {', '.join(recipe.model_names)}: what was searched"
    return _heat_map.drawn(panels, sentence(view), subtitle) if panels else None


def _by_name(params: Mapping[str, Any], models: Sequence[str]) -> Iterator[Panel]:
    """The numbers of a trial by their names: ``parameter/model/group``, the last two if any."""
    cells: dict[str, dict[tuple[str, str], float]] = {}
    for name, value in params.items():
        parameter, *rest = name.split("/")
        model = rest.pop(0) if rest and rest[0] in models else ALL
        cells.setdefault(parameter, {})["/".join(rest) or ALL, model] = float(value)
    for parameter, own in cells.items():
        rows, columns = (tuple(dict.fromkeys(cell[i] for cell in own)) for i in range(2))
        values = [[own.get((row, column), np.nan) for column in columns] for row in rows]
        yield Panel(parameter, rows, columns, np.array(values))


_WAYS: tuple[Callable[[View], Figure | None], ...] = (
    _as_shares,
    _as_route,
    _as_panels,
    _as_parameters,
)
"""How a winner is shown, the first that has something to show."""
