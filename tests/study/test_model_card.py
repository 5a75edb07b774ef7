"""Model cards of exports, read as the hub's own client reads them."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import huggingface_hub
import numpy as np
import optuna
import pytest
import torch
from huggingface_hub import ModelCard

import merge_optuna as mo
from merge_optuna.study import layer_shares
from tests import toys
from tests.hub import files_of, put_into_cache
from tests.spaces.models import nets
from tests.spaces.searches import search
from tests.study.linears import Near

optuna.logging.set_verbosity(optuna.logging.ERROR)

SVG = "{http://www.w3.org/2000/svg}"


def licensed(folder: Path, text: str) -> None:
    (folder / "README.md").write_text(f"---\n{text}\n---\n\n# Mine\n")


def card_of(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def tables(page: str) -> dict[str, list[list[str]]]:
    """The cells of the table below each headline."""
    found: dict[str, list[list[str]]] = {}
    headline = ""
    for line in page.splitlines():
        if line.startswith("## "):
            headline = line[3:]
        elif line.startswith("| ") and set(line) - set("| -"):
            found.setdefault(headline, []).append([c.strip() for c in line[1:-1].split("|")])
    return found


def numbers(svg: Path) -> list[float]:
    cells = ElementTree.parse(svg).getroot().iterfind(f"{SVG}g/{SVG}g/{SVG}text")
    return [float(cell.text) for cell in cells if cell.text]


# -- metadata -----------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no connection to it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def test_sources_on_the_hub_are_its_base_models(tmp_path: Path, cache: Path) -> None:
    base, ja, math = toys.family(tmp_path / "m", experts=2)
    licensed(tmp_path / "m/ja", "license: mit\nbase_model: somebody/else")
    put_into_cache(cache, "org/base", files_of(tmp_path / "m/base"))
    put_into_cache(cache, "org/ja", files_of(tmp_path / "m/ja"))
    sources = [mo.Checkpoint("org/base", name="base"), mo.Checkpoint("org/ja", name="ja"), math]
    card = card_of(mo.write(mo.recipes.ties(sources[0], sources[1:]), tmp_path / "out"))
    data = card.data.to_dict()
    assert data["base_model"] == ["org/base", "org/ja"], "a folder is no model of the hub"
    assert data["base_model_relation"] == "merge"
    assert data["library_name"] == "transformers"
    assert {"merge", "merge_optuna"} <= {*data["tags"]}
    assert "license" not in data, "only one source names a licence"
    assert [row[0::3] for row in tables(card.text)["Sources"][1:]] == [
        ["base", "not known"],
        ["ja", "mit"],
        ["math", "not known"],
    ]
    assert "what all of them allow" in card.text
    local = card_of(mo.write(mo.recipes.ties(base, [ja]), tmp_path / "local")).data.to_dict()
    assert not {"base_model", "base_model_relation"} & local.keys()


@pytest.mark.parametrize(
    "header",
    [
        "license: apache-2.0",
        "license: other\nlicense_name: llama3\nlicense_link: https://example.org/l",
    ],
)
def test_the_licence_that_all_sources_have(tmp_path: Path, header: str) -> None:
    sources = toys.family(tmp_path, experts=2)
    for source in sources:
        licensed(Path(source.ref), header)
    data = card_of(mo.write(mo.recipes.linear(sources), tmp_path / "out")).data.to_dict()
    expected = dict(line.split(": ") for line in header.splitlines())
    assert {name: data.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    "header", ["license: [a, b]", "license: {a: b}", "license: 'x | y\n\n  # z'", "license: [", ""]
)
def test_licences_that_are_none(tmp_path: Path, header: str) -> None:
    [source] = toys.family(tmp_path, experts=0)
    licensed(Path(source.ref), header)
    card = card_of(mo.write(mo.recipes.linear([source]), tmp_path / "out"))
    assert "license" not in card.data.to_dict()
    assert tables(card.text)["Sources"][0] == ["name", "checkpoint", "digest"]


# -- picture ------------------------------------------------------------------------------------


def test_the_picture_shows_the_recipe(tmp_path: Path) -> None:
    base, *experts = toys.family(tmp_path, experts=2)
    weight = [mo.per_group([0.1, 0.2, 0.3, 0.4]), mo.per_group([0.5, 0.6, 0.7, 0.8])]
    recipe = mo.recipes.task_arithmetic(base, experts, weight=weight)
    out = mo.write(recipe, tmp_path / "out")
    rows = [[0.1, 0.5], [0.2, 0.6], [0.3, 0.7], [0.4, 0.8]]
    assert numbers(out / "recipe.svg") == [*np.ravel(rows)]
    assert "![weight by layer and model](recipe.svg)" in (out / "README.md").read_text()
    mo.write(recipe, out, force=True)  # it is known as a file of ours
    plain = mo.write(base, tmp_path / "plain")
    assert not (plain / "recipe.svg").exists()
    assert "recipe.svg" not in (plain / "README.md").read_text()


def test_the_picture_of_a_path(tmp_path: Path) -> None:
    models = toys.family(tmp_path, experts=2)[1:]
    out = mo.write(mo.recipes.path("A0-B1×0.5-A1", models), tmp_path / "out")
    assert numbers(out / "recipe.svg") == [0, 1, 1, 1, 0.5, 1], "layers, then scales"


def test_the_picture_of_evolved_weights(tmp_path: Path) -> None:
    study = search("evolver", None, 10)
    child = max(t.number for t in study.trials if t.params["origin"] == "child")
    sources = {net.name: net for net in nets()}
    out = mo.export(study, tmp_path / "out", trial=child, sources=sources)
    [panel] = layer_shares(study, child, sources=sources)
    np.testing.assert_allclose(numbers(out / "recipe.svg"), panel.values.ravel(), rtol=5e-3)


# -- beside the baselines -----------------------------------------------------------------------

COMPARED = "Compared with what needs no search"


def searched(tmp_path: Path, evaluator: object) -> optuna.Study:
    base, *experts = toys.family(tmp_path, experts=2)
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 2))
    objective = mo.MergeObjective(recipe, evaluator)
    sampler = optuna.samplers.RandomSampler(seed=0)
    return mo.MergeStudy("toy", objective, sampler=sampler, n_trials=3).run(progress=False)


class Bias(Near):
    """How near the first norm is to some numbers."""

    def __call__(self, model: torch.nn.Module):  # type: ignore[no-untyped-def]
        norm = float(model.model.norm.weight.mean())  # type: ignore[union-attr]
        yield np.arange(len(self)), -np.abs(self.numbers - norm)


def test_the_trial_beside_the_baselines(tmp_path: Path) -> None:
    study = searched(tmp_path, Bias(0.5, 1, 1.5, 2))
    card = (mo.export(study, tmp_path / "out", trial=1) / "README.md").read_text()
    head, *rows = tables(card)[COMPARED]
    assert head == ["method", "kind", "dev nearness", "− best baseline"]
    shown = {row[0]: float(row[2].split()[0]) for row in rows}
    known = {row.name: row.value for row in mo.baselines(study).headlines}
    assert shown.pop("trial 1") == pytest.approx(study.trials[1].value, abs=1e-4)
    best = shown.pop("task arithmetic, λ by dev")
    assert best == pytest.approx(max(v for n, v in known.items() if "λ" in n), abs=1e-4)
    assert shown == {
        name: pytest.approx(value, abs=1e-4) for name, value in known.items() if "λ" not in name
    }
    assert "nearness: higher is better. [95 % intervals]" in card
    assert "chosen among 3 trials" in card
    base = (mo.export(study, tmp_path / "of base", baseline="base") / "README.md").read_text()
    assert tables(base)[COMPARED][1][:2] == ["**base**", f"{known['base']:.4g}"]


class Two(Bias):
    directions, metric_names = ("maximize", "minimize"), ("nearness", "distance")

    def value(self, scores: np.ndarray) -> tuple[float, float]:  # type: ignore[override]
        return float(scores.mean()), float(-scores[0])


def test_a_point_of_a_front_beside_the_baselines(tmp_path: Path) -> None:
    study = searched(tmp_path, Two(0.5, 1, 1.5, 2))
    point = mo.pareto(study)[0]
    card = (mo.export(study, tmp_path / "out", trial=point) / "README.md").read_text()
    head, first, *others = tables(card)[COMPARED]
    assert head == ["", "nearness", "distance", ""]
    assert first[:3] == [f"**trial {point.number}**", *(f"{x:.4g}" for x in point.values)]
    assert [row[0] for row in others] == [row.name for row in mo.baselines(study).headlines]
    assert "nearness: higher is better; distance: lower is better." in card


def test_nothing_to_compare_with(tmp_path: Path) -> None:
    study = search("niches", None, 4)
    sources = {net.name: net for net in nets()}
    card = (mo.export(study, tmp_path / "out", sources=sources) / "README.md").read_text()
    assert COMPARED not in card
