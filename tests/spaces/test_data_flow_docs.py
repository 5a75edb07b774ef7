"""The examples of the data-flow space run as written."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import merge_optuna as mo
from tests import toys

ROOT = Path(mo.__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three small models, and text."""
    words = {"<unk>": 0, **{word: i for i, word in enumerate(("who", "goes", "there"), 3)}}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>")
    for seed, name in enumerate(("base", "a", "b")):
        tokenizer.save_pretrained(toys.save(toys.llama(seed), tmp_path / name))
    (tmp_path / "dev.txt").write_text("who goes there\nthere goes who\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(folder: Path, name: str, fewer: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs an example with smaller numbers."""
    code = (ROOT / "examples" / name).read_text()
    for written, here in fewer.items():
        assert written in code
        code = code.replace(written, here)
    (folder / name).write_text(code)
    given = [word for word in ("base", "a", "b", "dev.txt") if word != "base" or "base_" in code]
    monkeypatch.setattr(sys, "argv", [name, *given])
    runpy.run_path(name)


def test_data_flow(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generations = "generations=10, population_size=16", "generations=3, population_size=8"
    fewer = {"n_trials=60": "n_trials=10", generations[0]: generations[1]}
    run(folder, "data_flow.py", fewer, monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["merged", "routed", "by hand"]
    assert "by A" in lines[1]
    assert (folder / "routed" / "model.safetensors").exists()


def test_layer_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(folder, "layer_path.py", {"n_trials=60": "n_trials=10"}, monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    heads = [line.partition(":")[0] for line in lines]
    assert heads == ["path", "greedy", "from there", "scan"]
    assert lines[1].endswith(" evaluations")
    assert (folder / "routed" / "model.safetensors").exists()
    assert "first layer of the block" in (folder / "scan.html").read_text()
