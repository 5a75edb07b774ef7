"""The one function of recipes that no method's spec makes: it takes a path, and no parameters."""

from __future__ import annotations

from collections.abc import Sequence

from merge_optuna.recipes._functions import Source
from merge_optuna.recipes._tree import Recipe, check_sources
from merge_optuna.recipes.route import Route, ScaleTarget


def path(
    path: str | Route,
    models: Sequence[Source],
    *,
    scale_target: ScaleTarget = "branch",
    embeddings_from: int = 0,
    head_from: int = 0,
    name: str | None = None,
    config: str | None = None,
) -> Recipe:
    """A model whose forward pass goes through chosen layers of several models, with scales.

    What is written is an ordinary model of the same architecture, with as many layers as the path
    has hops: the scales are folded into the projections that end a layer's attention and its
    feed-forward part. Paths without scales are "Frankenmerges", for every architecture with one
    stack of layers; with scales there are llama, mistral, qwen2, qwen3, gpt2, bert, roberta
    and xlm-roberta.

    Args:
        path: ``"A0-A1-B1×0.8-A2"``, or with ranges, ``"A[0:16] B[8:24]"``; letters are the models
            in their order. Or a :class:`Route`, which says the next three itself.
        models: Of one architecture and width; their depths may differ.
        scale_target: What a scale is about; see :class:`Route`.
        embeddings_from: Number of the model whose embedding, config and tokenizer it has.
        head_from: Number of the model whose final norm and head it has.
        name: Prefix of parameter names inside another recipe.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` (the
            embedding's) or the name of a source.

    Raises:
        RecipeError: If the text is no path, there is no such model or layer, or the architecture
            is none that can be scaled.
        CheckpointMismatch: If the layers do not fit together.

    Example:
        >>> mo.recipes.path("A[0:16] B[8:24]", [a, b])
    """
    check_sources("path", None, models)
    if isinstance(path, str):
        ends = {"embeddings_from": embeddings_from, "head_from": head_from}
        path = Route.parse(path, scale_target, **ends)
    recipe = Recipe(method="path", models=tuple(models), path=path, name=name, config=config)
    _ = recipe.structure  # finds layers that there are not
    return recipe
