"""The evaluator that CONTRIBUTING shows, word for word."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import merge_optuna as mo
from merge_optuna.errors import StudyError
from tests import toys
from tests.docs.blocks import block


@pytest.fixture
def brier(tmp_path: Path) -> Iterator[Any]:
    code = block("CONTRIBUTING.md", "brier.py")
    assert code.count("\n") <= 40
    file = tmp_path / "brier.py"
    file.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("brier", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["brier"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["brier"]


def data(n: int) -> tuple[Tensor, list[int]]:
    generator = torch.Generator().manual_seed(n)
    pixels = torch.randn(n, 3, 8, 8, generator=generator)
    return pixels, torch.randint(3, (n,), generator=generator).tolist()


def models() -> list[mo.Checkpoint]:
    made = (toys.vit(seed, layers=2) for seed in (0, 1))
    return [mo.Checkpoint.from_module(m, name=n) for m, n in zip(made, "ab", strict=True)]


def test_it_scores_as_written_in_the_books(brier: Any) -> None:
    pixels, labels = data(50)
    evaluator, model = brier.Brier((pixels, labels), batch_size=16), mo.Engine().load(models()[0])
    p = model(pixel_values=pixels).logits.double().softmax(-1).detach().numpy()
    expected = ((p - np.eye(3)[labels]) ** 2).sum(1).mean()
    assert mo.evaluators.value_of(evaluator, model) == pytest.approx(expected, rel=1e-6)


def test_it_is_searched_and_resumed(brier: Any, tmp_path: Path) -> None:
    a, b = models()

    def search(name: str, *, n: int = 40, trials: int = 6) -> mo.MergeStudy:
        recipe = mo.recipes.linear([a, b], weight=mo.free(0, 1))
        objective = mo.MergeObjective(recipe, brier.Brier(data(n)))
        return mo.MergeStudy(name, objective, n_trials=trials, baselines=False)

    url = f"sqlite:///{tmp_path}/s.db"
    whole = search("whole").run(url, progress=False)
    search("parts", trials=3).run(url, progress=False)
    resumed = search("parts").run(url, progress=False)
    assert len(resumed.trials) == 6
    assert [(t.params, t.values) for t in resumed.trials] == [
        (t.params, t.values) for t in whole.trials
    ]
    with pytest.raises(StudyError, match="inputs"):
        search("parts", n=41).run(url, progress=False)
