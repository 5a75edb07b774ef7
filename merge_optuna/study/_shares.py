"""Which source the weights of a trial come from, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna

from merge_optuna.recipes import Panel, Recipe
from merge_optuna.spaces import Declaration
from merge_optuna.study._lineage import lineage
from merge_optuna.study._recorded import stored_space

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from merge_optuna.checkpoints import Checkpoint


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
        study: A study of ``mo.spaces.SplitSlerp`` or ``DifferentialCrossover``.
        trial: A trial or its number; the best one when omitted.
        sources: As for :func:`mo.recipe_of`.

    Returns:
        Empty where shares are not known: of the merge of a population, of particles, and in
        studies whose space is not in the database.

    Raises:
        StudyError: As :func:`mo.lineage`.
        CheckpointError: If a source is gone.
    """
    found, models = lineage(study, trial), _models(study, dict(sources or {}))
    if models is None:
        return ()
    sizes = {
        layer: sum(part.size for part in parts)
        for layer, parts in groupby(models.parts.values(), key=lambda part: part.layer)
    }
    sizes = {layer: size for layer, size in sizes.items() if size}
    places = np.cumsum([0, *sizes.values()]) / sum(sizes.values())
    shares = found.shares_between(places.tolist())
    if shares is None:
        return ()
    none = np.zeros(len(sizes))
    values = np.stack([shares.get(name, none) for name in models.model_names], axis=1)
    return (Panel("share", tuple(sizes), models.model_names, values),)


def _models(study: optuna.Study, sources: dict[str, Any]) -> Recipe | None:
    """The recipe of the models that the individuals of a study descend from."""
    space = stored_space(study)
    if not isinstance(space, Declaration) or (models := space.recipes.get("models")) is None:
        return None
    own = {name: source for name, source in sources.items() if name in models.called()}
    return models.with_sources(own) if own else models
