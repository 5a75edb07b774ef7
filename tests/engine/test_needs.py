"""What kernels need besides tensors and values: computed once per study where it can be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import merge_optuna as mo
from merge_optuna.engine._known import Known
from merge_optuna.methods import Context, Method, Parameter
from tests import toys


class Spectrum:
    """``spectrum``: the singular value decomposition of each task vector, counted."""

    def __init__(self) -> None:
        self.computed: list[tuple[str, int]] = []

    def arguments(self, context: Context) -> dict[str, Any]:
        def svd(model: int) -> Any:
            self.computed.append((context.name, model))
            assert context.base is not None
            delta = context.models[model] - context.base
            return torch.linalg.svd(delta.reshape(len(delta), -1), full_matrices=False)

        models = range(len(context.models))
        return {"spectrum": [context.once("svd", lambda i=i: svd(i), model=i) for i in models]}


def flattened(
    base: Tensor, models: Sequence[Tensor], *, weight: Sequence[float], spectrum: Sequence[Any]
) -> Tensor:
    """The sum of task vectors whose singular values are their mean."""
    merged = base.clone()
    for w, (u, s, v) in zip(weight, spectrum, strict=True):
        merged += w * s.mean() * (u @ v).reshape(base.shape)
    return merged


@pytest.fixture
def spectrum(monkeypatch: pytest.MonkeyPatch) -> Spectrum:
    need = Spectrum()
    method = Method(
        name="flattened",
        kernel=flattened,
        parameters=(Parameter("weight", 1.0, "of each model", per_model=True),),
        needs=(need,),
        source="This test",
    )
    monkeypatch.setitem(mo.methods.METHODS, "flattened", method)
    return need


def recipe(base: Any, models: Sequence[Any], weight: Sequence[float]) -> mo.Recipe:
    return mo.Recipe(
        method="flattened", base=base, models=tuple(models), parameters={"weight": weight}
    )


def test_a_trial_with_other_numbers_computes_nothing_of_the_sources(
    tmp_path: Path, spectrum: Spectrum
) -> None:
    base, *experts = toys.family(tmp_path, experts=2)
    engine = mo.Engine()
    for weight in ([0.3, 0.7], [0.9, -0.2], [0.3, 0.7]):
        live = engine.load(recipe(base, experts, weight)).state_dict()
        once = [(name, model) for name in base.names() for model in range(2)]
        assert sorted(spectrum.computed) == sorted(once)
        for name in base.names():
            origin = base.tensor(name).double()
            expected = origin.clone()
            for w, expert in zip(weight, experts, strict=True):
                delta = (expert.tensor(name).double() - origin).reshape(len(origin), -1)
                u, s, v = torch.linalg.svd(delta, full_matrices=False)
                expected += w * s.mean() * (u @ v).reshape(origin.shape)
            torch.testing.assert_close(live[name].double(), expected, rtol=0, atol=1e-4)


def test_what_is_known_of_a_recipe_is_computed_again(tmp_path: Path, spectrum: Spectrum) -> None:
    """Its numbers may be others the next time."""
    base, *experts = toys.family(tmp_path, experts=2)
    engine = mo.Engine()
    for share in (0.2, 0.8):
        inner = mo.recipes.linear(experts, weight=[share, 1 - share], name="inner")
        made = recipe(base, [inner, experts[1]], [1.0, 0.5])
        live = engine.load(made).state_dict()
        for name, tensor in mo.engine.tensors(made):
            assert torch.equal(live[name], tensor)


def test_what_does_not_fit_is_not_kept() -> None:
    known, asked = Known(budget=100), []

    def value(key: str, size: int) -> tuple[Tensor, list[Tensor]]:
        asked.append(key)
        return torch.zeros(size // 8), [torch.zeros(size // 8)]

    for _ in range(3):
        for key, size in (("a", 64), ("b", 64), ("c", 32)):
            known.once(key, lambda key=key, size=size: value(key, size))
    assert asked == ["a", "b", "c", "b", "b"]
