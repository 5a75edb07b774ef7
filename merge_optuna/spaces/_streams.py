"""What one pass of an evaluator says of layers: how much each changes the stream.

Block influence is that of ShortGPT (Men et al., arXiv 2403.03853, eq. 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.engine import Engine, layers_of
from merge_optuna.errors import RecipeError
from merge_optuna.evaluators import Evaluator, as_evaluator, batches_of
from merge_optuna.recipes import Recipe
from merge_optuna.spaces._prior import LayerPrior

_TOKENS = 4096  # that the streams of models are compared on


def layer_prior(
    models: Sequence[Checkpoint | Recipe],
    evaluator: Evaluator | Callable[[nn.Module], float],
    *,
    device: str = "cpu",
    dtype: str | None = None,
) -> LayerPrior:
    """What one pass of an evaluator over every model says of their layers.

    Args:
        models: Those of a :class:`mo.spaces.LayerPath`, in its order.
        evaluator: Scores a model on dev data; every model must meet the same inputs in the same
            order.
        device: Of the live models.
        dtype: Of the live models.

    Returns:
        The prior, for ``LayerPath(models, prior=)``.

    Raises:
        RecipeError: If no path can go through the models, or they have met other inputs.
    """
    asked = as_evaluator(evaluator)
    met = [_met(model, asked, device, dtype) for model in models]
    if len({one.tokens for one in met}) > 1:
        raise RecipeError(
            f"The models have met {', '.join(str(one.tokens) for one in met)} tokens: a prior "
            "needs an evaluator that gives every model the same inputs."
        )
    first = met[0].streams
    similarity = tuple(
        tuple(_cosine(own, first[min(i, len(first) - 1)]) for i, own in enumerate(one.streams))
        for one in met
    )
    return LayerPrior(tuple(one.influence for one in met), similarity)


@dataclass(frozen=True)
class _Met:
    """What a model's layers have seen.

    Attributes:
        influence: Of each layer.
        streams: What entered each layer, (tokens, width), of the first tokens.
        tokens: How many there were in all.
    """

    influence: tuple[float, ...]
    streams: list[Tensor]
    tokens: int


def _met(model: Checkpoint | Recipe, evaluator: Evaluator, device: str, dtype: str | None) -> _Met:
    live = Engine(device, dtype).load(model)
    layers = layers_of(live)
    sums, streams = [0.0] * len(layers), [list[Tensor]() for _ in layers]
    tokens = [0] * len(layers)

    def see(number: int, before: Tensor, after: Tensor) -> None:
        one, other = (x.detach().flatten(0, -2).float() for x in (before, after))
        sums[number] += float((1 - torch.cosine_similarity(one, other, dim=-1)).double().sum())
        left = _TOKENS - tokens[number]
        tokens[number] += len(one)
        if left > 0:
            streams[number].append(one[:left].clone())

    with _watched(layers, see):
        for _ in batches_of(evaluator, live):
            pass
    if not all(tokens):
        raise RecipeError("The evaluator has not run the layers of the model.")
    influence = tuple(total / count for total, count in zip(sums, tokens, strict=True))
    return _Met(influence, [torch.cat(parts) for parts in streams], tokens[0])


@contextmanager
def _watched(
    layers: Sequence[nn.Module], see: Callable[[int, Tensor, Tensor], None]
) -> Iterator[None]:
    """A block in which every pass through a layer is seen: its number, before and after."""

    def hook(number: int) -> Any:
        def seen(_: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            see(number, before, result if isinstance(result, Tensor) else result[0])

        return seen

    hooks = [
        layer.register_forward_hook(hook(number), with_kwargs=True)
        for number, layer in enumerate(layers)
    ]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.cosine_similarity(one, other, dim=-1).double().mean())
