"""Statistics kept in a folder beside the digests of what they were made from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from torch import Tensor, nn

from merge_optuna._documents import load_json, read_text
from merge_optuna.checkpoints import (
    Checkpoint,
    TensorSpec,
    WritePlan,
    cache_root,
    check_target,
    hex_digest,
    write_checkpoint,
)
from merge_optuna.errors import ExportError, MissingFile, RecipeError
from merge_optuna.evaluators import Arguments, digest_of
from merge_optuna.recipes import STATISTICS

Facts: TypeAlias = Mapping[str, str | int]

_FORMAT = 1  # of what is computed: statistics of another format are computed again


def kept(
    kind: str,
    checkpoint: Checkpoint,
    examples: Sequence[Arguments],
    folder: str | Path | None,
    compute: Callable[[], Mapping[str, Tensor]],
    **settings: str,
) -> Checkpoint:
    """The statistics in the folder if they are these, else computed and written there.

    Args:
        kind: Of the statistics.
        checkpoint: The model.
        examples: What it is run on.
        folder: Where they are kept; one in the cache, named by what they are, when omitted.
        compute: Returns the tensors by name.
        settings: What else these depend on.

    Raises:
        ExportError: If the folder holds something else.
    """
    facts: Facts = {
        "format": _FORMAT,
        "kind": kind,
        "model": checkpoint.digest,
        "data": digest_of(examples),
        "examples": sum(batch.examples for batch in examples),
        **settings,
    }
    place = _cached(facts) if folder is None else Path(folder).expanduser().absolute()
    if _facts_in(place) != facts:
        _check_replaceable(place)
        _write(place, facts, compute())
    return Checkpoint(place, name=f"{checkpoint.name}-{kind}")


def _cached(facts: Facts) -> Path:
    text = json.dumps(facts, sort_keys=True)
    return cache_root() / "statistics" / hex_digest([text.encode()])


def _facts_in(folder: Path) -> Facts | None:
    """What the statistics in a folder were made from, or None if it holds none."""
    try:
        config = load_json(read_text(folder / "config.json"), "config.json")
    except (RecipeError, MissingFile):
        return None
    found: Facts | None = config.get(STATISTICS) if isinstance(config, dict) else None
    return found


def _check_replaceable(folder: Path) -> None:
    filled = not folder.is_dir() or any(folder.iterdir())
    if folder.exists() and filled and _facts_in(folder) is None:
        raise ExportError(
            f"{str(folder)!r} holds something else than statistics. Choose another folder."
        )
    check_target(folder, force=True)  # before the work


def _write(folder: Path, facts: Facts, tensors: Mapping[str, Tensor]) -> None:
    specs = [TensorSpec(name, t.dtype, tuple(t.shape)) for name, t in tensors.items()]
    nothing = Checkpoint.from_module(
        nn.Module(), name="nothing"
    )  # no files of a model beside them
    texts = {"config.json": json.dumps({STATISTICS: facts}, indent=2) + "\n"}
    plan = WritePlan(nothing, nothing, specs, texts)
    write_checkpoint(folder, plan, lambda name: [tensors[name]], force=True)
