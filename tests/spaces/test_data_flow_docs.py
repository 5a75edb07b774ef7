"""What README, docs/data_flow.md and the example say of the data-flow space runs as written."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import merge_optuna as mo
from tests import toys
from tests.spaces.routes import Logits
from tests.trained import Task

ROOT = Path(mo.__file__).parents[1]


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        toys.llama(seed).save_pretrained(name)
    names: dict[str, Any] = {name: mo.Checkpoint(name, name=name) for name in "ab"}
    names |= {"mo": mo, "optuna": optuna, "evaluator": Logits()}
    page = (ROOT / "docs" / "data_flow.md").read_text()
    blocks = [part.partition("```")[0] for part in page.split("```python\n")[1:]]
    assert len(blocks) == 3
    for block in blocks:
        exec(block.replace("n_trials=200", "n_trials=6"), names)
    assert len(names["study"].trials) == 6
    for folder, layers in (("routed", None), ("by_hand", 3)):
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert layers in (None, len(model.model.layers))


def test_the_readme(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dev.jsonl").symlink_to(task.dev)
    _, ja, math = task.checkpoints()
    section = (ROOT / "README.md").read_text().partition("## Search the path")[2]
    code = section.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {"mo": mo, "ja": ja, "math": math}
    exec(code.replace("n_trials=1000", "n_trials=4"), names)
    assert len(names["study"].trials) == 4
    assert (tmp_path / "routed" / "model.safetensors").exists()


def test_the_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"<unk>": 0, **{word: i for i, word in enumerate(("who", "goes", "there"), 3)}}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>")
    for seed, name in enumerate(("base", "a", "b")):
        tokenizer.save_pretrained(toys.save(toys.llama(seed), tmp_path / name))
    (tmp_path / "dev.txt").write_text("who goes there\nthere goes who\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["data_flow.py", "base", "a", "b", "dev.txt"])
    code = (ROOT / "examples" / "data_flow.py").read_text()
    for written, here in (
        ("n_trials=60", "n_trials=10"),
        ("generations=10, population_size=16", "generations=3, population_size=8"),
    ):
        assert code.count(written) == 1
        code = code.replace(written, here)
    (tmp_path / "data_flow.py").write_text(code)
    runpy.run_path("data_flow.py")
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["merged", "routed", "by hand"]
    assert "by A" in lines[1]
    assert (tmp_path / "routed" / "model.safetensors").exists()
