"""AdaMerging (Yang et al. 2024, arXiv 2310.02575): coefficients that make predictions certain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from merge_optuna._bar import ProgressBar
from merge_optuna.checkpoints import without_aliases
from merge_optuna.engine import Engine, check_finite
from merge_optuna.errors import EvaluationError, RecipeError
from merge_optuna.evaluators import (
    Arguments,
    Classification,
    Head,
    batches,
    logits_of,
    placed,
    token_mask,
)
from merge_optuna.recipes import Recipe, Source, per_group, task_arithmetic
from merge_optuna.recipes.groups import Grouping, Per, parse_per


def adamerging(
    base: Source,
    experts: Sequence[Source],
    data: Any,
    *,
    per: Per = "layer",
    steps: int = 500,
    lr: float = 1e-3,
    start: float = 0.3,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
    exclude: Sequence[str] = (),
    name: str | None = None,
) -> Recipe:
    """Task arithmetic whose coefficients minimise the entropy of predictions, learned by Adam.

    No labels are read, so certain is not always right: with one head for the classes of all
    experts, a model that knows one expert's classes only is certain too. Compare the result with
    its start on labelled data.

    In float32; base, task vectors and the merged model lie on the device at once, and the forward
    pass is kept for its gradient: memory for n + 2 models and a training step. Batches are taken
    in turn, so nothing is random.

    Args:
        base: What task vectors are taken from.
        experts: At least one.
        data: As for ``mo.statistics.fisher``: examples without labels; or a list of
            ``mo.evaluators.Classification``, one per task, each with its own ``head=`` if it has
            one. The sum of their entropies is minimised.
        per: One coefficient per expert (``"model"``, task-wise), per expert and ``"layer"``
            (layer-wise), or another granularity of :func:`mo.free`.
        steps: Of Adam, each with one batch per task.
        lr: Learning rate of Adam.
        start: All coefficients in the beginning.
        batch_size: Examples per batch.
        device: Where to compute.
        exclude: As for ``mo.recipes.task_arithmetic``.
        name: Prefix of parameter names inside another recipe.

    Returns:
        ``mo.recipes.task_arithmetic`` with the learned weights.

    Raises:
        CheckpointError: If a model is damaged, holds NaN, or does not fit the others.
        EvaluationError: If the data cannot be read or do not fit the model, or the entropy becomes
            NaN.
        RecipeError: If ``per`` or ``steps`` is not valid.
    """
    per = parse_per(per)
    if steps < 1 or lr <= 0:
        raise RecipeError(f"steps must be at least 1 and lr above 0, not {steps} and {lr}.")
    recipe = task_arithmetic(base, experts, exclude=exclude, name=name)
    grouping = recipe.alignment.layout.grouping(per)
    check_finite(recipe)
    tasks = [
        (batches(recipe.frame, one, n=None, size=batch_size), getattr(one, "head", None))
        for one in _tasks(data)
    ]
    merged = Merged(recipe, grouping, Engine(device, "float32"))
    coefficients = torch.full(
        (len(experts), len(grouping.labels)), float(start), device=device, requires_grad=True
    )
    optimizer = torch.optim.Adam([coefficients], lr=lr)
    for step in ProgressBar(range(steps), "AdaMerging", delay=2, leave=False, unit="step"):
        coefficients.grad = torch.zeros_like(coefficients)
        for inputs, head in tasks:  # one graph at a time
            entropy = merged.entropy(coefficients, inputs[step % len(inputs)], head)
            coefficients.grad += torch.autograd.grad(entropy, coefficients)[0]
        if not torch.isfinite(coefficients.grad).all():
            raise EvaluationError(
                f"The entropy of the predictions has no finite gradient at step {step}. Use a "
                "smaller lr, and look for NaN in the data."
            )
        optimizer.step()
    learned = coefficients.tolist()
    weight = [row[0] if per == "model" else per_group(row, per=per) for row in learned]
    return task_arithmetic(base, experts, weight=weight, exclude=exclude, name=name)


class Merged:
    """A live model whose parameters are a differentiable function of the coefficients."""

    def __init__(self, recipe: Recipe, grouping: Grouping, engine: Engine) -> None:
        """Loads base and task vectors.

        Args:
            recipe: Task arithmetic; its weights do not count.
            grouping: Which coefficients each tensor takes part in.
            engine: Whose live model is used; its data type is that of everything.
        """
        assert recipe.base is not None
        self._caller = _Caller(engine.load(recipe.base))
        self._shares = _live_shares(self._caller.model, engine.views, grouping)
        self._base = self._snapshot()
        self._deltas = []
        for i in range(len(recipe.models)):
            alone = [float(i == j) for j in range(len(recipe.models))]
            engine.load(
                task_arithmetic(recipe.base, recipe.models, weight=alone, exclude=recipe.exclude)
            )
            self._deltas.append({k: t - self._base[k] for k, t in self._snapshot().items()})
        self._device = engine.device

    def entropy(self, coefficients: Tensor, inputs: Arguments, head: Head | None) -> Tensor:
        """Mean entropy of the predictions for one batch, in nats.

        Args:
            coefficients: (experts, groups).
            inputs: One batch.
            head: In place of the model's own.
        """
        tensors = {}
        for name, shares in self._shares.items():
            theta = self._base[name]
            for row, delta in zip(coefficients, self._deltas, strict=True):
                theta = theta + sum(row[i] * share for i, share in shares) * delta[name]
            tensors[f"model.{name}"] = theta
        arguments = placed(inputs, self._device, coefficients.dtype)
        logits = torch.func.functional_call(self._caller, tensors, (arguments, head))
        log_p = logits.log_softmax(-1)
        entropies = -(log_p.exp() * log_p).sum(-1)
        mask = token_mask(arguments, entropies.shape)
        mean: Tensor = (entropies if mask is None else entropies[mask]).mean()
        return mean

    def _snapshot(self) -> dict[str, Tensor]:
        live = without_aliases(self._caller.model.state_dict())
        return {name: live[name].clone() for name in self._shares}


class _Caller(nn.Module):
    """The model, with another head if one is given."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, arguments: Arguments, head: Head | None) -> Tensor:
        return logits_of(self.model if head is None else head.on(self.model), arguments)


def _tasks(data: Any) -> Sequence[Any]:
    several = isinstance(data, (list, tuple)) and all(isinstance(d, Classification) for d in data)
    return data if several and data else [data]


def _live_shares(
    model: nn.Module, views: Mapping[str, Tensor], grouping: Grouping
) -> dict[str, tuple[tuple[int, float], ...]]:
    """The shares in the coefficients of each tensor of the live model that is merged.

    Raises:
        RecipeError: If the live model holds tensors of several groups as one.
    """
    names: dict[int, list[str]] = {}
    for name, view in views.items():
        if name in grouping.shares:
            names.setdefault(view.untyped_storage().data_ptr(), []).append(name)
    found = {}
    for live, tensor in without_aliases(model.state_dict()).items():
        inside = names.get(tensor.untyped_storage().data_ptr(), [])
        shares = {grouping.shares[name] for name in inside}
        if len(shares) > 1:
            raise RecipeError(
                f"{', '.join(inside)} are one tensor in the live model and need the same "
                "coefficient. Use per='layer'."
            )
        if shares:
            found[live] = shares.pop()
    return found
