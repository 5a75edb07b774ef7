"""The example of the data-flow space runs as written."""

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
