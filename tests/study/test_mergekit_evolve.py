"""Genomes of mergekit-evolve as searches."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

import merge_optuna as mo
from merge_optuna.errors import RecipeError, StudyError
from merge_optuna.recipes import Genome, read_genome
from tests import toys, vocabularies
from tests.cli.conftest import Cli, cli  # noqa: F401
from tests.trained import Task, read_rows, right

LAYERS = 4
Q, UP = "self_attn.q_proj.weight", "mlp.up_proj.weight"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders base, ja, math and code with Llamas of four layers."""
    folder = tmp_path_factory.mktemp("models")
    toys.family(folder, lambda: toys.llama(layers=LAYERS))
    return folder


@pytest.fixture
def read(root: Path) -> Callable[..., Genome]:
    """Reads the lines of a genome in which ``@name`` stands for a folder."""

    def read(text: str, **options: bool) -> Genome:
        return read_genome(located(text, root), "evolve.yml", **options)

    return read


OWN = "{name: own, metric: 'acc_norm,none', weight: 0.5}"


def located(text: str, root: Path) -> str:
    lines = textwrap.indent(textwrap.dedent(text).strip("\n"), "  ")
    for name in ("base", *toys.EXPERTS):
        lines = lines.replace(f"@{name}", str(root / name))
    return f"genome:\n{lines}\ntasks:\n  - hellaswag\n  - {OWN}\n"


TWO = "models: [@ja, @math]\n"
TIES = f"merge_method: ties\nnormalize: false\nbase_model: @base\n{TWO}"


def test_one_number_per_model_and_group(read: Callable[..., Genome]) -> None:
    genome = read(TIES + "layer_granularity: 2")
    space = genome.space
    groups = ["embed", "00-01", "02-03", "head"]
    assert [str(task) for task in genome.tasks] == ["hellaswag (acc,none)", "own (acc_norm,none)"]
    assert [task.weight for task in genome.tasks] == [1, 0.5]
    assert (genome.limit, genome.num_fewshot, genome.chat) == (None, None, True)
    assert list(space.start()) == [
        f"{name}/{model}/{group}"
        for name in ("weight", "density")
        for model in ("ja", "math")
        for group in groups
    ]
    assert space.start()["weight/ja/00-01"] == 0.5
    assert space.start()["density/math/head"] == 1
    assert (space.values["normalize"], space.values["trim_over"]) == (False, "tensor")
    assert {(d.low, d.high) for d in space.distributions().values()} == {(0.0, 1.0)}


def test_one_number_per_model(read: Callable[..., Genome]) -> None:
    assert read(TIES).space.start() == {
        **{"weight/ja": 0.5, "weight/math": 0.5},
        **{"density/ja": 1.0, "density/math": 1.0},
    }


def test_smooth_numbers_are_interpolated(read: Callable[..., Genome]) -> None:
    space = read(TIES + "layer_granularity: 1\nsmooth: true").space
    assert [name for name in space.start() if name.startswith("weight/ja")] == [
        f"weight/ja/d{i}" for i in range(LAYERS)
    ]
    assert "weight/ja" in read(TIES + "layer_granularity: 4\nsmooth: true").space.start()


def test_filters_have_numbers_of_their_own(read: Callable[..., Genome]) -> None:
    text = TIES + "filters: [self_attn, mlp, vision]\nlayer_granularity: 4"
    with pytest.warns(UserWarning, match=r"filters\[2\]: the filter 'vision' matches no tensor"):
        space = read(text).space
    weights = [name for name in space.start() if name.startswith("weight/ja")]
    assert weights == [
        *("weight/ja/self_attn/00-03", "weight/ja/mlp/00-03"),
        *("weight/ja/*/embed", "weight/ja/*/00-03", "weight/ja/*/head"),
    ]
    params = space.start() | {"weight/ja/mlp/00-03": 0.1, "weight/math/self_attn/00-03": 0.2}
    bound = space.bind(params)
    assert bound.values_at(f"model.layers.2.{UP}")["weight"] == [0.1, 0.5]
    assert bound.values_at(f"model.layers.2.{Q}")["weight"] == [0.5, 0.2]


def test_negative_weights(read: Callable[..., Genome]) -> None:
    text = "merge_method: dare_ties\nbase_model: @base\n" + TWO + "allow_negative_weights: 1\n"
    space = read(text + "normalize: false").space
    assert {n: (d.low, d.high) for n, d in space.distributions().items() if "ja" in n} == {
        "weight/ja": (-1, 1),
        "density/ja": (0, 1),
    }
    assert (space.values["rescale"], space.values["normalize"]) == ("l1", False)


def test_a_base_among_the_models_counts_in_the_start(read: Callable[..., Genome]) -> None:
    text = "merge_method: task_arithmetic\nbase_model: @base\nmodels: [@base, @ja, @math, @code]"
    assert read(text).space.start() == dict.fromkeys(
        ("weight/ja", "weight/math", "weight/code"), 0.25
    )


def test_methods_that_normalise_and_slerp(read: Callable[..., Genome]) -> None:
    """Weights that are normalised are searched as shares."""
    for start in ("merge_method: linear\n", "merge_method: ties\nbase_model: @base\n"):
        space = read(start + TWO).space
        shares = {name: x for name, x in space.start().items() if "density" not in name}
        assert (shares, space.values["normalize"]) == ({"share/ja": 0.5}, True)
    space = read("merge_method: slerp\nlayer_granularity: 2\n" + TWO).space
    assert space.model_names == ("ja", "math")
    assert space.start() == {f"t/{group}": 0.5 for group in ("embed", "00-01", "02-03", "head")}


def test_a_union_of_tokenizers(tmp_path: Path) -> None:
    vocabularies.word_family(tmp_path)
    text = located(TIES + "tokenizer_source: union", tmp_path)
    assert read_genome(text, "evolve.yml").space.tokenizer == mo.Vocabulary("union")


REFUSED = {
    "merge_method: della\nbase_model: @base\n"
    + TWO: r"genome\.merge_method: mergekit-evolve has no",
    "merge_method: ties\n" + TWO: "genome: ties needs a base_model",
    "merge_method: ties\nbase_model: @base": "genome: no models",
    "merge_method: linear\nbase_model: @base\n" + TWO: r"genome\.base_model: linear merges it too",
    "merge_method: slerp\nmodels: [@ja, @math, @code]": "chooses two of them for every group",
    "merge_method: linear\nmodels: [@ja, @ja]": "Several models are called ja",
    "merge_method: linear\nallow_negative_weights: true\n"
    + TWO: "genome: normalized weights of both",
    TIES + "layer_granularity: 3": r"genome\.layer_granularity: 3 does not divide the 4 layers",
    TIES + "layer_granularity: many": "expected a number, not 'many'",
    TIES + "layer_granularity: 2\nsmooth: 2": r"genome\.smooth: must be true or false, not 2",
    TIES + "filters: 3": r"genome\.filters: expected a list, not 3",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_space(read: Callable[..., Genome], text: str) -> None:
    with pytest.raises(RecipeError, match=REFUSED[text]):
        read(text)


def test_a_key_that_mergekit_ignores(read: Callable[..., Genome]) -> None:
    with pytest.warns(UserWarning, match=r"genome: mergekit ignores the key 'layer_gran'"):
        read(TIES + "layer_gran: 2")
    with pytest.raises(RecipeError, match="Did you mean 'layer_granularity'"):
        read(TIES + "layer_gran: 2", strict=True)


def test_a_file_of_another_tool(root: Path) -> None:
    with pytest.raises(RecipeError, match=r"evolve\.yml: no genome"):
        read_genome("merge_method: linear", "evolve.yml")


# -- the search -------------------------------------------------------------------------------


def evolve(folder: Path, task: Task) -> Path:
    base, *experts = task.folders
    (folder / "evolve.yml").write_text(
        json.dumps(
            {
                "genome": {
                    "models": experts,
                    "merge_method": "ties",
                    "base_model": base,
                    "layer_granularity": 1,
                    "filters": ["attention"],
                },
                "tasks": [{"name": "toy", "weight": 1.0, "metric": "acc,none"}],
                "limit": 100,
            }
        )
    )
    return folder / "evolve.yml"


def test_a_search_in_python(task: Task, tmp_path: Path) -> None:
    search = mo.MergeStudy.from_mergekit_evolve(
        evolve(tmp_path, task), mo.evaluators.Classification(task.dev), n_trials=3
    )
    study = search.run(f"sqlite:///{tmp_path}/s.db", progress=False)
    assert (study.study_name, len(study.trials)) == ("evolve", 3)
    assert study.trials[0].params == search.objective.space.start()
    best = mo.recipe_of(study)
    assert right(mo.Engine().load(best), read_rows(task.dev)).mean() == study.best_value
    assert best.method == "ties"


def test_a_search_by_the_command(task: Task, cli: Cli, tmp_path: Path) -> None:  # noqa: F811
    file = evolve(tmp_path, task)
    code, out, _ = cli("run", file, "--dev", task.dev, "-n", 3, "--out", "merged")
    assert code == 0, out
    study = optuna.load_study(study_name="evolve", storage="sqlite:///evolve.db")
    assert len(study.trials) == 3
    assert mo.Recipe.from_yaml("merged/recipe.yaml") == mo.recipe_of(study)


def test_a_check_by_the_command(task: Task, cli: Cli, tmp_path: Path) -> None:  # noqa: F811
    code, out, err = cli("check", evolve(tmp_path, task), "--dev", task.dev, "--no-trial")
    assert (code, "evolve" in out) == (0, True), err


def test_tasks_need_an_evaluator(task: Task, cli: Cli, tmp_path: Path) -> None:  # noqa: F811
    file = evolve(tmp_path, task)
    said = r"tasks of lm-eval \(toy \(acc,none\)\), which no evaluator runs\. Pass"
    with pytest.raises(StudyError, match=said):
        mo.MergeStudy.from_mergekit_evolve(file)
    code, _, err = cli("run", file)
    assert code == 1
    assert "evolve.yml maximises tasks of lm-eval (toy (acc,none))" in err


def test_dev_data_are_for_yaml(task: Task, cli: Cli, tmp_path: Path) -> None:  # noqa: F811
    file = task.file(tmp_path / "search.py", n_trials=4)
    code, _, err = cli("run", file, "--dev", task.dev)
    assert (code, "--dev is for YAML" in err) == (2, True)
