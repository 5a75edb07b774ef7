"""What a written model is made of: the merged model as it is, or under the head of another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from merge_optuna.checkpoints import Checkpoint, TensorSpec, body_in, configured, is_name
from merge_optuna.engine._build import ignored_in
from merge_optuna.engine._frame import Source, final_dtype, frame_of, origins
from merge_optuna.errors import ExportError, few
from merge_optuna.recipes import Recipe


@dataclass(frozen=True)
class Content:
    """The tensors of a model that is to be written.

    Attributes:
        frame: Whose config it has.
        tokenizer: Whose tokenizer it has, unless another one is asked for.
        specs: The tensors in their order.
        origins: Where each comes from, and its name there.
        common: How many of the first are those of the merged model, under whatever head.
    """

    frame: Checkpoint
    tokenizer: Checkpoint
    specs: list[TensorSpec]
    origins: Mapping[str, tuple[Source, str]]
    common: int = 0


def checked_heads(
    heads: Mapping[str, Checkpoint | None] | None,
) -> Mapping[str, Checkpoint | None]:
    """Heads by names of folders.

    Raises:
        ExportError: If they are anything else.
    """
    for name, head in ({} if heads is None else heads).items():
        if not is_name(name) or name.startswith("."):
            raise ExportError(f"{name!r} of heads= cannot be the name of a folder.")
        if head is not None and not isinstance(head, Checkpoint):
            raise ExportError(f"heads= needs checkpoints: {{{name!r}: mo.Checkpoint({head!r})}}.")
    return {} if heads is None else heads


def merged(recipe: Source, dtype: torch.dtype | None) -> Content:
    """A merged model, or a checkpoint, as it is."""
    frame = frame_of(recipe).whole
    specs = [
        TensorSpec(name, final_dtype(frame.dtype(name), dtype), frame.shape(name))
        for name in frame.names()
    ]
    return Content(frame, frame, specs, origins(recipe))


def under_head(recipe: Source, head: Checkpoint, dtype: torch.dtype | None) -> Content:
    """The headless model inside a merged one, and everything else of the model with the head.

    The head has the data type of the rest, as when it is scored.

    Raises:
        ExportError: If the head is of another architecture, or goes with other rows of tokens.
    """
    whole, found = frame_of(recipe).whole, origins(recipe)
    if isinstance(recipe, Recipe) and recipe.tokenizer is not None:
        raise ExportError(
            f"The recipe has a tokenizer of its own, which the head of {head.name!r} knows "
            "nothing of: heads= does not go with tokenizer=."
        )
    body = _body(whole, head)
    inside = whole.dtype(next(iter(body.values())))
    specs = [
        TensorSpec(name, final_dtype(whole.dtype(body[name]), dtype), whole.shape(body[name]))
        for name in head.names()
        if name in body
    ]
    common = len(specs)
    specs += [
        TensorSpec(
            name, final_dtype(head.dtype(name), final_dtype(inside, dtype)), head.shape(name)
        )
        for name in head.names()
        if name not in body
    ]
    where = {
        spec.name: found[body[spec.name]] if spec.name in body else (head, spec.name)
        for spec in specs
    }
    frame = configured(head, whole, stacked=False, by_id=False)
    return Content(frame, head, specs, where, common)


def _body(whole: Checkpoint, head: Checkpoint) -> dict[str, str]:
    """The names in the merged model of the tensors that a model with a head takes from it.

    Not of those that nobody has scored, as the pooler in the file of a masked language model.
    """
    unscored = set(ignored_in(whole))
    found = body_in(whole, head) or {}
    names = {name: own for name, own in found.items() if own not in unscored}
    there = {name: whole.shape(own) for name, own in names.items()}
    takes = {n: own for n, own in names.items() if n in head.store.specs()}
    differing = [name for name in takes if there[name] != head.shape(name)]
    lacking = [
        name
        for name in there.keys() - takes.keys()
        if whole.dtype(names[name]).is_floating_point
        and re.search(r"(^|\.)pooler\.", name) is None
    ]
    if not takes or differing or lacking:
        which = sorted([*differing, *lacking])
        raise ExportError(
            f"The merged model does not fit the head of {head.name!r} ({head.ref})"
            f"{': ' if which else ''}{few(which)}. Heads are those of models of one architecture."
        )
    return takes
