"""What won: the best recipe as a picture, for every kind of space; or the front."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial

from merge_optuna.errors import MergeOptunaError
from merge_optuna.recipes import Panel, panels_of, route_panels
from merge_optuna.reports import _front, _heat_map, _route
from merge_optuna.reports._style import number
from merge_optuna.reports._view import View
from merge_optuna.study import layer_shares

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
    return _heat_map.drawn(
        panels, sentence(view), "Share of each source in the weights of a layer"
    )


def _as_route(view: View) -> Figure | None:
    if view.winner is None or view.winner.path is None:
        return None
    return _route.drawn(view.winner.path, view.winner.model_names, sentence(view))


def _as_panels(view: View) -> Figure | None:
    if view.winner is None or not (panels := panels_of(view.winner)):
        return None
    subtitle = f"{view.winner.method} of {', '.join(view.winner.model_names)}: darker is more"
    return _heat_map.drawn(panels, sentence(view), subtitle)


_WAYS: tuple[Callable[[View], Figure | None], ...] = (_as_shares, _as_route, _as_panels)
"""How a winner is shown, the first that has something to show."""
