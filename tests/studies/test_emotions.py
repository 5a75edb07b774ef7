"""The study of emotions as a user runs it, but small: made-up words, an encoder of one layer."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from _comparison import Line, Results, figure, macro_f1, packed, tables, unpacked
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

    results = Results.read(tmp_path / "results")
    lines = {(line.method, line.evaluations): line for line in results.lines}
    assert (results.seeds, results.test) == (2, 250)
    board = results.board()
    for name in ("CMA-ES DARE-TIES", "PSO-Merging", "M2N2", "Evolver", "Evolver of TIES"):
        line = lines[name, TRIALS]
        assert len(line.test) == 2
        gain = board.difference(line.name, line.begins)
        assert gain.low <= gain.value <= gain.high
        assert (gain.seeds, gain.examples) == (2, 250)

    # What it says of a model is what scikit-learn says of the answers of plain transformers.
    for seed in (0, 1):
        expected = _by_domain(tmp_path / "work" / f"seed-{seed}" / "isear", tmp_path / "data")
        value = lines["isear", 0].test[seed]
        assert value == pytest.approx(np.mean(list(expected.values())), abs=1e-6)
    row = next(row for row in board.rows if row.name == "isear")
    assert row.test is not None
    assert row.test.value == pytest.approx(np.mean(lines["isear", 0].test))  # of the answers kept
    table = (tmp_path / "results" / "results.md").read_text()
    assert f"| Evolver of the average, {TRIALS} | search | 2 |" in table


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


def test_macro_f1_is_that_of_scikit_learn_within_each_domain() -> None:
    rng = np.random.default_rng(0)
    domain = rng.permutation(np.repeat([0, 2], [40, 70]))  # of three, one was not drawn
    true, predicted = rng.integers(4, size=(2, 110))
    expected = []
    for number in (0, 2):
        those = domain == number
        labels = np.unique(true[those])
        f1 = f1_score(true[those], predicted[those], labels=labels, average="macro")
        expected.append(f1)
    rows = np.stack([predicted, true, domain], 1).astype(float)
    assert macro_f1(rows) == pytest.approx(np.mean(expected))


def test_answers_are_kept_and_drawn(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    true, domain = rng.integers(6, size=80), np.repeat([0, 1], 40)
    lines = []
    for method, share in (("good", 0.8), ("bad", 0.4)):
        seeds = [np.where(rng.random(80) < share, true, 0) for _ in range(2)]
        test = [macro_f1(np.stack([one, true, domain], 1)) for one in seeds]
        answers = [packed(one) for one in seeds]
        np.testing.assert_array_equal(unpacked(answers[1]), seeds[1])
        lines.append(Line(method, "search", 7, test, [0.5, 0.7], answers=answers, begins="bad, 7"))
    texts = {"true": packed(true), "domain": packed(domain)}
    Results(20, 80, lines, texts).save(tmp_path)
    found = Results.read(tmp_path)
    assert found == Results(20, 80, lines, texts)
    board = found.board()
    row = board.rows[0]
    assert (row.name, row.dev.value, row.cost.evaluations) == ("good, 7", 0.6, 7)
    assert row.test is not None
    assert row.test.value == pytest.approx(np.mean(lines[0].test))
    assert (row.test.seeds, row.test.examples) == (2, 80)
    svg = ElementTree.fromstring(figure(board, {line.name: line.test for line in lines}))
    assert sum(part.tag.endswith("circle") for part in svg) == 4


@pytest.mark.parametrize("study", ["emotions", "dfs_emotions"])
def test_the_tables_are_those_of_the_results(study: str) -> None:
    results = Results.read(STUDIES / study)
    table = (STUDIES / study / "results.md").read_text(encoding="utf-8")
    assert tables(results, results.board()) in table


def test_what_the_documentation_says_of_the_results() -> None:
    board = Results.read(STUDIES / "emotions").board()
    assert board.best_baseline == "TIES, λ = 1"
    beats = {row.name for row in board.rows if row.difference and row.difference.low > 0}
    assert beats == {"CMA-ES DARE-TIES, 200", "Evolver of TIES, 101"}
    paths = Results.read(STUDIES / "dfs_emotions").board()
    assert paths.best_baseline == "their average"
    assert "No search beats it beyond chance." in paths.notes
    gain = paths.difference("DFS, 80", "the best expert")
    assert gain.low < 0 < gain.high
