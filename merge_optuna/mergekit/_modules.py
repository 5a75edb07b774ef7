"""Several modules of a model, each merged with its own numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from merge_optuna.mergekit._node import Node
from merge_optuna.mergekit._settings import per_tensor
from merge_optuna.recipes import Recipe, form_of

_PARTS = {
    "text_decoder": ("language_model",),
    "vision_tower": ("vision_tower", "visual"),
    "multi_modal_projector": ("multi_modal_projector", "merger"),
}
"""Parts of tensors' names by mergekit's name of the module, where they are not the same."""

_MAIN = ("text_decoder", "decoder")
"""The modules that also have what belongs to no other, such as the head."""


def joined(modules: Mapping[str, Recipe], node: Node) -> Recipe:
    """One merge that gives every tensor the numbers of its module.

    Args:
        modules: The merge of each module, as if it were one of the whole models.
        node: Where they stand.

    Raises:
        RecipeError: If a tensor belongs to none, or the modules have not the same models.
    """
    name, first = next(iter(modules.items()))
    for other, recipe in modules.items():
        if recipe.sources != first.sources or recipe.spec.structure == "stack":
            raise node.error(
                f"{other!r} must merge the same whole models as {name!r}, in this order, with "
                "numbers of its own. Merge each module with part= and write it before the next."
            )
    layout = first.alignment.layout
    owners = {tensor: _owner(tensor, modules, node) for tensor in layout.names}

    def joint(parameter: str, model: int | None) -> Any:
        given = {name: recipe.values[parameter] for name, recipe in modules.items()}
        own = {name: v if model is None else v[model] for name, v in given.items()}
        return per_tensor({t: form_of(own[owners[t]]).at(t, layout) for t in layout.names}, layout)

    return first.with_fields(
        parameters={
            key: tuple(joint(key, i) for i in range(len(value)))
            if isinstance(value, tuple)
            else joint(key, None)
            for key, value in first.parameters
        }
    )


def _owner(tensor: str, modules: Iterable[str], node: Node) -> str:
    """The module of a tensor: the one that the last part of its name tells."""
    place = {part: i for i, part in enumerate(tensor.split("."))}
    found = {
        module: max(places)
        for module in modules
        if (places := [place[part] for part in _PARTS.get(module, (module,)) if part in place])
    }
    if found:
        return max(found, key=lambda module: found[module])
    for module in modules:
        if module in _MAIN:
            return module
    raise node.error(f"{tensor} belongs to none of these modules: {', '.join(modules)}.")
