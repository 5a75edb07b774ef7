"""Statistics are computed once, and again only when model, data or settings change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import merge_optuna as mo
from merge_optuna.errors import CheckpointError, ExportError
from tests import toys

BATCH = {"input_ids": torch.tensor([[3, 4, 5, 6], [7, 8, 9, 3]])}
OTHER = {"input_ids": torch.tensor([[3, 4, 5, 6], [7, 8, 9, 4]])}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> mo.Checkpoint:
    folder = tmp_path_factory.mktemp("models") / "bert"
    return mo.Checkpoint(toys.save(toys.bert(), folder), name="ja")


def stamps(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_equal_questions_are_answered_from_the_cache(cache: Path, model: mo.Checkpoint) -> None:
    found = mo.statistics.fisher(model, [BATCH])
    before = stamps(cache)
    names = {path.name for path in before}
    assert names == {"model.safetensors", "config.json", ".merge_optuna.json"}
    again = mo.statistics.fisher(mo.Checkpoint(model.ref, name="renamed"), [BATCH])
    assert stamps(cache) == before, "not even touched"
    assert (again.ref, again.digest) == (found.ref, found.digest)
    assert (found.name, again.name) == ("ja-fisher", "renamed-fisher")


def test_the_model_is_not_even_loaded_then(
    model: mo.Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    mo.statistics.fisher(model, [BATCH])
    monkeypatch.setattr(mo.Engine, "load", None)
    mo.statistics.fisher(model, [BATCH])
    with pytest.raises(TypeError):
        mo.statistics.fisher(model, [OTHER])


def test_other_questions_are_not(cache: Path, model: mo.Checkpoint) -> None:
    changed = mo.Checkpoint.from_module(toys.noised(toys.bert(), 1), name="ja")
    found = [
        mo.statistics.fisher(model, [BATCH]),
        mo.statistics.fisher(model, [OTHER]),
        mo.statistics.fisher(changed, [BATCH]),
        mo.statistics.fisher(model, [BATCH], labels="soft"),
        mo.statistics.fisher(model, [BATCH], n=1),
    ]
    assert len({one.ref for one in found}) == len({one.digest for one in found}) == 5
    assert all(Path(one.ref).is_relative_to(cache) for one in found)


def test_a_folder_of_ones_own_is_renewed(tmp_path: Path, model: mo.Checkpoint) -> None:
    folder = tmp_path / "mine"
    first = mo.statistics.fisher(model, [BATCH], folder=folder)
    before = stamps(folder)
    assert mo.statistics.fisher(model, [BATCH], folder=folder) == first
    assert stamps(folder) == before
    second = mo.statistics.fisher(model, [OTHER], folder=folder)
    assert second.ref == first.ref == str(folder)
    assert second.digest != first.digest
    with pytest.raises(CheckpointError, match="has changed"):
        mo.Checkpoint(folder, digest=first.digest).tensor(first.names()[0])


def test_what_is_written(tmp_path: Path, model: mo.Checkpoint) -> None:
    found = mo.statistics.fisher(model, [BATCH], folder=tmp_path / "mine")
    facts = json.loads((tmp_path / "mine/config.json").read_text())["merge_optuna_statistics"]
    assert facts["kind"] == "fisher"
    assert facts["model"] == model.digest
    assert (facts["examples"], facts["labels"]) == (2, "hard")
    tensors = load_file(tmp_path / "mine/model.safetensors")
    assert set(tensors) == set(model.names())
    assert all(torch.equal(found.tensor(name), tensor) for name, tensor in tensors.items())
    assert all((tensor >= 0).all() for tensor in tensors.values())


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path, model: mo.Checkpoint) -> None:
    other = toys.save(toys.bert(), tmp_path / "model")
    before = stamps(other)
    with pytest.raises(ExportError, match="something else than statistics"):
        mo.statistics.fisher(model, [BATCH], folder=other)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ExportError, match="something else than statistics"):
        mo.statistics.fisher(model, [BATCH], folder=file)
    assert stamps(other) == before


def test_files_of_others_are_seen_before_the_work(tmp_path: Path, model: mo.Checkpoint) -> None:
    folder = tmp_path / "mine"
    mo.statistics.fisher(model, [BATCH], folder=folder)
    (folder / "notes.txt").write_text("mine")
    before = stamps(folder)

    assert mo.statistics.fisher(model, [BATCH], folder=folder).ref == str(folder)
    with pytest.raises(ExportError, match=r"would be deleted: notes\.txt\."):
        mo.statistics.fisher(model, [OTHER], folder=folder)
    assert stamps(folder) == before
    (folder / "notes.txt").unlink()
    (folder / ".merge_optuna.json").unlink()  # as older versions wrote it
    mo.statistics.fisher(model, [OTHER], folder=folder)
