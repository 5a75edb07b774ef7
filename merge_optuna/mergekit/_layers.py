"""Some layers of a merge as a merge of these layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from merge_optuna.checkpoints import Checkpoint, block_of, find_stacks, renumbered
from merge_optuna.errors import CheckpointError
from merge_optuna.mergekit._settings import per_tensor
from merge_optuna.recipes import Recipe, Value, form_of, frame_of
from merge_optuna.recipes.groups import Layout

Source = Checkpoint | Recipe


def count_layers(source: Source) -> int:
    """How many layers a model has."""
    return sum(map(len, find_stacks(frame_of(source).names()).values()))


def layers_of(source: Source, start: int, stop: int) -> Source:
    """The layers ``start`` to ``stop - 1`` of a model or a merge, with what is around them.

    Every tensor of a merge is made of those of its sources alone, so its layers are the merge of
    theirs with the same numbers. Random masks are other ones: they belong to other names.

    Raises:
        CheckpointError: If there are no such layers.
    """
    if isinstance(source, Checkpoint):
        return source.layers(start, stop)
    if not 0 <= start <= stop <= (count := count_layers(source)):
        raise CheckpointError(
            f"There are no layers {start} to {stop - 1} in {source.name!r}: it has {count}."
        )
    if source.spec.structure == "stack":
        return _of_stack(source, start, stop)
    base = None if source.base is None else layers_of(source.base, start, stop)
    models = tuple(layers_of(model, start, stop) for model in source.models)
    draft = Recipe(method=source.method, base=base, models=models, exclude=source.exclude)
    old, new = source.alignment.layout, draft.alignment.layout
    return draft.with_fields(
        name=_name(source, start, stop),
        parameters={
            name: tuple(_moved(v, old, new, start) for v in value)
            if isinstance(value, tuple)
            else _moved(value, old, new, start)
            for name, value in source.parameters
        },
    )


def _of_stack(source: Recipe, start: int, stop: int) -> Recipe:
    """The pieces of a stack that hold the layers, its first and its last for what is around."""
    pieces = list(_pieces(source.models, start, stop))
    models = tuple(layers_of(source.models[i], *inner) for i, inner in pieces)
    layouts = Recipe(method="passthrough", models=models).layouts
    scales = tuple(
        _moved(source.values["scale"][i], source.layouts[i], layout, first)
        for (i, (first, _)), layout in zip(pieces, layouts, strict=True)
    )
    return Recipe(
        method="passthrough",
        models=models,
        name=_name(source, start, stop),
        parameters={"scale": scales},
    )


def _pieces(
    models: Sequence[Source], start: int, stop: int
) -> Iterator[tuple[int, tuple[int, int]]]:
    first = 0
    for i, model in enumerate(models):
        count = count_layers(model)
        low, high = (min(max(at - first, 0), count) for at in (start, stop))
        if low < high or i in (0, len(models) - 1):
            yield i, (low, high)
        first += count


def _name(source: Recipe, start: int, stop: int) -> str | None:
    return source.name and f"{source.name}[{start}:{stop}]"


def _moved(value: Value, old: Layout, new: Layout, by: int) -> Value:
    """The value with which every tensor keeps the number that its layer had, ``by`` later."""
    if isinstance(value, bool | int | float | str):
        return value
    blocks = find_stacks(new.names)
    numbers: dict[str, Any] = {}
    for name in new.names:
        block = block_of(name, blocks)
        was = name if block is None else renumbered(name, block[1] + by)
        numbers[name] = form_of(value).at(was, old)
    return per_tensor(numbers, new)
