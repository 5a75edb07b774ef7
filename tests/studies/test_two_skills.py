"""The study of two skills as a user runs it, but small: a decoder of two layers, made-up rows."""

from __future__ import annotations

import gzip
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import merge_optuna as mo
from tests import toys

STUDIES = Path(mo.__file__).parents[1] / "studies"
DATA = os.environ.get("MERGE_OPTUNA_DATA")
ENDS = "<|end|>"
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}" + ENDS + "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(STUDIES))
    for name in ("two_skills", "_lora", "_rows"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import two_skills

    return two_skills


def write_base(folder: Path) -> Path:
    """A tiny decoder that reads bytes and has a chat template."""
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocab={**letters, ENDS: len(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=ENDS, pad_token=ENDS)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    ends = {"bos_token_id": None, "eos_token_id": len(letters), "pad_token_id": len(letters)}
    config = {"vocab_size": 1 + len(letters), "max_position_embeddings": 512, **ends}
    toys.llama(0, **config).save_pretrained(folder)
    return folder


def write_rows(folder: Path, rng: np.random.Generator, kinds: list[str]) -> None:
    """Sums and questions; the first of each split is in the one before as well."""
    before: dict[str, dict[str, Any]] = {}
    for split, n in (("train", 24), ("dev", 9), ("test", 9)):
        numbers = rng.integers(1, 9, size=(n, 2)).tolist()
        rows = {
            "math_svamp": [
                {
                    "question": f"{split} {i}: {a} and {b}?",
                    "answer": f"{a + b}.0",
                    "equation": f"( {a}.0 + {b}.0 )",
                }
                for i, (a, b) in enumerate(numbers)
            ],
            "cls_trec": [
                {"text": f"{split} {i}", "label": kinds[a % len(kinds)]}
                for i, (a, _) in enumerate(numbers)
            ],
        }
        for name, some in rows.items():
            some[:1] = [before[name]] if name in before else some[:1]
            before[name] = some[1]
            place = folder / name / f"{split}.jsonl.gz"
            place.parent.mkdir(parents=True, exist_ok=True)
            with gzip.open(place, "wt") as file:
                file.write("".join(json.dumps(row) + "\n" for row in some))


def test_answers_are_calculations_and_kinds(study: ModuleType) -> None:
    row = {"question": "How many?", "answer": "2.0", "equation": "( ( 14.0 - 2.0 ) - 10.0 )"}
    assert study.problem(row) == {
        "question": "How many?",
        "answer": "(14 - 2) - 10 = 2",
        "result": "2",
    }
    asked = study.kind({"text": "Who is it ?", "label": "HUM"})
    assert asked["answer"] == "person"
    assert asked["question"].startswith("Who is it ?\n")
    assert all(choice in asked["question"] for choice in asked["choices"])


def test_real_rows(study: ModuleType) -> None:
    """Calculations have their results, one of SVAMP's not; and no example is in two splits."""
    folders = [skill.folder for skill in study.SKILLS.values()]
    if DATA is None or not all((Path(DATA) / folder).exists() for folder in folders):
        pytest.skip(f"MERGE_OPTUNA_DATA is no folder with {' and '.join(folders)}")
    for skill in study.SKILLS.values():
        rows = [study.read(Path(DATA), skill, split) for split in ("train", "dev", "test")]
        questions = [{row["question"] for row in some} for some in rows]
        assert len(set.union(*questions)) == sum(map(len, questions))
        answers = [row["answer"].split(" = ") for some in rows for row in some if "result" in row]
        wrong = [a for a in answers if eval(a[0]) != pytest.approx(float(a[1]), abs=0.01)]
        assert len(wrong) <= 1


def test_the_loss_is_that_of_transformers(study: ModuleType, tmp_path: Path) -> None:
    import _lora

    base = write_base(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    rows = [{"question": "a" * n, "answer": "b" * (1 + n % 3)} for n in (1, 7, 12)]
    examples = [_lora.encode(tokenizer, "Be brief.", row) for row in rows]
    total = 0.0
    for row, (ids, n) in zip(rows, examples, strict=True):
        text = tokenizer.decode(ids)
        assert text == f"<system>Be brief.{ENDS}<user>{row['question']}{ENDS}<assistant>" + (
            row["answer"] + ENDS
        )
        labels = [-100] * (len(ids) - n) + ids[-n:]
        loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        total += n * loss.item()
    expected = total / sum(n for _, n in examples)
    assert _lora.answer_loss(model, examples).item() == pytest.approx(expected, rel=1e-5)


def test_a_small_run_says_what_plain_transformers_says(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import _lora

    base = write_base(tmp_path / "base")
    write_rows(tmp_path / "data", np.random.default_rng(0), [*study.KINDS])
    for name, number in {"STEPS": 12, "LONGEST": 300}.items():
        monkeypatch.setattr(_lora, name, number)
    monkeypatch.chdir(tmp_path)
    options = ["--data", "data", "--base", str(base), "--n-trials", "2"]
    monkeypatch.setattr(sys, "argv", ["two_skills.py", *options, "--results", "results"])
    study.main()
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    for counts in results["exports"].values():
        assert counts["dev"]["same"] == counts["dev"]["of"] == 2 * 8
        assert counts["test"]["same"] == counts["test"]["of"] == 2 * 8
    names = [row["name"] for row in results["rows"]]
    assert {"base", "source maths", "source kinds", "uniform average", *study.SEARCHES} <= {*names}
    table = (tmp_path / "results" / "results.md").read_text()
    assert "the best merge scores the same: 16 of 16 dev examples of seed 0; 16 of 16" in table
    assert all(f"| {name} |" in table for name in names)

    rows = {n: study.read(tmp_path / "data", s, "test") for n, s in study.SKILLS.items()}
    expected = {
        "maths": np.mean([_solves(base, row) for row in rows["maths"]]),
        "kinds": np.mean([_likeliest(base, row) == row["answer"] for row in rows["kinds"]]),
    }
    found = results["parts"]["base"]
    assert {skill: found[skill] for skill in expected} == pytest.approx(expected)


def _prompt(tokenizer: Any, row: dict[str, Any]) -> list[int]:
    text = f"<system>Answer briefly.{ENDS}<user>{row['question']}{ENDS}<assistant>"
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _solves(folder: Path, row: dict[str, Any]) -> bool:
    import re

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = _prompt(tokenizer, row)
    reply = model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :]
    found = re.findall(r"\d+", tokenizer.decode(reply, skip_special_tokens=True))
    return bool(found) and float(found[-1]) == float(row["result"])


def _likeliest(folder: Path, row: dict[str, Any]) -> str:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    before, sums = _prompt(tokenizer, row), {}
    for choice in row["choices"]:
        after = tokenizer(choice, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([[*before, *after]])).logits[0, len(before) - 1 : -1]
        sums[choice] = logits.log_softmax(-1)[range(len(after)), after].sum().item()
    return max(sums, key=sums.__getitem__)
