"""RegMean: linear layers merged by least squares on what each model gives them as input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from merge_optuna.errors import InfeasibleRecipe
from merge_optuna.methods._spec import Method, Parameter
from merge_optuna.methods.linear import linear

_MAX_ALPHA = 1 - 1e-6  # Gram matrices in float32 of fewer tokens than inputs are not definite
_MAX_AMPLIFICATION = 10.0


def regmean(
    base: None,
    models: Sequence[Tensor],
    *,
    alpha: float,
    statistics: Sequence[Tensor | None] = (),
) -> Tensor:
    """RegMean: linear layers that come closest to each model's outputs on its own inputs.

    Least squares, (Σ G)⁻¹ Σ G·W: each layer takes the solution of a linear system with as many
    unknowns as it has inputs, in float64. Other tensors are averaged.
    """
    mean = linear(None, models, weight=[1.0] * len(models), normalize=True)
    known = [gram for gram in statistics if gram is not None]
    if len(known) < len(models):
        return mean
    turned = _is_turned(mean, known[0])
    width = known[0].shape[1]
    left = torch.zeros(width, width, dtype=torch.float64, device=mean.device)
    right = torch.zeros(width, mean.numel() // width, dtype=torch.float64, device=mean.device)
    for theta, gram in zip(models, known, strict=True):
        shrunk = _shrunk(gram.reshape(width, width).double(), alpha)
        # As a way from the mean, which is then kept where no input tells what is best.
        way = theta.double() - mean
        left += shrunk
        right += shrunk @ (way.T if turned else way)
    way = _solve(left, right)
    merged = mean + (way.T if turned else way)
    _check_size(merged, models, alpha)
    return merged.to(mean.dtype)


def _is_turned(weight: Tensor, gram: Tensor) -> bool:
    """Whether a weight is (out, in), as nn.Linear has it, not (in, out) as Conv1D.

    The Gram matrix takes two axes in the place of the input's: (1, in, in) or (in, in, 1).
    """
    return gram.shape[0] == 1 and weight.shape[1] == gram.shape[1]


def _shrunk(gram: Tensor, alpha: float) -> Tensor:
    """The off-diagonal elements times α (section 3.3 of the paper)."""
    diagonal = gram.diagonal()
    scale = min(alpha, _MAX_ALPHA)
    return gram * scale + torch.diag(diagonal * (1 - scale))


def _solve(gram: Tensor, right: Tensor) -> Tensor:
    """Solution of gram·x = right; 0 for inputs that are always 0.

    Raises:
        InfeasibleRecipe: If the matrix is not positive definite.
    """
    diagonal = gram.diagonal().clone()
    never = diagonal <= 0
    diagonal[never] = 1.0
    scale = diagonal.rsqrt().unsqueeze(1)  # a unit diagonal: inputs differ in size by far
    unit = scale * gram * scale.T + torch.diag(never.double())
    factor, failed = torch.linalg.cholesky_ex(unit)
    if failed:
        raise InfeasibleRecipe(
            "The inputs of a layer are too few or too alike to tell its best weights. Use a "
            "smaller alpha, or statistics from more data."
        )
    return scale * torch.cholesky_solve(scale * right, factor)


def _check_size(merged: Tensor, models: Sequence[Tensor], alpha: float) -> None:
    largest = max(float(w.abs().max()) for w in models)
    if not float(merged.abs().max()) <= _MAX_AMPLIFICATION * largest:
        raise InfeasibleRecipe(
            f"With alpha={alpha:g} a merged layer has weights more than {_MAX_AMPLIFICATION:g} "
            "times as large as any model's. Use a smaller alpha, or statistics from more data."
        )


METHOD = Method(
    name="regmean",
    kernel=regmean,
    parameters=(
        Parameter(
            "alpha",
            0.9,
            "factor of the off-diagonal elements of the Gram matrices",
            low=0.0,
            high=1.0,
            search=(0, 1),
            details="1 trusts the data fully, 0 weighs each input alone.",
        ),
    ),
    base=False,
    promises=frozenset({"idempotent", "symmetric"}),
    statistics="gram",
    source="Jin et al. 2023, Dataless knowledge fusion by merging weights of language models, "
    "arXiv 2212.09849",
)
