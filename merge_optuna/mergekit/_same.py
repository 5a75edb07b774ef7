"""Whether two recipes are the same merge, in whatever form they say it."""

from __future__ import annotations

import torch

from merge_optuna.checkpoints import BY_ID, Checkpoint, Vocabulary
from merge_optuna.errors import RecipeError
from merge_optuna.mergekit._methods import TRANSLATIONS, our_name
from merge_optuna.recipes import Chain, Recipe, passthrough


def same_merge(a: Checkpoint | Recipe, b: Checkpoint | Recipe) -> bool:
    """Whether every tensor is made of the same tensors with the same numbers.

    Names, random seeds and what else mergekit does not know may differ.
    """
    if isinstance(a, Checkpoint) or isinstance(b, Checkpoint):
        return (
            isinstance(a, Checkpoint)
            and isinstance(b, Checkpoint)
            and (a.digest, a.layer_range) == (b.digest, b.layer_range)
        )
    names = a.alignment.layout.names
    if set(names) != set(b.alignment.layout.names):
        return False
    a, b = stacked(a), stacked(b)
    return (
        a.method == b.method
        and (a.base is None) == (b.base is None)
        and len(a.sources) == len(b.sources)
        and all(map(same_merge, a.sources, b.sources))
        and _dtypes(a) == _dtypes(b)
        and all(_numbers(a, name) == _numbers(b, name) for name in names)
    )


def stacked(recipe: Recipe) -> Recipe:
    """A layer path as layers one after the other, which is what mergekit has; else itself.

    Raises:
        RecipeError: If mergekit has no words for the path.
    """
    if recipe.path is None:
        return recipe
    route = recipe.structure
    assert isinstance(route, Chain)
    for model in recipe.models:
        if isinstance(model, Recipe):
            raise RecipeError(
                "mergekit takes layers from checkpoints, not from other configurations. Write "
                f"{model.name or 'the recipe'!r} to a folder first: mo.write(recipe, folder)."
            )
    if any(piece.start == piece.stop for piece in route.pieces):
        raise RecipeError(
            "mergekit takes the embedding from the model of the first layer and the head from "
            "that of the last. For this path make them so with embeddings_from="
            f"{recipe.path.hops[0].model} and head_from={recipe.path.hops[-1].model}."
        )
    if recipe.tokenizer not in (None, Vocabulary(BY_ID)):
        raise RecipeError(
            "mergekit makes a tokenizer of models in the order of their layers, not for a layer "
            f"path: it cannot do tokenizer={recipe.tokenizer.source!r}. Write the models with "
            "that tokenizer to folders first, and take the path through those."
        )
    scales = [{**piece.factors, "*": 1.0} if piece.factors else 1.0 for piece in route.pieces]
    parts = [part.origin for part in route.parts]
    made = passthrough(parts, scale=scales, name=recipe.name)
    config = None if recipe.config is None else "base"  # all others are refused
    return made.with_fields(
        dtype=recipe.dtype,
        chat_template=recipe.chat_template,
        config=config,
        tokenizer=recipe.tokenizer,
    )


def float_dtypes(frame: Checkpoint) -> set[torch.dtype]:
    """The data types of the float tensors."""
    dtypes = {frame.dtype(name) for name in frame.names()}
    return {dtype for dtype in dtypes if dtype.is_floating_point}


def _dtypes(recipe: Recipe) -> set[torch.dtype]:
    """The data types of the result."""
    return float_dtypes(recipe.frame) if recipe.dtype is None else {getattr(torch, recipe.dtype)}


def _numbers(recipe: Recipe, name: str) -> dict[str, object]:
    known = {our_name(parameter) for parameter in TRANSLATIONS[recipe.method].parameters}
    known |= set(TRANSLATIONS[recipe.method].ours)
    return {key: value for key, value in recipe.values_at(name).items() if key in known}
