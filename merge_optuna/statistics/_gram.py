"""Gram matrices of the inputs of linear layers (Jin et al. 2023, arXiv 2212.09849, sec. 3.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from merge_optuna._bar import ProgressBar
from merge_optuna.checkpoints import Checkpoint
from merge_optuna.engine import Engine
from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators import Arguments, batches, placed, run, token_mask
from merge_optuna.statistics._folder import kept


def gram(
    checkpoint: Checkpoint,
    data: Any,
    *,
    n: int | None = 256,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    folder: str | Path | None = None,
) -> Checkpoint:
    """Gram matrix Xᵀ X / tokens of what each linear layer of a model gets as input.

    Padding does not count. Computed in float32. On disk a model's matrices are several times as
    large as its weights where layers have more inputs than outputs.

    Args:
        checkpoint: Any model.
        data: As for :func:`fisher`; what a model returns is not read.
        n: Number of examples: the first ones of an iterable, else some of all classes. None: all.
        batch_size: Examples at a time.
        device: Where to compute.
        folder: As for :func:`fisher`.

    Returns:
        One tensor for each weight of an nn.Linear, (1, in, in), or Conv1D, (in, in, 1): in the
        place of the axis of the inputs there are two. None for a weight that an embedding shares,
        nor for a mixture's experts, which transformers computes without linear layers.

    Raises:
        EvaluationError: If the data cannot be read or do not fit the model, or an input is NaN.
        ExportError: If the folder holds something else.
    """
    examples = batches(checkpoint, data, n=n, size=batch_size)

    def compute() -> dict[str, Tensor]:
        engine = Engine(device, "float32")
        model = engine.load(checkpoint)
        bar = ProgressBar(
            examples, f"Gram of {checkpoint.name}", delay=2, leave=False, unit="batch"
        )
        inputs = _collected(model, bar)
        found = {name: _gram_of(view, inputs) for name, view in engine.views.items()}
        return {name: gram for name, gram in found.items() if gram is not None}

    return kept("gram", checkpoint, examples, folder, compute)


@dataclass
class _Inputs:
    """What the layers with one weight have been given so far."""

    axis: int  # of the inputs in the weight: 1 in an nn.Linear, 0 in a Conv1D
    products: Tensor  # Σ x xᵀ, (in, in)
    tokens: int = 0

    def add(self, x: Tensor) -> None:
        """Counts inputs of shape (tokens, in)."""
        self.products += x.T @ x
        self.tokens += len(x)

    def gram(self) -> Tensor:
        """The mean, with two axes in the place of the weight's axis."""
        return (self.products / self.tokens).unsqueeze(0 if self.axis == 1 else 2)


def _collected(model: nn.Module, examples: Iterable[Arguments]) -> dict[Tensor, _Inputs]:
    """What the linear layers are given, by their weights."""
    device = next(model.parameters()).device
    layers = _linear_layers(model)
    inputs = {layer.weight: _start(layer) for layer in layers}
    batch = Arguments((), {})

    def add(layer: Any, given: tuple[Tensor, ...]) -> None:
        x = given[0]
        mask = token_mask(batch, x.shape[:-1])
        inputs[layer.weight].add(x.flatten(0, -2) if mask is None else x[mask])

    hooks = [layer.register_forward_pre_hook(add) for layer in layers]
    try:
        with torch.no_grad():
            for one in examples:
                batch = placed(one, device, torch.float32)
                run(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    for name, layer in model.named_modules():
        if layer in layers and not torch.isfinite(inputs[layer.weight].products).all():
            raise EvaluationError(
                f"The inputs of {name} are not finite for some example. Look for NaN in the model "
                "and in the data."
            )
    return {weight: found for weight, found in inputs.items() if found.tokens}


def _gram_of(view: Tensor, inputs: Mapping[Tensor, _Inputs]) -> Tensor | None:
    """The Gram matrix for a tensor of the checkpoint.

    It may hold the weights of several layers, such as query, key and value, or be some outputs of
    one. None if layers in it have other inputs than the rest.
    """
    grams = [i.gram() for weight, i in inputs.items() if _share_outputs(view, weight, i.axis)]
    alike = all(torch.equal(gram, grams[0]) for gram in grams)
    return grams[0] if grams and alike else None


def _linear_layers(model: nn.Module) -> list[Any]:
    """Those whose weights do nothing else: a head tied to the embedding is none."""
    elsewhere = {
        parameter
        for module in model.modules()
        if not _is_linear(module)
        for parameter in module.parameters(recurse=False)
    }
    return [m for m in model.modules() if _is_linear(m) and m.weight not in elsewhere]


def _is_linear(module: nn.Module) -> bool:
    kind = type(module)
    is_conv1d = kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers.")
    return isinstance(module, nn.Linear) or is_conv1d


def _start(layer: Any) -> _Inputs:
    axis = 1 if isinstance(layer, nn.Linear) else 0
    width = layer.weight.shape[axis]
    return _Inputs(axis, layer.weight.new_zeros(width, width))


def _share_outputs(view: Tensor, weight: Tensor, axis: int) -> bool:
    """Whether two tensors share memory, and all inputs of each output."""
    return (
        view.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()
        and view.stride() == weight.stride()
        and view.shape[axis] == weight.shape[axis]
    )
