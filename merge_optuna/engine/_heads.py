"""A live model that is filled with a model which has another head, or none."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from merge_optuna.checkpoints import Checkpoint, base_model_prefix, body_in
from merge_optuna.engine._build import check_names

_REMEDY = "Use a new mo.Engine for another architecture."


def filled_by(
    checkpoint: Checkpoint, frame: Checkpoint, views: dict[str, Tensor], *, body: bool
) -> Mapping[str, str]:
    """The live tensors that a checkpoint fills, each with its name there.

    Where the two differ in nothing but their heads it is the headless model that both have inside.
    What else is live stays that of the model that was built: its head, or a pooler, which is
    trained with one.

    Args:
        checkpoint: What is loaded.
        frame: What the live model was built as.
        views: The memory of the live model, by the names in ``frame``.
        body: Whether the live model may keep a head which is not that of the checkpoint.

    Raises:
        CheckpointError: If the live model has other tensors.
    """
    live = {name: tuple(view.shape) for name, view in views.items()}
    given = {name: checkpoint.shape(name) for name in checkpoint.names()}
    if live == given:
        return {name: name for name in live}
    names, prefix = body_in(checkpoint, frame) or {}, base_model_prefix(frame)
    inside = {n for n in live if prefix is None or n.startswith(f"{prefix}.")} | names.keys()
    fits = {n: own for n, own in names.items() if live.get(n) == given[own]}
    misfits = any(_must_fit(name, views) for name in inside - fits.keys())
    if not names or misfits or not (body or prefix is None):
        check_names(checkpoint, views, _REMEDY)
    return fits


def _must_fit(name: str, views: Mapping[str, Tensor]) -> bool:
    """Not a pooler, nor a buffer of old versions such as the numbers of positions."""
    is_float = name not in views or views[name].is_floating_point()
    return is_float and re.search(r"(^|\.)pooler\.", name) is None
