"""Tasks of lm-evaluation-harness, beside its own command line on the written checkpoint.

They need lm-eval, which is no part of the test environment: in one that has it,
``pytest -n 0 tests/evaluators/test_lm_eval.py``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
import yaml
from sklearn.metrics import matthews_corrcoef

import merge_optuna as mo
from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators import LmEval, batches_of
from tests import vocabularies

from .conftest import write_lines

has_lm_eval = importlib.util.find_spec("lm_eval") is not None
needs_lm_eval = pytest.mark.skipif(
    not has_lm_eval, reason="needs lm-eval, in an environment of its own"
)
WORDS = ["the", "tin", "shin", "inn", "heath", "lint", "mint", "thin", "hint", "din"]
METRICS = {
    "toy_choice": ["acc", "acc_norm", "acc_bytes"],
    "toy_shots": ["acc"],
    "toy_reply": ["exact_match,whole", "exact_match,first"],
    "toy_text": ["word_perplexity", "byte_perplexity", "bits_per_byte"],
    "toy_last": ["acc"],
}

SLOW = {"toy_mcc": "mcc", "toy_perplexity": "perplexity"}  # the command line draws bootstraps
IN_GROUP = ["toy_choice", "toy_shots"]


def tokenizer() -> Any:
    return vocabularies.bpe([("t", "h"), ("th", "e"), ("i", "n")])


def words(rng: np.random.Generator, n: int) -> str:
    return " ".join(rng.choice(WORDS, n))


def make_rows(model: Any) -> list[dict[str, Any]]:
    """Questions with choices; every other answer is what the model says next."""
    rng, known, rows = np.random.default_rng(0), tokenizer(), []
    for number in range(17):
        question = words(rng, 4)
        with torch.no_grad():
            ids = known(question, return_tensors="pt")["input_ids"]
            said = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)[0]
        reply = known.decode(said[ids.shape[1] :], skip_special_tokens=True)
        letter = next((c for c in reply if c.isalpha()), "x")
        rows.append(
            {
                "question": question,
                "choices": [words(rng, 1), words(rng, 2), words(rng, 3)],
                "gold": int(rng.integers(3)),
                "answer": "q" if number % 2 else letter,
                "next": "q" if number % 2 else known.decode(said[ids.shape[1]]),
            }
        )
    return rows


def write_tasks(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Kinds of tasks on local JSON lines, two of them in a group."""
    data = str(write_lines(folder / "rows.jsonl", rows))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": data, "train": data}},
        "test_split": "test",
        "metadata": {"version": 1.0},
    }
    choice = {
        **common,
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}} in",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
    }
    is_mean = {"aggregation": "mean", "higher_is_better": True}
    accuracies = [{"metric": name, **is_mean} for name in ("acc", "acc_norm", "acc_bytes")]
    tasks: dict[str, dict[str, Any]] = {
        "toy_choice": {**choice, "metric_list": accuracies},
        "toy_mcc": {**choice, "metric_list": [{"metric": "mcc"}]},
        "toy_shots": {
            **choice,
            "fewshot_split": "train",
            "num_fewshot": 2,
            "test_split": "test",
            "metric_list": accuracies[:1],
        },
        "toy_reply": {
            **common,
            "output_type": "generate_until",
            "doc_to_text": "{{question}}",
            "doc_to_target": "answer",
            "generation_kwargs": {"until": ["t"], "do_sample": False, "max_gen_toks": 6},
            "metric_list": [{"metric": "exact_match", **is_mean}],
            "filter_list": [
                {"name": "whole", "filter": [{"function": "take_first"}]},
                {
                    "name": "first",
                    "filter": [
                        {"function": "regex", "regex_pattern": "([a-z])"},
                        {"function": "take_first"},
                    ],
                },
            ],
        },
        "toy_text": {
            **common,
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{question}}",
            "metric_list": [{"metric": name} for name in METRICS["toy_text"]],
        },
        "toy_last": {
            **common,
            "output_type": "loglikelihood",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{next}}",
            "target_delimiter": "",
            "metric_list": [{"metric": "acc"}],
        },
        "toy_perplexity": {
            **common,
            "output_type": "loglikelihood",
            "doc_to_text": "{{question}}",
            "doc_to_target": " {{answer}}",
            "metric_list": [{"metric": "perplexity"}],
        },
        "toy_group": {
            "group": "toy_group",
            "task": IN_GROUP,
            "aggregate_metric_list": [
                {"metric": "acc", "aggregation": "mean", "weight_by_size": True}
            ],
            "metadata": {"version": 1.0},
        },
    }
    for name, task in tasks.items():
        named = task if "group" in task else {"task": name, **task}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(named))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[mo.Checkpoint]:
    folder = tmp_path_factory.mktemp("models")
    return [
        vocabularies.model_with(tokenizer(), folder / name, seed=seed, max_position_embeddings=256)
        for seed, name in enumerate(("base", "a", "b"))
    ]


@pytest.fixture(scope="module")
def recipe(models: list[mo.Checkpoint]) -> mo.Recipe:
    return mo.recipes.task_arithmetic(models[0], models[1:], weight=[0.6, 0.3])


@pytest.fixture(scope="module")
def rows(recipe: mo.Recipe) -> list[dict[str, Any]]:
    return make_rows(mo.Engine().load(recipe))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(folder, rows)
    return folder


@pytest.fixture
def model(recipe: mo.Recipe) -> Any:
    return mo.Engine().load(recipe)


def command_line(folder: Path, tasks: Path, names: list[str], out: Path, *more: str) -> Any:
    """lm-eval's own results and samples."""
    given = ["--model_args", f"pretrained={folder}", "--tasks", ",".join(names)]
    where = ["--include_path", str(tasks), "--output_path", str(out), "--device", "cpu"]
    command = [sys.executable, "-m", "lm_eval", "run", *given, *where, "--batch_size", "8"]
    done = subprocess.run(
        [*command, "--log_samples", *more],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [file] = out.glob("*/results_*.json")
    samples = {
        name: [json.loads(line) for line in found.read_text().splitlines()]
        for name in METRICS
        for found in out.glob(f"*/samples_{name}_*.jsonl")
    }
    return json.loads(file.read_text()), samples


@pytest.fixture(scope="module")
def theirs(
    recipe: mo.Recipe, tasks: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp("written")
    mo.write(recipe, folder / "merged")
    alone = [name for name in METRICS if name not in IN_GROUP]
    return command_line(folder / "merged", tasks, ["toy_group", *alone], folder / "out")


def scores_of(evaluator: Any, model: Any) -> np.ndarray:
    batches = list(batches_of(evaluator, model))
    return np.concatenate([scores for _, scores in batches])


@needs_lm_eval
@pytest.mark.parametrize("name", METRICS)
def test_a_task_equals_the_command_line(name: str, tasks: Path, theirs: Any, model: Any) -> None:
    results, samples = theirs
    for metric in METRICS[name]:
        evaluator = LmEval(name, metric=metric, include_path=tasks)
        evaluator.check(model)
        scores = scores_of(evaluator, model)
        short, _, own_filter = metric.partition(",")
        key = f"{short},{own_filter or 'none'}"
        own = [s for s in samples[name] if s["filter"] == (own_filter or "none")]
        expected = [np.ravel(sample[short]).tolist() for sample in own]
        assert scores[:, 2 : 2 + len(expected[0])].tolist() == expected
        assert evaluator.value(scores) == results["results"][name][key]
        assert metric.endswith("whole") or len(np.unique(scores[:, 2])) > 1  # some are right
        assert evaluator.breakdown(scores) == {name: evaluator.value(scores)}
        is_higher_better = results["higher_is_better"][name][short]
        assert evaluator.directions == ("maximize" if is_higher_better else "minimize",)
        assert evaluator.metric_names == (f"{name} {short}",)
        assert len(evaluator) == len(expected) == 17


@needs_lm_eval
@pytest.mark.parametrize("name", SLOW)
def test_a_task_equals_simple_evaluate(name: str, tasks: Path, model: Any) -> None:
    """Which is handed the model, and draws no bootstraps."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer(), batch_size=8),
        tasks=[name],
        task_manager=TaskManager(include_path=tasks, include_defaults=False),
        bootstrap_iters=0,
    )
    evaluator = LmEval(name, include_path=tasks)
    scores = scores_of(evaluator, model)
    expected = [np.ravel(s[SLOW[name]]).tolist() for s in found["samples"][name]]
    assert scores[:, 2 : 2 + len(expected[0])].tolist() == expected
    assert evaluator.value(scores) == found["results"][name][f"{SLOW[name]},none"]


@needs_lm_eval
def test_what_a_sample_scores_by_itself(tasks: Path, theirs: Any, model: Any) -> None:
    def first_column(name: str, metric: str) -> np.ndarray:
        return scores_of(LmEval(name, metric=metric, include_path=tasks), model)[:, 0]

    choice, text = theirs[1]["toy_choice"], theirs[1]["toy_text"]
    acc = [sample["acc"] for sample in choice]
    assert 0 < sum(acc) < 17
    np.testing.assert_array_equal(first_column("toy_choice", "acc"), acc)
    np.testing.assert_array_equal(first_column("toy_mcc", "mcc"), acc)  # right or wrong
    per_word = [-s["word_perplexity"][0] / s["word_perplexity"][1] for s in text]
    np.testing.assert_allclose(first_column("toy_text", "word_perplexity"), per_word)
    bits = [-s["bits_per_byte"][0] / s["bits_per_byte"][1] / np.log(2) for s in text]
    np.testing.assert_allclose(first_column("toy_text", "bits_per_byte"), bits)
    last = scores_of(LmEval("toy_perplexity", include_path=tasks), model)
    np.testing.assert_allclose(last[:, 0], -last[:, 2])


@needs_lm_eval
def test_a_part_of_the_samples(tasks: Path, model: Any) -> None:
    """The value over any of them is the metric over those."""
    evaluator = LmEval("toy_mcc", include_path=tasks)
    scores = scores_of(evaluator, model)
    for part in (scores[:9], scores[5:], scores[::-1]):
        expected = matthews_corrcoef(part[:, 2], part[:, 3])
        assert evaluator.value(part) == pytest.approx(expected)


@needs_lm_eval
def test_groups_and_several_tasks(tasks: Path, theirs: Any, model: Any) -> None:
    results = theirs[0]["results"]
    group = LmEval("toy_group", include_path=tasks)
    assert len(group) == 34
    scores = scores_of(group, model)
    assert group.value(scores) == results["toy_group"]["acc,none"]
    assert group.breakdown(scores) == {"toy_group": results["toy_group"]["acc,none"]}
    names = ["toy_choice", "toy_reply", "toy_group"]
    several = LmEval(names, metric={"toy_choice": "acc_norm"}, include_path=tasks)
    scores = scores_of(several, model)
    values = [
        results["toy_choice"]["acc_norm,none"],
        results["toy_reply"]["exact_match,whole"],
        results["toy_group"]["acc,none"],
    ]
    assert several.breakdown(scores) == dict(zip(names, values, strict=True))
    assert several.value(scores) == pytest.approx(np.mean(values))
    assert several.value(scores[:17]) == pytest.approx(values[0])  # what has come up so far
    said = "mean of toy_choice acc_norm, toy_reply exact_match, toy_group acc"
    assert several.metric_names == (said,)
    weights = {"toy_choice": 2.0, "toy_text": -0.5}
    weighted = LmEval([*weights], weights=weights, include_path=tasks)
    assert weighted.directions == ("maximize",)
    scores = scores_of(weighted, model)
    expected = 2 * results["toy_choice"]["acc,none"]
    expected -= 0.5 * results["toy_text"]["word_perplexity,none"]
    assert weighted.value(scores) == pytest.approx(expected)
    assert (scores[17:, 0] < 0).all()  # the loss of a sample: higher is better here


@needs_lm_eval
def test_limit_samples_and_shots_equal_the_command_line(
    tasks: Path, recipe: mo.Recipe, model: Any, tmp_path: Path
) -> None:
    mo.write(recipe, tmp_path / "merged")
    chosen = {"toy_shots": [2, 3, 11]}
    more = ["--samples", json.dumps(chosen), "--num_fewshot", "3"]
    results, samples = command_line(
        tmp_path / "merged", tasks, ["toy_shots"], tmp_path / "out", *more
    )
    evaluator = LmEval(
        "toy_shots", samples={"toy_shots": [11, 3, 2]}, num_fewshot=3, include_path=tasks
    )
    scores = scores_of(evaluator, model)
    assert scores[:, 2].tolist() == [sample["acc"] for sample in samples["toy_shots"]]
    assert evaluator.value(scores) == results["results"]["toy_shots"]["acc,none"]
    whole = scores_of(LmEval("toy_choice", include_path=tasks), model)
    for limit, n in ((5, 5), (0.5, 9), (100, 17)):
        some = LmEval("toy_choice", limit=limit, include_path=tasks)
        assert len(some) == n
        np.testing.assert_array_equal(scores_of(some, model), whole[:n])


@needs_lm_eval
def test_nothing_else_is_changed(tasks: Path, model: Any, capfd: Any) -> None:
    """Neither the model, nor random states, nor the tokenizer; and nothing is printed."""
    given = tokenizer()
    evaluator = LmEval(["toy_choice", "toy_reply"], include_path=tasks, tokenizer=given)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    storage = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    evaluator.check(model)
    first, again = scores_of(evaluator, model), scores_of(evaluator, model)
    np.testing.assert_array_equal(first, again)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == storage
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert (given.pad_token, given.padding_side) == (None, "right")
    assert capfd.readouterr() == ("", "")


@needs_lm_eval
def test_a_search(tasks: Path, models: list[mo.Checkpoint]) -> None:
    """With niches, and with a race; the trial's scores are those of a freshly loaded model."""
    space = mo.spaces.SplitSlerp(models[1:])
    objective = mo.MergeObjective(
        space, LmEval(["toy_choice", "toy_last"], include_path=tasks, metric={"toy_last": "acc"})
    )
    search = mo.MergeStudy("niches", objective, n_trials=4)
    study = search.run(progress=False)
    recipe = mo.recipe_of(study, study.trials[-1])
    fresh = scores_of(objective.evaluator, mo.Engine().load(recipe))
    np.testing.assert_array_equal(mo.scores(study, study.trials[-1]), fresh[:, 0])
    assert study.trials[-1].value == objective.evaluator.value(fresh)
    race = mo.MergeStudy(
        "race",
        mo.MergeObjective(
            mo.recipes.linear(models[1:], weight=mo.free(0, 1)),
            LmEval(["toy_text", "toy_perplexity"], include_path=tasks),
        ),
        n_trials=3,
        pruner=optuna.pruners.WilcoxonPruner(),
    ).run(progress=False)
    assert all(trial.intermediate_values for trial in race.trials)


@needs_lm_eval
def test_nan_likelihoods_are_no_answer(tasks: Path, model: Any) -> None:
    """Of which lm-eval takes the first."""
    evaluator = LmEval(["toy_choice", "toy_reply"], include_path=tasks)
    model.lm_head.weight.data[5] = float("nan")
    scores = scores_of(evaluator, model)
    assert np.isnan(scores[:17, 0]).all()
    assert np.isnan(evaluator.value(scores))
    assert np.isnan(evaluator.breakdown(scores)["toy_choice"])


@needs_lm_eval
def test_digests(tasks: Path, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    def digest(**options: Any) -> Any:
        return LmEval("toy_choice", **{"include_path": tasks, **options}).digest

    write_tasks(tmp_path, rows)
    assert digest() == digest(include_path=tmp_path)  # it is the content that counts
    others = [
        digest(metric="acc_norm"),
        digest(limit=5),
        digest(samples={"toy_choice": [1, 2]}),
        digest(num_fewshot=1),
        digest(chat=True),
        digest(system="Be brief."),
        digest(max_length=20),
        digest(tokenizer=vocabularies.bpe([("t", "h")])),
    ]
    text = (tmp_path / "toy_choice.yaml").read_text()
    (tmp_path / "toy_choice.yaml").write_text(text.replace("{{question}} in", "{{question}} the"))
    others.append(digest(include_path=tmp_path))
    known = [digest(), *others]
    assert len({json.dumps(one, sort_keys=True) for one in known}) == len(known)


@needs_lm_eval
def test_errors(tasks: Path, model: Any, tmp_path: Path) -> None:
    def refused(message: str, *args: Any, **options: Any) -> None:
        with pytest.raises(EvaluationError, match=message):
            LmEval(*args, **{"include_path": tasks, **options})

    refused(r"no task 'toy_choise'\. Perhaps 'toy_choice' or 'toy_shots'", "toy_choise")
    refused(r"include_path='.*none' is no folder", "toy_choice", include_path=tmp_path / "none")
    refused(r"no metric 'auc'\. Metrics: acc, acc_norm, acc_bytes", "toy_choice", metric="auc")
    refused(r"no filter 'x'\. Filters: whole, first", "toy_reply", metric="exact_match,x")
    refused("limit and samples both", "toy_choice", limit=2, samples={"toy_choice": [1]})
    refused("limit must be above 0, not 0", "toy_choice", limit=0)
    refused("num_fewshot cannot be -1", "toy_choice", num_fewshot=-1)
    refused(r"17 samples, numbered from 0, and no 17", "toy_choice", samples={"toy_choice": [17]})
    refused("samples names 'toy', which is none", "toy_choice", samples={"toy": [1]})
    refused("No sample of toy_shots counts", "toy_group", samples={"toy_choice": [1]})
    refused("tasks must name tasks", [])
    refused("tasks must name tasks", ["toy_choice", "toy_choice"])
    refused(r"metric must name tasks .*'toy'", "toy_choice", metric={"toy": "acc"})
    refused("weights must name every task", ["toy_choice", "toy_last"], weights={"toy_last": 1})
    refused("weights must be finite numbers", "toy_choice", weights={"toy_choice": 0})
    message = "better for toy_choice and worse for toy_text: .* negative"
    refused(message, ["toy_choice", "toy_text"])
    refused("batch_size must be at least 1", "toy_choice", batch_size=0)
    (tmp_path / "gone.yaml").write_text("task: gone\ndataset_path: json\noutput_type: x\n")
    refused("cannot load the task 'gone'", "gone", include_path=tmp_path)
    chat = LmEval("toy_choice", chat=True, include_path=tasks)
    with pytest.raises(EvaluationError, match=r"'toy_choice': ValueError: .*chat_template"):
        chat.check(model)
    with pytest.raises(EvaluationError, match="cannot take a Linear"):
        LmEval("toy_choice", include_path=tasks, tokenizer=vocabularies.bpe([])).check(
            torch.nn.Linear(2, 2)
        )


@needs_lm_eval
def test_a_metric_that_keeps_texts(tasks: Path, model: Any, tmp_path: Path) -> None:
    given = yaml.safe_load((tasks / "toy_reply.yaml").read_text())
    given["metric_list"] = [{"metric": "bleu"}]
    (tmp_path / "bleu.yaml").write_text(yaml.safe_dump(given))
    evaluator = LmEval(str(tmp_path / "bleu.yaml"))
    assert evaluator.metric_names == ("toy_reply bleu",)
    with pytest.raises(EvaluationError, match=r"metric bleu of the task 'toy_reply' keeps \["):
        evaluator.check(model)


@pytest.mark.skipif(has_lm_eval, reason="tells what to do without lm-eval")
def test_without_lm_eval() -> None:
    with pytest.raises(EvaluationError, match=r"Run: pip install 'merge_optuna\[lm-eval\]'"):
        LmEval("gsm8k")


@needs_lm_eval
def test_the_tasks_of_a_file_of_mergekit_evolve(
    tasks: Path, models: list[mo.Checkpoint], theirs: Any, tmp_path: Path
) -> None:
    folders = [str(model.folder) for model in models]
    genome = {"models": folders[1:], "merge_method": "task_arithmetic", "base_model": folders[0]}
    weighted = {"name": "toy_choice", "weight": 2.0, "metric": "acc_norm,none"}
    file = tmp_path / "evolve.yml"
    content = {
        "genome": genome,
        "tasks": [weighted, "toy_last"],
        "limit": 6,
        "apply_chat_template": False,
    }
    file.write_text(yaml.safe_dump(content))
    search = mo.MergeStudy.from_mergekit_evolve(file, n_trials=2, include_path=tasks)
    evaluator = search.objective.evaluator
    assert len(evaluator) == 12
    said = ("weighted sum of toy_choice acc_norm, toy_last acc",)
    assert (evaluator.metric_names, evaluator.directions) == (said, ("maximize",))
    study = search.run(progress=False)
    model = mo.Engine().load(mo.recipe_of(study, study.trials[1]))
    expected = (
        2
        * scores_of(LmEval("toy_choice", metric="acc_norm", limit=6, include_path=tasks), model)[
            :, 0
        ].mean()
    )
    expected += scores_of(LmEval("toy_last", limit=6, include_path=tasks), model)[:, 0].mean()
    assert study.trials[1].value == pytest.approx(expected)


@needs_lm_eval
def test_multiple_choice_equals_it(tasks: Path, model: Any) -> None:
    """On the same rows; acc_norm counts characters, which are bytes in these words."""
    for normalize, metric in ((None, "acc"), ("bytes", "acc_bytes"), ("bytes", "acc_norm")):
        own = mo.evaluators.MultipleChoice(
            tasks / "rows.jsonl", prompt="{question} in", answer="gold", normalize=normalize
        )
        ids = np.concatenate([ids for ids, _ in batches_of(own, model)])
        found = scores_of(own, model).reshape(len(ids), -1)[np.argsort(ids), 0]
        expected = scores_of(LmEval("toy_choice", metric=metric, include_path=tasks), model)
        np.testing.assert_array_equal(found, expected[:, 0])
