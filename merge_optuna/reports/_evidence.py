"""What is kept of a trial that is worth a look, exactly: cards and notes round numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from merge_optuna.recipes import svg_of
from merge_optuna.reports._artifacts import PICTURE, RECIPE, REPLIES, SCORES, TRACEBACK, Kind
from merge_optuna.reports._view import View
from merge_optuna.reports._winner import panels_of_trial


def of_best(
    view: View, trial: FrozenTrial, replies: Sequence[Mapping[str, Any]] = ()
) -> dict[Kind, str]:
    """Recipe, picture, scores and replies, as far as there are any.

    Args:
        view: The study.
        trial: One that is evaluated, and may be running still.
        replies: What its model has written, a mapping per example.
    """
    recipe = view.recipe(trial)
    files = {} if recipe is None else {RECIPE: recipe.to_yaml(), PICTURE: _picture(view, trial)}
    files |= {SCORES: _scores(view, trial), REPLIES: _lines(replies)}
    return {kind: text for kind, text in files.items() if text}


def of_failure(reason: str) -> dict[Kind, str]:
    """The traceback, or what is known instead of it."""
    return {TRACEBACK: reason}


def _picture(view: View, trial: FrozenTrial) -> str:
    panels = panels_of_trial(view, trial)
    return svg_of(panels, f"{view.name}, trial {trial.number}") if panels else ""


def _scores(view: View, trial: FrozenTrial) -> str:
    """A line per example: its number, its score, and what the best baseline has there."""
    own = view.scores(trial)
    if own is None:
        return ""
    columns = {"score": own}
    row = view.baselines.best if view.single else None
    if row is not None and row.scores is not None and len(row.scores) == len(own):
        columns[row.name] = row.scores
    head = ",".join(["example", *(_quoted(name) for name in columns)])
    cells = [map(_exact, column) for column in columns.values()]
    lines = [",".join((str(n), *found)) for n, found in enumerate(zip(*cells, strict=True))]
    return "\n".join([head, *lines]) + "\n"


def _lines(replies: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(dict(one), ensure_ascii=False) + "\n" for one in replies)


def _quoted(name: str) -> str:
    return f'"{name.replace(chr(34), chr(34) * 2)}"'


def _exact(score: np.float32) -> str:
    """As short as can be read back into the same float32; empty for NaN."""
    return "" if np.isnan(score) else np.format_float_positional(score, trim="-")
