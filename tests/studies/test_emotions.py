"""The study of emotions as a user runs it, but small: made-up words, an encoder of one layer."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

import merge_optuna as mo
from tests import processes

STUDIES = Path(mo.__file__).parents[1] / "studies"
LABELS = ("anger", "disgust", "fear", "joy", "sadness", "surprise")
DOMAINS = ("tec", "isear", "crowdflower", "dailydialog", "goemotions")
TRIALS = 12


def write_texts(folder: Path, rng: np.random.Generator) -> None:
    """Each label has a word of its own, and two that mean different things in different sets."""
    for number, name in enumerate((*DOMAINS, "dair", "meld", "emoevent")):
        place = folder / f"emo_{name}"
        place.mkdir(parents=True)
        for split, n in (("train", 60), ("dev", 40), ("test", 50)):
            with gzip.open(place / f"{split}.jsonl.gz", "wt") as file:
                for label in rng.integers(6, size=n):
                    words = [f"own{label}", f"shared{(label + number) % 6}"]
                    noise = [f"noise{i}" for i in rng.integers(20, size=rng.integers(1, 9))]
                    row = {"text": " ".join([*words, *noise]), "label": LABELS[label]}
                    file.write(json.dumps(row) + "\n")


def write_encoder(folder: Path) -> None:
    names = [f"own{i}" for i in range(6)] + [f"shared{i}" for i in range(6)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *names, *(f"noise{i}" for i in range(20))]
    core = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]"
    ).save_pretrained(folder)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(vocabulary), intermediate_size=64, **size)
    BertModel(config).save_pretrained(folder)


@pytest.mark.slow
def test_a_small_run_can_be_stopped_and_continued(tmp_path: Path) -> None:
    write_texts(tmp_path / "data", np.random.default_rng(0))
    write_encoder(tmp_path / "encoder")
    options = ["--data", "data", "--encoder", "encoder", "--out", "work", "--results", "results"]

    def run(n_trials: int) -> processes.Result:
        sizes = ["--n-trials", n_trials, "--seeds", 0, 1]
        return processes.script(STUDIES / "emotions.py", *options, *sizes, cwd=tmp_path).wait(600)

    begun = run(4)
    assert begun.code == 0, begun.err
    assert begun.err.count("Training") == 12
    done = run(TRIALS)
    assert done.code == 0, done.err
    assert "Training" not in done.err

    results = json.loads((tmp_path / "results" / "results.json").read_text())
    lines = {(line["method"], line["evaluations"]): line for line in results["lines"]}
    assert results["seeds"] == 2
    assert results["test"] == 250
    for name in ("CMA-ES DARE-TIES", "PSO-Merging", "M2N2", "Evolver", "Evolver of TIES"):
        line = lines[name, TRIALS]
        assert len(line["test by seed"]) == 2
        low, high = line["gain"]["interval"]
        assert low <= line["gain"]["mean"] <= high

    # What it says of a model is what scikit-learn says of the answers of plain transformers.
    for seed in (0, 1):
        expected = _by_domain(tmp_path / "work" / f"seed-{seed}" / "isear", tmp_path / "data")
        value = lines["isear", 0]["test by seed"][seed]
        assert value == pytest.approx(np.mean(list(expected.values())), abs=1e-6)
    table = (tmp_path / "results" / "results.md").read_text()
    assert f"| Evolver of the average | {TRIALS} |" in table


def _by_domain(folder: Path, data: Path) -> dict[str, float]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = {}
    for domain in DOMAINS:
        with gzip.open(data / f"emo_{domain}" / "test.jsonl.gz", "rt") as file:
            rows: list[dict[str, Any]] = [json.loads(line) for line in file]
        with torch.no_grad():
            tokens = [tokenizer(row["text"], return_tensors="pt") for row in rows]
            predicted = [int(model(**t).logits.argmax()) for t in tokens]
        true = [LABELS.index(row["label"]) for row in rows]
        found[domain] = f1_score(true, predicted, labels=np.unique(true), average="macro")
    return found


def test_the_bootstrap_is_that_of_drawn_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STUDIES))
    monkeypatch.delitem(sys.modules, "_comparison", raising=False)
    from _comparison import Bootstrap, difference

    rng = np.random.default_rng(0)
    domain = rng.permutation(np.repeat([0, 1], [40, 70]))
    true, one, other = rng.integers(3, size=(3, 110))
    drawn = Bootstrap(true, domain, n=400)
    first, second = drawn.macro_f1(one), drawn.macro_f1(other)
    for number, (texts, counts) in enumerate(drawn.draws):
        assert sorted(texts) == list(np.flatnonzero(domain == number))
        for i in (0, 1, 400):  # the texts as they are, and two resamples spelled out
            rows = np.repeat(texts, counts[i].astype(int))
            assert len(rows) == len(texts)
            labels = np.unique(true[rows])
            expected = f1_score(true[rows], one[rows], labels=labels, average="macro")
            assert first[number, i] == pytest.approx(expected)
        assert counts[0].tolist() == [1] * len(texts)

    found = difference([first, second], [second, second])  # two seeds, the second without a gain
    by_resample = (first - second).mean(0) / 2
    assert found["mean"] == pytest.approx(by_resample[0])
    assert found["interval"] == pytest.approx(list(np.percentile(by_resample[1:], [2.5, 97.5])))
    assert found["by seed"] == pytest.approx([2 * by_resample[0], 0])
