"""Checkpoints of a recipe by name: how they are called, and others in their place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.errors import CheckpointError


def names_of(checkpoints: Iterable[Checkpoint]) -> list[str]:
    """Names of checkpoints, and of those that adapters among them are put on."""
    names: dict[str, None] = {}
    for read in checkpoints:
        checkpoint: Checkpoint | None = read
        while checkpoint is not None:
            names |= dict.fromkeys((checkpoint.name, checkpoint.whole_name))
            checkpoint = checkpoint.base
    return list(names)


def numbered(names: Iterable[str]) -> list[str]:
    """Names that may repeat, the second with ``#2`` and so on."""
    times: Counter[str] = Counter()
    found = []
    for name in names:
        times[name] += 1
        found.append(f"{name}#{times[name]}" if times[name] > 1 else name)
    return found


def replaced(source: Checkpoint, sources: Mapping[str, Checkpoint | str | Path]) -> Checkpoint:
    """What a recipe is to read instead of a checkpoint.

    Raises:
        CheckpointError: If it has another content.
    """
    given = _given(source, sources)
    if not isinstance(given, Checkpoint):
        given = source.at(given)
    elif given is source and source.base is not None:
        base = replaced(source.base.origin, sources)
        given = source if base is source.base else source.on(base)
    given = given.recorded_like(source)
    if given != source:
        raise CheckpointError(
            f"The given source {source.name!r} is {given.name!r} with digest {given.digest}, but "
            f"{source.digest} was recorded. Pass the model that the study was made with, under "
            "the same name."
        )
    return given


def _given(
    source: Checkpoint, sources: Mapping[str, Checkpoint | str | Path]
) -> Checkpoint | str | Path:
    """What replaces a checkpoint; layers of one are found under its name too."""
    if source.name in sources or source.layer_range is None:
        return sources.get(source.name, source)
    whole = sources.get(source.whole_name, source)
    if whole is source or not isinstance(whole, Checkpoint):
        return whole
    return whole.layers(*source.layer_range, name=source.name)
