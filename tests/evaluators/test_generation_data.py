"""Generation with real models and word problems, where there are any."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import merge_optuna as mo
from merge_optuna.evaluators import Generation, Sampling

DATA = Path(os.environ.get("MERGE_OPTUNA_DATA", ""))
CHECKPOINTS = [f"stories260K{end}" for end in ("", "-gsm8k", "-shakespeare")]
needed = pytest.mark.skipif(
    not (DATA / "checkpoints" / CHECKPOINTS[0]).is_dir() or "MERGE_OPTUNA_DATA" not in os.environ,
    reason="set MERGE_OPTUNA_DATA to a folder with checkpoints/stories260K and math_*",
)
pytestmark = needed
TEXTS = [
    "Once upon a time, there was a little girl named Lily. She had a red ball and",
    "Tom",
    "The king said",
    "One day, a dog and a cat went to the park to play with",
    "Question: Anna has 3 apples and gets 5 more. How many apples does she have?\nAnswer:",
]
MOST = 32


def stories(name: str) -> mo.Checkpoint:
    return mo.Checkpoint(DATA / "checkpoints" / name, name=name.replace("260K", ""))


def evaluator(**options: Any) -> Generation:
    data = datasets.Dataset.from_dict({"question": TEXTS, "answer": TEXTS})
    return Generation(data, max_new_tokens=MOST, **options)


def replies(model: Any, **options: Any) -> list[str]:
    return [row["reply"] for row in evaluator(**options).replies(model)]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_replies_are_those_of_transformers(name: str) -> None:
    folder = DATA / "checkpoints" / name
    model, tokenizer = (
        auto.from_pretrained(folder) for auto in (AutoModelForCausalLM, AutoTokenizer)
    )
    alone = []
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt").input_ids
        written = model.generate(ids, max_new_tokens=MOST, do_sample=False)
        alone.append(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.unk_token, "left"
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    written = model.generate(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        max_new_tokens=MOST,
        do_sample=False,
    )
    start = batch.input_ids.shape[1]
    padded = tokenizer.batch_decode(written[:, start:], skip_special_tokens=True)
    wanted = [text.strip() for text in alone]
    assert [text.strip() for text in padded] == wanted
    for size in (1, 2, 5):
        assert replies(model, batch_size=size) == wanted


def test_refills_write_what_a_checkpoint_on_the_disk_does(tmp_path: Path) -> None:
    base, *experts = map(stories, CHECKPOINTS)
    rng = np.random.default_rng(0)
    methods = [mo.recipes.task_arithmetic, mo.recipes.ties, mo.recipes.dare_ties]
    engine = mo.Engine()
    for number in range(20):
        weight = rng.uniform(0.1, 1, 2).round(3).tolist()
        recipe = methods[number % 3](base, experts, weight=weight)
        model = engine.load(recipe)
        if number in (7, 19):
            fresh = AutoModelForCausalLM.from_pretrained(mo.write(recipe, tmp_path / str(number)))
            for sampling in (None, Sampling(seed=0, temperature=0.8, top_p=0.9)):
                live = replies(model, batch_size=2, sampling=sampling)
                assert live == replies(fresh, batch_size=5, sampling=sampling)


def rows(folder: str, split: str = "test") -> list[dict[str, str]]:
    with gzip.open(DATA / folder / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize("folder", ["math_gsm8k", "math_mgsm_ja", "math_mgsm_en", "math_svamp"])
def test_the_answers_of_word_problems_are_read(folder: str) -> None:
    data = DATA / folder / "test.jsonl.gz"
    wanted = [float(row["answer"].split("####")[-1].replace(",", "")) for row in rows(folder)]
    judge = Generation(data, extract="last_number", scorer="numeric")
    assert [float(one) for (one,) in judge._references] == wanted


def test_prompts_of_word_problems() -> None:
    pytest.importorskip("lingua", reason="needs lingua-language-detector")
    model = AutoModelForCausalLM.from_pretrained(DATA / "checkpoints" / CHECKPOINTS[1])
    asked = sorted(rows("math_mgsm_ja", "dev"), key=lambda row: len(row["question"]))[:4]
    judge = Generation(
        datasets.Dataset.from_list(asked),
        prompt="問題: {question}\n答え:",
        examples=[{"question": "1+1は?", "answer": 2}],
        extract="last_number",
        scorer="numeric",
        language="ja",
        max_new_tokens=8,
    )
    tokenizer = AutoTokenizer.from_pretrained(DATA / "checkpoints" / CHECKPOINTS[1])
    contexts = [f"問題: 1+1は?\n答え: 2\n\n問題: {row['question']}\n答え:" for row in asked]
    judge.check(model)
    for row, context in zip(judge.replies(model), contexts, strict=True):
        ids = tokenizer(context, return_tensors="pt").input_ids
        with torch.no_grad():
            written = model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
        assert row["reply"] == tokenizer.decode(written, skip_special_tokens=True).strip()
