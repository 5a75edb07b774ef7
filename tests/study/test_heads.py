"""Objectives over a base without a head: experts and merges of them under the experts' heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification

import merge_optuna as mo
from merge_optuna.evaluators import Classification, Tasks
from tests.engine.test_heads import LABELS, Family
from tests.processes import command

TOKENS = torch.randint(3, 60, (40, 9), generator=torch.Generator().manual_seed(1))
CASES = [("Bert", None), ("Roberta", None), ("DistilBert", None), ("Bert", "MaskedLM")]
CASES += [("Bert", "none at all")]


def accuracy(model: Any, labels: Tensor) -> float:
    """Text by text, with transformers alone."""
    with torch.no_grad():
        predicted = torch.cat([model(row[None]).logits.argmax(-1) for row in TOKENS])
    return float((predicted == labels).double().mean())


@pytest.mark.parametrize(("name", "base_head"), CASES)
def test_experts_and_averages_are_scored(name: str, base_head: str | None, tmp_path: Path) -> None:
    has_base = base_head != "none at all"
    family = Family(name, tmp_path, base_head=base_head if has_base else None)
    base, *experts = family.checkpoints
    labels = {
        expert: torch.randint(n, (40,), generator=torch.Generator().manual_seed(n))
        for expert, n in LABELS.items()
    }
    # an expert is right more often than by chance
    for expert, those in labels.items():
        with torch.no_grad():
            those[::2] = family.experts[expert].eval()(TOKENS).logits.argmax(-1)[::2]
    tasks = {
        expert.name: Classification((TOKENS, labels[expert.name]), head=expert, batch_size=16)
        for expert in experts
    }
    recipe = mo.recipes.dare_ties(base, experts, weight=mo.free(0, 1), density=0.5)
    if not has_base:  # the live model is that of the first expert
        recipe = mo.recipes.linear(experts, weight=mo.free(0, 1))
    objective = mo.MergeObjective(recipe, Tasks(tasks))

    for checkpoint in experts:
        alone = objective.score(checkpoint, tasks[checkpoint.name])
        expert = family.experts[checkpoint.name]
        assert alone == accuracy(expert, labels[checkpoint.name])
    average = mo.recipes.linear(experts)
    for expert, evaluator in tasks.items():
        model = family.experts[expert]
        state, own = model.state_dict(), {n: t.clone() for n, t in model.state_dict().items()}
        inside = f"{model.base_model_prefix}."
        for n in state:
            # A masked language model has no pooler: each expert's own is taken.
            if n.startswith(inside) and not (base_head == "MaskedLM" and "pooler" in n):
                bodies = [family.experts[e].state_dict()[n] for e in LABELS]
                own[n] = sum(bodies) / len(bodies)
        averaged = type(model)(model.config).eval()
        averaged.load_state_dict(own)
        assert objective.score(average, evaluator) == accuracy(averaged, labels[expert])
    study = mo.MergeStudy("heads", objective, n_trials=2).run(None, progress=False)
    assert {f"value/{expert}" for expert in LABELS} <= study.best_trial.user_attrs.keys()


FILE = """
import torch
import merge_optuna as mo

torch.set_num_threads(1)
base, *experts = (mo.Checkpoint(f"{root}/{{n}}", name=n) for n in ("base", "mr", "subj", "ssec"))
tokens = torch.randint(3, 60, (40, 9), generator=torch.Generator().manual_seed(1))
tasks = {{
    expert.name: mo.evaluators.Classification((tokens, torch.arange(40) % 2), head=expert)
    for expert in experts
}}
recipe = mo.recipes.ties(base, experts, density=mo.free(0.1, 1))
objective = mo.MergeObjective(recipe, mo.evaluators.Tasks(tasks))
study = mo.MergeStudy("heads", objective, n_trials=3, baselines=False)
"""


def test_what_is_written_scores_as_its_trial(tmp_path: Path) -> None:
    """To the last example, with plain transformers; by the command line as by hand."""
    Family("Bert", tmp_path)
    file = tmp_path / "search.py"
    file.write_text(FILE.format(root=tmp_path))
    url = f"sqlite:///{tmp_path}/s.db"
    made = command("run", file, "--storage", url, "--out", "merged", cwd=tmp_path).wait()
    assert made.code == 0, made.err
    study = optuna.load_study(study_name="heads", storage=url)
    best = study.best_trial
    scores = mo.scores(study, best).reshape(3, 40)
    for expert, expected in zip(LABELS, scores, strict=True):
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "merged" / expert
        )
        with torch.no_grad():
            predicted = torch.cat([model(row[None]).logits.argmax(-1) for row in TOKENS])
        np.testing.assert_array_equal(predicted.numpy() == np.arange(40) % 2, expected)
        assert best.user_attrs[f"value/{expert}"] == pytest.approx(expected.mean())

    heads = [f"--head={expert}={tmp_path / expert}" for expert in LABELS]
    assert all(
        head.replace("=", " ", 1) in (tmp_path / "merged/README.md").read_text() for head in heads
    )
    made = command("export", url, "again", *heads, cwd=tmp_path).wait()
    assert made.code == 0, made.err
    assert "which are not written" not in made.err
    with pytest.warns(UserWarning, match="under heads for mr, subj, ssec, which are not written"):
        mo.export(study, tmp_path / "bare")
    files = [
        path.relative_to(tmp_path / "again")
        for path in (tmp_path / "again").rglob("*.safetensors")
    ]
    assert len(files) == 6
    for path in files:
        assert (tmp_path / "again" / path).read_bytes() == (
            tmp_path / "merged" / path
        ).read_bytes()


def test_a_pooler_in_the_file_of_a_masked_language_model(tmp_path: Path) -> None:
    """As in bert-base-uncased: the model has no place for it, so heads bring their own."""
    family = Family("Bert", tmp_path, base_head="MaskedLM")
    file = tmp_path / "base" / "model.safetensors"
    pooler = {
        f"bert.pooler.dense.{n}": torch.randn(s) for n, s in (("weight", (32, 32)), ("bias", 32))
    }
    save_file({**load_file(file), **pooler}, file, metadata={"format": "pt"})
    base, subj = mo.Checkpoint(tmp_path / "base", name="base"), family.checkpoints[2]
    labels = torch.randint(3, (40,), generator=torch.Generator().manual_seed(0))
    recipe = mo.recipes.task_arithmetic(base, [subj], weight=mo.free(0, 1))
    with pytest.warns(UserWarning, match="has no place for 2 tensors of 'base'"):
        objective = mo.MergeObjective(recipe, Classification((TOKENS, labels), head=subj))
    half = recipe.bind({"weight/subj": 0.5})
    out = mo.write(half, tmp_path / "out", heads={"subj": subj})
    written: Any = AutoModelForSequenceClassification.from_pretrained(out / "subj")
    assert objective.score(half) == accuracy(written, labels)
    own = family.experts["subj"].bert.pooler
    assert torch.equal(written.bert.pooler.dense.weight, own.dense.weight)


def test_the_best_trials_are_kept_under_heads(tmp_path: Path) -> None:
    base, *experts = Family("Bert", tmp_path).checkpoints
    labels = torch.arange(40) % 2
    tasks = {e.name: Classification((TOKENS, labels), head=e) for e in experts[:2]}
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(-1, 1))
    objective = mo.MergeObjective(recipe, Tasks(tasks))
    kept = tmp_path / "kept"
    study = mo.MergeStudy("kept", objective, 4, keep_best=1, folder=kept, baselines=False).run(
        None, progress=False
    )
    [folder] = kept.glob("trial-*")
    assert folder.name == f"trial-{study.best_trial.number:05}"
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"mr", "subj"}
