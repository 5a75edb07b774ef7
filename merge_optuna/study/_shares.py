"""Which source the weights of a trial come from, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from numpy.typing import NDArray

from merge_optuna.recipes import Panel, Recipe
from merge_optuna.spaces import Declaration
from merge_optuna.study._lineage import lineage
from merge_optuna.study._recorded import stored_space

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from merge_optuna.checkpoints import Checkpoint

SHARE, MEMBERS = "share", "share in members"
"""How the panel is called."""


def layer_shares(
    study: optuna.Study,
    trial: FrozenTrial | int | None = None,
    *,
    sources: Mapping[str, Checkpoint | str | Path] | None = None,
) -> tuple[Panel, ...]:
    """The share of each source in each layer of an evolved trial, as one panel.

    What a share is says :meth:`Lineage.shares_between`, here between the borders of the layers.
    Weights are not read, only the shapes of the tensors.

    Args:
        study: A study of ``mo.spaces.SplitSlerp``, ``DifferentialCrossover`` or ``ParticleSwarm``.
        trial: A trial or its number; the best one when omitted.
        sources: As for :func:`mo.recipe_of`.

    Returns:
        A row for each layer, or one if all have the same; for the merge of a population a row for
        each of its members. Empty where the space of a study is not in the database.

    Raises:
        StudyError: As :func:`mo.lineage`.
        CheckpointError: If a source is gone.
    """
    found, models = lineage(study, trial), _models(study, dict(sources or {}))
    if models is None:
        return ()
    if (members := found.members) is not None:
        rows = [[own.get(name, 0.0) for name in models.model_names] for own in members.values()]
        return (Panel(MEMBERS, tuple(members), models.model_names, np.array(rows)),)
    layers, places = _borders(models)
    shares = found.shares_between(places.tolist())
    if shares is None or not shares.keys() <= {*models.model_names}:
        return ()  # it is the merge of the models as they are
    none = np.zeros(len(layers))
    values = np.stack([shares.get(name, none) for name in models.model_names], axis=1)
    if np.allclose(values, values[:1]):  # nothing that is drawn depends on the layer
        layers, values = ("all",), values[:1]
    return (Panel(SHARE, layers, models.model_names, values),)


def _borders(models: Recipe) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """The layers that have any elements, and where each begins and ends: (n + 1,), from 0 to 1."""
    parts = groupby(models.parts.values(), key=lambda part: part.layer)
    sizes = {layer: sum(part.size for part in own) for layer, own in parts}
    sizes = {layer: size for layer, size in sizes.items() if size}
    return tuple(sizes), np.cumsum([0, *sizes.values()]) / sum(sizes.values())


def _models(study: optuna.Study, sources: dict[str, Any]) -> Recipe | None:
    """The recipe of the models that the individuals of a study descend from."""
    space = stored_space(study)
    if not isinstance(space, Declaration) or (models := space.recipes.get("models")) is None:
        return None
    own = {name: source for name, source in sources.items() if name in models.called()}
    return models.with_sources(own) if own else models
