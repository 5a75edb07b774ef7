"""The headless model inside a model with a head, under the names that others have for it.

transformers saves an encoder by itself as ``encoder.layer.0...``, and inside of a classifier as
``bert.encoder.layer.0...``, with the ``base_model_prefix`` of the architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from merge_optuna.checkpoints._checkpoint import Checkpoint
from merge_optuna.checkpoints._store import RenamedStore, Store
from merge_optuna.checkpoints._views import View


def base_model_prefix(checkpoint: Checkpoint) -> str | None:
    """Name of the headless model inside a model with a head, e.g. ``model`` or ``bert``.

    None when the architecture is unknown, or the checkpoint holds the headless model itself.
    """
    if checkpoint.module is not None:
        prefix = getattr(checkpoint.module, "base_model_prefix", "")
    else:
        architectures = (checkpoint.config or {}).get("architectures") or []
        if not architectures:
            return None
        import transformers

        architecture = getattr(transformers, architectures[0], None)
        prefix = getattr(architecture, "base_model_prefix", "")
    inside = any(name.startswith(f"{prefix}.") for name in checkpoint.names())
    return prefix if prefix and inside else None


def body_in(checkpoint: Checkpoint, frame: Checkpoint) -> dict[str, str] | None:
    """The names of the tensors of the headless model, by those that ``frame`` has for them.

    None if the two do not hold one: less than half of the tensors in ``frame`` are there.
    """
    prefix, mine, theirs = base_model_prefix(frame), _body(frame), _body(checkpoint)
    if 2 * len(mine.keys() & theirs.keys()) <= len(mine):
        return None
    before = "" if prefix is None else f"{prefix}."
    return {before + name: own for name, own in theirs.items()}


def named_as(checkpoint: Checkpoint, frame: Checkpoint) -> Checkpoint:
    """The headless model in a checkpoint as ``frame`` names it, if that has other names for it.

    So a classifier is seen beside a bare encoder, and a bare encoder beside a classifier.
    """
    if not set(checkpoint.names()).isdisjoint(frame.names()):
        return checkpoint  # without transformers, which takes seconds to import
    names = body_in(checkpoint, frame)
    if names is None:
        return checkpoint
    return _body_of(checkpoint, tuple(names.items()), checkpoint.store)


class BodyCheckpoint(View):
    """The headless model in a checkpoint under the names of another."""

    def _open(self) -> Store:
        names: tuple[tuple[str, str], ...] = self._how
        return RenamedStore(self._inner.store, dict(names), self._inner.config)


@lru_cache(maxsize=64)
def _body_of(
    checkpoint: Checkpoint,
    names: tuple[tuple[str, str], ...],
    store: Store,  # only for the cache: equal weights may lie at another place
) -> BodyCheckpoint:
    return BodyCheckpoint.of(checkpoint, *names)


def _body(checkpoint: Checkpoint) -> Mapping[str, str]:
    """The name in the checkpoint by the name in the headless model."""
    prefix = base_model_prefix(checkpoint)
    before = "" if prefix is None else f"{prefix}."
    return {n.removeprefix(before): n for n in checkpoint.names() if n.startswith(before)}
