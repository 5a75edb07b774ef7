"""A merged model written under heads: what plain transformers makes of each folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

import merge_optuna as mo
from merge_optuna.errors import ExportError
from tests import toys
from tests.engine.test_heads import LABELS, Family, by_hand


def weights(folder: Path, shard: int) -> Path:
    return folder / f"model-0000{shard}-of-00002.safetensors"


def heads_of(family: Family) -> dict[str, mo.Checkpoint | None]:
    return dict(zip(LABELS, family.checkpoints[1:], strict=True))


@pytest.mark.parametrize("name", ["Bert", "Roberta", "DistilBert", "Llama"])
@pytest.mark.parametrize("with_base", [True, False])
def test_each_folder_is_a_model(name: str, with_base: bool, tmp_path: Path) -> None:
    family = Family(name, tmp_path)
    base, *experts = family.checkpoints
    recipe = mo.recipes.task_arithmetic(base, experts, weight=1 / 3)
    if not with_base:  # the same numbers, with names and head of the first expert
        recipe = mo.recipes.linear(experts)
    out = mo.write(recipe, tmp_path / "out", heads=heads_of(family))
    assert {path.name for path in out.iterdir() if path.is_dir()} == LABELS.keys()
    expected = by_hand(family, 1 / 3)
    for expert, labels in LABELS.items():
        model: Any = AutoModelForSequenceClassification.from_pretrained(out / expert)
        assert model.config.num_labels == labels
        own = family.experts[expert].state_dict()
        inside = f"{model.base_model_prefix}."
        assert model.state_dict().keys() == own.keys()
        for tensor_name, tensor in model.state_dict().items():
            if tensor_name.startswith(inside):
                merged = expected[tensor_name.removeprefix(inside)]
                torch.testing.assert_close(tensor, merged, rtol=0, atol=1e-6)
            else:
                assert torch.equal(tensor, own[tensor_name])
    bodies = {weights(out / expert, 1).stat().st_ino for expert in LABELS}
    assert len(bodies) == 1, "one file, under three names"
    index = json.loads((out / "subj" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == 2


def test_without_links_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(self: Path, target: Path) -> None:
        raise PermissionError("this file system has no hard links")

    family = Family("Bert", tmp_path)
    recipe = mo.recipes.linear(family.checkpoints[1:])
    linked = mo.write(recipe, tmp_path / "linked", heads=heads_of(family))
    monkeypatch.setattr(Path, "hardlink_to", no_links)
    copied = mo.write(recipe, tmp_path / "copied", heads=heads_of(family))
    for expert in LABELS:
        for shard in (1, 2):
            files = [weights(folder / expert, shard) for folder in (linked, copied)]
            assert files[0].read_bytes() == files[1].read_bytes()
    assert len({weights(copied / expert, 1).stat().st_ino for expert in LABELS}) == 3


def test_a_base_with_another_head(tmp_path: Path) -> None:
    """Its own head is one of them; poolers come with the heads that have one."""
    family = Family("Bert", tmp_path, base_head="MaskedLM")
    base, *experts = family.checkpoints
    recipe = mo.recipes.task_arithmetic(base, experts, weight=0.3)
    heads = {"masked": None, **heads_of(family)}
    out = mo.write(recipe, tmp_path / "out", heads=heads, dtype="bfloat16")
    expected = by_hand(family, 0.3)
    masked: Any = AutoModelForMaskedLM.from_pretrained(out / "masked")
    subj: Any = AutoModelForSequenceClassification.from_pretrained(out / "subj")
    assert masked.dtype == subj.dtype == torch.bfloat16
    for name, tensor in masked.bert.state_dict().items():
        assert torch.equal(tensor, subj.bert.state_dict()[name])
        torch.testing.assert_close(tensor.float(), expected[name], rtol=0.01, atol=1e-6)
    own = family.experts["subj"].state_dict()
    for name in ("bert.pooler.dense.weight", "classifier.weight"):
        assert torch.equal(subj.state_dict()[name], own[name].bfloat16())


def test_files_around_the_weights(tmp_path: Path) -> None:
    family = Family("Bert", tmp_path)
    (tmp_path / "subj" / "tokenizer_config.json").write_text('{"mine": 1}')
    head = mo.Checkpoint(tmp_path / "subj", name="subj")
    recipe = mo.recipes.linear(family.checkpoints[1:])
    out = mo.write(recipe, tmp_path / "out", heads={"objective or not": head}, score={"f1": 0.5})
    folder = out / "objective or not"
    assert "mine" in (folder / "tokenizer_config.json").read_text()
    assert mo.Recipe.from_yaml(folder / "recipe.yaml") == recipe
    assert not (folder / "mergekit_config.yml").exists()
    for card in (out / "README.md", folder / "README.md"):
        assert "| f1 | 0.5 |" in card.read_text()
    assert f"The head is that of `subj`, `{tmp_path}/subj`" in (folder / "README.md").read_text()


def test_one_export_in_the_place_of_another(tmp_path: Path) -> None:
    family = Family("Bert", tmp_path)
    recipe = mo.recipes.linear(family.checkpoints[1:])
    out = mo.write(recipe, tmp_path / "out", heads=heads_of(family))
    with pytest.raises(ExportError, match="not empty"):
        mo.write(recipe, out, heads=heads_of(family))
    mo.write(recipe, out, heads={"mr": family.checkpoints[1]}, force=True)
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"mr"}
    (out / "mr" / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"holds something else .*: mr/notes\.txt"):
        mo.write(recipe, out, force=True)
    (out / "mr" / "notes.txt").unlink()
    mo.write(recipe, out, force=True)
    assert (out / "model.safetensors").is_file()
    assert not (out / "mr").exists()


def test_what_is_refused(tmp_path: Path) -> None:
    family = Family("Bert", tmp_path)
    _, mr, *_ = family.checkpoints
    recipe = mo.recipes.linear(family.checkpoints[1:])
    toys.save(toys.encoder("Bert", hidden_size=16), tmp_path / "narrow")
    toys.save(toys.encoder("Bert", num_hidden_layers=1), tmp_path / "shallow")
    toys.save(toys.vit(), tmp_path / "vit")
    for heads, message in [
        ({"a/b": mr}, "'a/b' of heads= cannot be the name of a folder"),
        ({"..": mr}, "cannot be the name"),
        ({"a": str(tmp_path / "mr")}, r"needs checkpoints: \{'a': mo\.Checkpoint\('"),
        (
            {"a": mo.Checkpoint(tmp_path / "narrow", name="narrow")},
            r"fit the head of 'narrow' .*:",
        ),
        ({"a": mo.Checkpoint(tmp_path / "shallow", name="s")}, r"bert\.encoder\.layer\.1\."),
        ({"a": mo.Checkpoint(tmp_path / "vit", name="vit")}, "does not fit the head of 'vit'"),
    ]:
        with pytest.raises(ExportError, match=message):
            mo.write(recipe, tmp_path / "out", heads=heads)
    with pytest.raises(ExportError, match="holds 'mr', a source"):
        mo.write(mr, tmp_path / "mr", heads={"a": mr}, force=True)
    assert not (tmp_path / "out").exists()
