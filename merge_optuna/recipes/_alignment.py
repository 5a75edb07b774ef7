"""What is merged and what is left out, from the headers of the checkpoints alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from merge_optuna.checkpoints import Checkpoint, base_model_prefix, own_names, vocab_size
from merge_optuna.errors import CheckpointMismatch, RecipeError, few
from merge_optuna.recipes._belonging import check_configs, check_vocabularies
from merge_optuna.recipes._fisher_and_gram import is_statistics
from merge_optuna.recipes.groups import Layout, matches

_SHOWN = 10
_TIED = " (the other model ties it to its input embedding)"
_REMEDY = "Merge models of one architecture, or leave tensors out with exclude=[...]."


@dataclass(frozen=True)
class Alignment:
    """How the tensors of several checkpoints fit together.

    Attributes:
        layout: The tensors that are merged.
        copied: The tensors that come unchanged from the frame, with the reason.
    """

    layout: Layout
    copied: dict[str, str]


def align(
    frame: Checkpoint, others: tuple[Checkpoint, ...], exclude: tuple[str, ...]
) -> Alignment:
    """Decides for each tensor of ``frame`` whether it is merged with those of ``others``.

    Merged are float tensors that all have in equal shape. Task heads are left out when they
    differ; so is what matches ``exclude``. Anything else that differs is an error, and so is what
    gives weights of equal shape another meaning.

    Raises:
        CheckpointMismatch: With all mismatches counted and the first ten of each checkpoint shown.
        RecipeError: If a filter of ``exclude`` matches nothing.
    """
    return _align(frame, others, exclude, tuple(c.store for c in (frame, *others)))


@lru_cache(maxsize=64)
def _align(
    frame: Checkpoint,
    others: tuple[Checkpoint, ...],
    exclude: tuple[str, ...],
    stores: tuple[object, ...],  # only for the cache: equal weights may come with another config
) -> Alignment:
    _check_usable(frame, others, exclude)
    head = _Head(frame, others)
    head.check_order(exclude)
    differing = {
        other: _differences(frame, other) for other in dict.fromkeys(others) if other != frame
    }
    anywhere = set().union(*differing.values())

    def reason(name: str) -> str | None:
        """Why a tensor is left out, or None."""
        specs = frame.store.specs()
        if name in specs and not specs[name][0].is_floating_point:
            return "not a float tensor"
        if any(matches(pattern, name) for pattern in exclude):
            return "excluded"
        return "task head" if head.is_left_out(name, differs=name in anywhere) else None

    wrong = [
        _message(frame, other, left) + _forgotten_part(frame, other)
        for other, found in differing.items()
        if (left := {name: why for name, why in found.items() if reason(name) is None})
    ]
    if wrong:
        remedies = [_REMEDY, *(_vocabularies(frame, other) for other in differing)]
        raise CheckpointMismatch("\n".join(wrong + [r for r in remedies if r]))
    copied = {name: why for name in frame.names() if (why := reason(name)) is not None}
    merged = tuple(name for name in frame.names() if name not in copied)
    if not merged:
        raise CheckpointMismatch(
            f"Nothing is left to merge: all {len(copied)} tensors of {frame.name!r} are "
            f"{', '.join(sorted(set(copied.values())))}. Check exclude=."
        )
    check_configs(frame, others)
    check_vocabularies(frame, others, merged)
    return Alignment(Layout(merged), copied)


def _check_usable(
    frame: Checkpoint, others: tuple[Checkpoint, ...], exclude: tuple[str, ...]
) -> None:
    for checkpoint in (frame, *others):
        if (checkpoint.config or {}).get("quantization_config"):
            raise CheckpointMismatch(
                f"{checkpoint.name!r} ({checkpoint.ref}) is quantised, so its tensors are codes, "
                "not weights. Merge the model that it was made from."
            )
        if is_statistics(checkpoint):
            raise CheckpointMismatch(
                f"{checkpoint.name!r} ({checkpoint.ref}) holds statistics of a model, not "
                "weights. Pass it as statistics=[...] beside that model."
            )
    names = {name for checkpoint in (frame, *others) for name in checkpoint.names()}
    for pattern in exclude:
        if not any(matches(pattern, name) for name in names):
            raise RecipeError(
                f"exclude={pattern!r} matches no tensor. The tensors are {few(sorted(names))}."
            )


def _differences(frame: Checkpoint, other: Checkpoint) -> dict[str, str]:
    mine, theirs = frame.store.specs(), other.store.specs()
    tied = _tied_in_one(frame, other)
    found = {}
    for name, (dtype, shape) in mine.items():
        if name not in theirs:
            if dtype.is_floating_point:
                found[name] = f"is missing{_TIED if name in tied else ''}"
        elif theirs[name][1] != shape:
            found[name] = f"{theirs[name][1]} != {shape}"
    for name, (dtype, _) in theirs.items():
        if name not in mine and dtype.is_floating_point:
            found[name] = f"is only there{_TIED if name in tied else ''}"
    return found


def _tied_in_one(frame: Checkpoint, other: Checkpoint) -> set[str]:
    """Output embeddings that one of two models of an architecture shares with its input."""
    if (frame.config or {}).get("architectures") != (other.config or {}).get("architectures"):
        return set()
    stores = (frame.store.specs(), other.store.specs())
    return {
        name
        for there, elsewhere in (stores, stores[::-1])
        for name in there.keys() - elsewhere.keys()
        if any(
            shape == there[name][1] and re.search(r"emb|wte|shared", twin)
            for twin, (_, shape) in elsewhere.items()
        )
    }


def _message(frame: Checkpoint, other: Checkpoint, found: dict[str, str]) -> str:
    facts = []
    for key in ("model_type", "num_hidden_layers", "n_layer", "hidden_size", "vocab_size"):
        mine, theirs = (frame.config or {}).get(key), (other.config or {}).get(key)
        if mine is not None and theirs is not None and mine != theirs:
            facts.append(f"{key} {theirs} != {mine}")
    listed = "; ".join(f"{name} {why}" for name, why in list(found.items())[:_SHOWN])
    rest = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    total = len(frame.names())
    return (
        f"{len(found)} of {total} tensors differ between {other.name!r} and {frame.name!r}"
        f"{' (' + ', '.join(facts) + ')' if facts else ''}: {listed}{rest}."
    )


def _forgotten_part(frame: Checkpoint, other: Checkpoint) -> str:
    """A hint if one of two models is what the other has as a module."""
    if set(frame.names()) & set(other.names()):
        return ""
    for outer, inner in ((frame, other), (other, frame)):
        firsts = {name.removeprefix("model.").split(".")[0] for name in outer.names()}
        for part in sorted(firsts | {"language_model"}):
            names = own_names(outer.names(), part)
            if len(names.keys() & set(inner.names())) > len(inner.names()) / 2:
                return (
                    f" {inner.name!r} fits as a part of {outer.name!r}: "
                    f"mo.Checkpoint({outer.ref!r}, part={part!r})."
                )
    return ""


def _vocabularies(frame: Checkpoint, other: Checkpoint) -> str | None:
    """What to do about vocabularies of different sizes."""
    mine, theirs = vocab_size(frame.config), vocab_size(other.config)
    if mine is None or theirs is None or mine == theirs:
        return None
    return (
        f"The vocabulary of {other.name!r} has {theirs} tokens, that of {frame.name!r} {mine}: "
        'pass tokenizer="union", "base" or the name of a source to align their rows by token.'
    )


class _Head:
    """The task head: tensors outside the ``base_model_prefix`` of the frame's architecture."""

    def __init__(self, frame: Checkpoint, others: Sequence[Checkpoint]) -> None:
        self._frame = frame
        self._others = others
        self._labels_differ = any(_labels(other) != _labels(frame) for other in others)
        self._tied_in_one = set().union(*(_tied_in_one(frame, other) for other in others))

    def is_left_out(self, name: str, *, differs: bool) -> bool:
        if not (differs or self._labels_differ) or name in self._tied_in_one:
            return False
        # A pooler is trained with the head: only some of the models with a body have one.
        if differs and re.search(r"(^|\.)pooler\.", name) and self._frame.config is not None:
            return True
        return self._prefix is not None and not name.startswith(self._prefix + ".")

    def check_order(self, exclude: tuple[str, ...]) -> None:
        """Refuses heads with the same labels in another order, which look as if they could merge.

        Raises:
            CheckpointMismatch: Unless the head is left out on purpose.
        """
        mine, parts = _labels(self._frame) or {}, self._parts_besides(exclude)
        for other in self._others:
            theirs = _labels(other) or {}
            if mine == theirs or sorted(mine.values()) != sorted(theirs.values()) or not parts:
                continue
            raise CheckpointMismatch(
                f"{other.name!r} and {self._frame.name!r} have the same labels in another order, "
                f"{list(theirs.values())} and {list(mine.values())}, so that a merged head would "
                "mix classes up. Reorder the head of one, or take the head of "
                f"{self._frame.name!r}: exclude={parts}."
            )

    def _parts_besides(self, exclude: tuple[str, ...]) -> list[str]:
        """The modules of the head that no filter matches."""
        prefix = self._prefix
        names = (n for n in self._frame.names() if prefix and not n.startswith(f"{prefix}."))
        left = {n.partition(".")[0] for n in names if not any(matches(p, n) for p in exclude)}
        return sorted(left)

    @cached_property
    def _prefix(self) -> str | None:
        return base_model_prefix(self._frame)


def _labels(checkpoint: Checkpoint) -> dict[int, str] | None:
    """The labels by number; None if nobody named them."""
    labels = (checkpoint.config or {}).get("id2label") or {}
    named = any(label != f"LABEL_{i}" for i, label in labels.items())
    return {int(i): labels[i] for i in sorted(labels, key=int)} if named else None
