"""docs/evolution.md: its code runs as written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna

import merge_optuna as mo
from tests import toys
from tests.spaces.models import Waves

PAGE = (Path(mo.__file__).parents[1] / "docs" / "evolution.md").read_text()


def test_the_script(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("abc"):
        toys.bert(seed).save_pretrained(name)
    names: dict[str, Any] = {name: mo.Checkpoint(name, name=name) for name in "abc"}
    names |= {"mo": mo, "optuna": optuna, "evaluator": Waves()}
    code = PAGE.partition("```python\n")[2].partition("```")[0]
    exec(code.replace("n_trials=200", "n_trials=12").replace('"merged/"', '"merged"'), names)
    assert (tmp_path / "merged" / "model.safetensors").exists()
    for space in ("AffineSwarm", "SplitSlerp", "DifferentialCrossover"):
        assert f"`{space}(" in PAGE
        assert space in mo.spaces.__all__
