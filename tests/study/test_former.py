"""What an earlier version recorded, whose digests were of samples, is compared in its own way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from safetensors.torch import load_file, save_file

import merge_optuna as mo
from merge_optuna.errors import CheckpointError, StudyError
from tests import former, toys

optuna.logging.set_verbosity(optuna.logging.ERROR)

TOLD = json.loads((former.DATA / "former.json").read_text())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    former.make(tmp_path)
    return tmp_path


def loaded(root: Path) -> optuna.Study:
    return optuna.load_study(study_name="former", storage=former.database(root))


def given(root: Path) -> dict[str, Any]:
    base = mo.Checkpoint(root / "base", name="base")
    lora = mo.Checkpoint(root / "lora", name="lora", base=base)
    plain = TOLD["names"][1]
    return {"base": base, plain: root / "plain", "lora": lora, "memory": former.module()}


def changed(folder: Path, name: str, at: int) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[at] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_search_goes_on_as_it_would_have(root: Path) -> None:
    assert [source.name for source in former.recipe(root).checkpoints()] == TOLD["names"]
    study = former.search(root, former.database(root), former.TRIALS)
    assert former.trials(study) == TOLD["trials"]


def test_a_trial_is_rebuilt_as_it_was(root: Path) -> None:
    recipe = mo.recipe_of(loaded(root), 4, sources=given(root))
    recorded = (former.DATA / "former.yaml").read_text()
    assert recipe.to_yaml().replace(str(root), "/former") == recorded  # as KeepBest compares it
    assert former.score(mo.Engine().load(recipe)) == TOLD["trials"][4][2][0]
    assert mo.Recipe.from_yaml(recorded).digest == recipe.digest


def test_a_file_of_a_recipe_stays_readable(root: Path) -> None:
    recorded = (former.DATA / "former.yaml").read_text().replace("/former", str(root))
    recipe = mo.Recipe.from_yaml(recorded).with_sources({"memory": former.module()})
    assert former.score(mo.Engine().load(recipe)) == TOLD["trials"][4][2][0]


def test_a_former_recipe_is_a_start_and_a_file_of_mergekit(root: Path) -> None:
    recorded = (former.DATA / "former.yaml").read_text().replace("/former", str(root))
    recipe = mo.Recipe.from_yaml(recorded).with_sources({"memory": former.module()})
    assert former.recipe(root).params_of(recipe) == TOLD["trials"][4][1]
    base, plain = recipe.base, recipe.models[0]
    assert isinstance(plain, mo.Checkpoint)
    two = mo.recipes.ties(base, [plain.model_copy(update={"name": "plain"})])
    assert mo.Recipe.from_mergekit(two.to_mergekit()).recorded_like(two) == two


def test_a_source_that_is_another_is_refused(root: Path) -> None:
    url = former.database(root)
    changed(root / "plain", "model.norm.weight", 3)
    name = TOLD["names"][1]
    with pytest.raises(StudyError, match=f"made with another space: sources .*{name}"):
        former.search(root, url, former.TRIALS)
    with pytest.raises(CheckpointError, match=f"{name!r}.*{name}[0-9a-f]* was recorded"):
        mo.recipe_of(loaded_again(url), 4, sources=given(root))
    again = mo.Recipe.from_yaml(
        (former.DATA / "former.yaml").read_text().replace("/former", str(root))
    )
    with pytest.raises(CheckpointError, match=f"plain.*has changed.*recorded as {name}"):
        again.models[0].names()  # type: ignore[union-attr]


def loaded_again(url: str) -> optuna.Study:
    return optuna.load_study(study_name="former", storage=url)


def test_in_its_own_way_means_by_its_samples(root: Path) -> None:
    """Between two of the sixteen blocks that were read, and in a config that was not."""
    changed(root / "plain", "model.embed_tokens.weight", 400)
    config = json.loads((root / "plain/config.json").read_text())
    (root / "plain/config.json").write_text(json.dumps(config | {"bos_token_id": 5}))
    study = former.search(root, former.database(root), former.BEFORE)
    assert len(study.trials) == former.BEFORE


def test_a_change_during_the_search_is_noticed_in_full(root: Path) -> None:
    recorded = (former.DATA / "former.yaml").read_text().replace("/former", str(root))
    recipe = mo.Recipe.from_yaml(recorded).with_sources({"memory": former.module()})
    engine = mo.Engine()
    engine.load(recipe)
    changed(root / "plain", "model.embed_tokens.weight", 400)
    with pytest.raises(CheckpointError, match=r"plain/model\.safetensors was"):
        engine.load(recipe)


def test_parts_of_data_that_were_not_recorded_are_no_difference(tmp_path: Path) -> None:
    pixels, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    base, expert = toys.family(tmp_path, toys.vit, experts=1)
    recipe = mo.recipes.linear([base, expert], weight=mo.free(0, 1))

    def objective(head: mo.Checkpoint) -> mo.MergeObjective:
        return mo.MergeObjective(recipe, mo.evaluators.Classification((pixels, labels), head=head))

    study = optuna.create_study(direction="maximize", sampler=recipe.sampler(seed=0))
    now = objective(base)
    study.optimize(now, n_trials=1)
    stored = dict(study.user_attrs["dev"])
    assert stored.keys() == {"examples", "inputs", "labels", "head", "head_content", "batch_size"}
    del stored["head_content"], stored["batch_size"]  # as d128686 has stored it
    study.set_user_attr("dev", stored)
    objective(base).check_study(study)
    with pytest.raises(StudyError, match=r"other dev data: head differ \(4 examples"):
        objective(expert).check_study(study)


def test_another_function_is_a_difference(tmp_path: Path) -> None:
    base, expert = toys.family(tmp_path, experts=1)
    recipe = mo.recipes.linear([base, expert], weight=mo.free(0, 1))
    study = optuna.create_study(direction="maximize", sampler=recipe.sampler(seed=0))
    study.optimize(mo.MergeObjective(recipe, lambda model: 1.0), n_trials=1)
    mo.MergeObjective(recipe, lambda model: 1.0).check_study(study)
    with pytest.raises(StudyError, match="scored by another function"):
        mo.MergeObjective(recipe, lambda model: 2.0).check_study(study)
    versioned = mo.evaluators.Function(lambda model: 1.0, digest="v2")
    with pytest.raises(StudyError, match="by another function"):
        mo.MergeObjective(recipe, versioned).check_study(study)
