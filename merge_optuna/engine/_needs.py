"""What a method's kernel gets besides tensors and values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from merge_optuna.engine._arrays import widened
from merge_optuna.engine._cuts import model_cuts
from merge_optuna.engine._target import Target
from merge_optuna.methods import Cut, mask_key
from merge_optuna.methods._reduce import stable_sum
from merge_optuna.methods.rankmean import module_ranks


def arguments(target: Target) -> dict[str, Any]:
    """All keyword arguments of the kernel for one tensor."""
    recipe, name, values = target.recipe, target.name, dict(target.values)
    if recipe.individual is not None:
        return {**values, "individual": recipe.individual, "part": recipe.parts[name]}
    if recipe.spec.random:
        values["keys"] = [mask_key(values["seed"], model, name) for model in recipe.model_names]
    if values.get("trim_over") == "model":
        cuts = [_cuts(target, i, density) for i, density in enumerate(values["density"])]
        values["cuts"] = [cut[name] for cut in cuts]
    if recipe.statistics:
        known = recipe.statistics_at(name)
        device = target.inputs[0].device
        values["statistics"] = [None if one is None else one.to(device) for one in known]
    if recipe.spec.ranked:
        values["ranks"] = _ranks_of(target, values["rank_over"])
    return values


def _cuts(target: Target, model: int, density: float) -> dict[str, Cut]:
    names = target.recipe.alignment.layout.names

    def compute() -> dict[str, Cut]:
        return model_cuts(lambda: ((n, d.float()) for n, d in _deltas(target, model)), density)

    found: dict[str, Cut] = target.of_model("cuts", model, (names, density), compute)
    return found


def _ranks_of(target: Target, over: str) -> list[int] | None:
    """The rank of a tensor's module in each model; None where it has none."""
    ranks = [_ranks(target, model, over) for model in range(len(target.recipe.models))]
    return [rank[target.name] for rank in ranks] if target.name in ranks[0] else None


def _ranks(target: Target, model: int, over: str) -> dict[str, int]:
    """Rank of each tensor's module among the modules of a model; not of embedding and head."""
    layout = target.recipe.alignment.layout

    def compute() -> dict[str, int]:
        changes = {name: stable_sum(delta.abs()) for name, delta in _deltas(target, model)}
        if over == "tensor":
            return module_ranks(changes, {name: name for name in layout.names})
        blocks = {n: layer for n, layer in layout.layers.items() if layer not in ("embed", "head")}
        ranks = module_ranks(changes, blocks)
        return {name: ranks[layer] for name, layer in blocks.items()}

    found: dict[str, int] = target.of_model("ranks", model, (layout, over), compute)
    return found


def _deltas(target: Target, model: int) -> Iterator[tuple[str, Tensor]]:
    """The task vector of every merged tensor of one model, by the plain path."""
    plain, recipe = target.reader.plain, target.recipe
    for name in recipe.alignment.layout.names:
        sources = (recipe.models[model], recipe.sources[0])
        theta, origin = widened([plain.plan(source, name).exact() for source in sources])
        yield name, theta - origin
