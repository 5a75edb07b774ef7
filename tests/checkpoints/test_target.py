"""What force deletes: what this package has written, and not one file of anybody else's."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import merge_optuna as mo
from merge_optuna.checkpoints import (
    TensorSpec,
    WritePlan,
    check_target,
    clear_leftovers,
    remove_written,
    write_checkpoint,
)
from merge_optuna.errors import ExportError
from tests import processes
from tests.hub import files_of

LAYERS = 6


def module(value: float) -> mo.Checkpoint:
    made = nn.Sequential(*(nn.Linear(3, 2) for _ in range(LAYERS)))
    for parameter in made.parameters():
        nn.init.constant_(parameter, value)
    return mo.Checkpoint.from_module(made, name="m")


def recipe(value: float) -> mo.Recipe:
    return mo.recipes.linear([module(value)])


def written(folder: Path, value: float = 1.0) -> Path:
    return mo.write(recipe(value), folder, force=True, max_shard_size=40)


def as_by_older_version(folder: Path) -> Path:
    folder = written(folder)
    for name in (".merge_optuna.json", "recipe.svg"):  # both came later
        (folder / name).unlink()
    return folder


def refused(folder: Path, *words: str) -> None:
    """Neither replaced nor removed, and nothing is touched."""
    before = files_of(folder)
    for attempt in (
        lambda: mo.write(recipe(2.0), folder, force=True),
        lambda: remove_written(folder),
    ):
        with pytest.raises(ExportError, match=".*".join(map(re.escape, words))):
            attempt()
    assert files_of(folder) == before
    assert [p.name for p in folder.parent.iterdir() if p.name.startswith(f".{folder.name}")] == []


# -- whose files are in it ----------------------------------------------------------------------


def edited(folder: Path) -> None:
    """As long as before."""
    card = folder / "README.md"
    card.write_text(card.read_text().replace("A merge of", "a merge of"))


def linked(folder: Path) -> None:
    weights = next(folder.glob("*.safetensors"))
    weights.rename(folder.parent / "elsewhere")
    weights.symlink_to(folder.parent / "elsewhere")


def trained(folder: Path) -> None:
    file = next(folder.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def put(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")

    return change


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "file": (put("notes.txt"), "notes.txt."),
    "database": (put("merge.db"), "merge.db."),
    "code": (put("search.py"), "search.py."),
    "inside": (put("runs/1.log"), "runs/1.log."),
    "hidden": (put(".env"), ".env."),
    "empty folder": (lambda folder: (folder / "plots").mkdir(), "plots/."),
    "card": (edited, "README.md (changed since)."),
    "link": (linked, ".safetensors (changed since)."),
    "weights": (trained, ".safetensors (changed since)."),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_somebody_has_put_there_is_named(tmp_path: Path, change: str) -> None:
    folder = written(tmp_path / "out")
    make, name = CHANGES[change]
    make(folder)
    refused(folder, "holds something else than a checkpoint that merge_optuna has written", name)


def test_a_large_file_is_looked_at_in_samples(tmp_path: Path) -> None:
    """Training moves all weights; a file of 100 MiB is told by 16 MiB of it."""
    spec = TensorSpec("w", torch.uint8, (100 << 20,))
    nothing = mo.Checkpoint.from_module(nn.Module(), name="nothing")
    part = torch.zeros(100 << 20, dtype=torch.uint8)
    folder = tmp_path / "out"
    write_checkpoint(folder, WritePlan(nothing, nothing, [spec], {}), lambda name: [part])
    check_target(folder, force=True)
    with open(folder / "model.safetensors", "r+b") as file:
        file.seek(1000)
        file.write(bytes([1]) * (1 << 20))
    with pytest.raises(ExportError, match=r"model.safetensors \(changed since\)"):
        check_target(folder, force=True)


def test_a_project_folder_with_a_config_is_not_a_checkpoint(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for name in ("config.json", "merge.db", "search.py"):
        (project / name).write_text("{}")
    refused(project, "config.json, merge.db, search.py.", "choose another folder")


def test_a_model_of_somebody_else_is_not_ours(tmp_path: Path) -> None:
    """Downloaded or trained: only known files, but not written here."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "README.md"):
        (folder / name).write_text("{}")
    refused(folder, "README.md, config.json, model.safetensors.")


def test_many_files_are_not_all_listed(tmp_path: Path) -> None:
    folder = written(tmp_path / "out")
    for i in range(1000):
        (folder / f"{i:03}.txt").touch()
    refused(folder, "000.txt, 001.txt,", "009.txt, .... Move it away")


def test_a_folder_of_ours_is_replaced_and_removed(tmp_path: Path) -> None:
    folder = written(tmp_path / "out")
    (folder / "recipe.yaml").unlink()  # what has gone is nobody's loss
    mo.write(recipe(2.0), folder, force=True)
    assert {float(t.max()) for t in load_file(folder / "model.safetensors").values()} == {2.0}
    remove_written(folder)
    assert list(tmp_path.iterdir()) == []


# -- before there were manifests ----------------------------------------------------------------


def test_folders_of_older_versions(tmp_path: Path) -> None:
    folder = as_by_older_version(tmp_path / "out")
    for name in ("tokenizer.json", "additional_chat_templates/a.jinja", "generation_config.json"):
        put(name)(folder)
    mo.write(recipe(2.0), folder, force=True)
    remove_written(as_by_older_version(tmp_path / "again"))
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("name", ["search.py", "merge.db", "tokenizer_secrets.txt", "unet/x.py"])
def test_files_that_no_older_version_wrote(tmp_path: Path, name: str) -> None:
    folder = as_by_older_version(tmp_path / "out")
    put(name)(folder)
    refused(folder, f"deleted: {name}.")


def test_a_pipeline_of_an_older_version(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    for name in (
        "model_index.json",
        "recipe.yaml",
        "README.md",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.bin",
        "tokenizer/merges.txt",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    check_target(folder, force=True)
    put("unet/notes.txt")(folder)
    refused(folder, "deleted: unet/notes.txt.")
    (folder / "unet/notes.txt").unlink()
    remove_written(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2, "files": {}}', '{"format": 1}'])
def test_a_manifest_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    folder = written(tmp_path / "out")
    (folder / ".merge_optuna.json").write_text(text)
    refused(folder, ".merge_optuna.json', which lists", "damaged or of a newer version")


def test_a_manifest_cannot_reach_outside(tmp_path: Path) -> None:
    folder = written(tmp_path / "out")
    (tmp_path / "mine").write_text("mine")
    manifest = folder / ".merge_optuna.json"
    content = json.loads(manifest.read_text())
    content["files"] |= {"../mine": {}, str(tmp_path / "mine"): {}}
    manifest.write_text(json.dumps(content))
    remove_written(folder)
    assert (tmp_path / "mine").read_text() == "mine"


# -- where --------------------------------------------------------------------------------------


@pytest.mark.parametrize("force", [False, True])
def test_folders_that_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    (tmp_path / "home/work/here").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home/work")
    for folder, words in {
        "/": "'/' is or holds the current folder",
        ".": "home/work' is or holds the current folder.*e.g. '.*home/work/merged'",
        "here/..": "home/work' is or holds the current folder",
        "~": "home' is or holds the current folder",
        "/dev/shm": "'/dev/shm' is a mount point.*e.g. '/dev/shm/merged'",
    }.items():
        with pytest.raises(ExportError, match=words):
            mo.write(recipe(1.0), folder, force=force)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExportError, match="home' is or holds your home"):
        mo.write(recipe(1.0), tmp_path / "home", force=force)
    assert [p.name for p in tmp_path.rglob("*")] == ["home", "work", "here"]


def test_a_link_as_target_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    folder = written(tmp_path / "disk/model")
    (tmp_path / "link").symlink_to(folder)
    mo.write(recipe(2.0), tmp_path / "link", force=True)
    assert (tmp_path / "link").is_symlink()
    assert {float(t.max()) for t in load_file(folder / "model.safetensors").values()} == {2.0}
    put("notes.txt")(folder)
    with pytest.raises(ExportError, match=r"deleted: notes.txt"):
        mo.write(recipe(3.0), tmp_path / "link", force=True)
    with pytest.raises(ExportError, match=r"is a link. Remove it yourself"):
        remove_written(tmp_path / "link")


def test_a_link_that_leads_to_itself(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("out")
    with pytest.raises(ExportError, match="out' cannot be written"):
        mo.write(recipe(1.0), tmp_path / "out", force=True)
    assert (tmp_path / "out").is_symlink()


# -- while it is written ------------------------------------------------------------------------


def slowly(folder: Path, meanwhile: Callable[[], object], *, force: bool) -> None:
    """Writes, and something happens in the middle."""
    source = module(5.0)
    specs = [TensorSpec(n, source.dtype(n), source.shape(n)) for n in source.names()]

    def parts(name: str) -> Iterator[Tensor]:
        if name == specs[3].name:
            meanwhile()
        yield source.tensor(name)

    write_checkpoint(folder, WritePlan(source, source, specs, {}), parts, force=force)


def test_a_file_that_is_put_there_meanwhile(tmp_path: Path) -> None:
    folder = written(tmp_path / "out")
    with pytest.raises(ExportError, match=r"deleted: notes.txt"):
        slowly(folder, lambda: put("notes.txt")(folder), force=True)
    (folder / "notes.txt").unlink()
    check_target(folder, force=True)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_somebody_uses(tmp_path: Path) -> None:
    """A log that is begun anew all the time: sometimes there, sometimes not."""
    folder, done = written(tmp_path / "out"), threading.Event()

    def use() -> None:
        while not done.is_set():
            (folder / "log").write_text("mine")
            (folder / "log").unlink()

    def look() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            check_target(folder, force=True)

    user = threading.Thread(target=use)
    user.start()
    try:
        with pytest.raises(ExportError, match=r"deleted: log\.|changes in the folder"):
            look()
    finally:
        done.set()
        user.join()


def test_a_model_that_another_process_writes_meanwhile(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with pytest.raises(ExportError, match="is not empty"):
        slowly(folder, lambda: written(folder), force=False)
    assert load_file(folder / "model-00001-of-00006.safetensors")["0.bias"].tolist() == [1, 1]
    slowly(folder, lambda: mo.write(recipe(2.0), folder, force=True), force=True)
    assert load_file(folder / "model.safetensors")["0.bias"].tolist() == [5, 5]
    assert list(tmp_path.iterdir()) == [folder]


@contextlib.contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file of this process can grow beyond ``size`` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 10, 100, 300, 700])
def test_a_full_disk_leaves_the_old_folder(tmp_path: Path, size: int) -> None:
    """Wherever it becomes full: at the card, the weights, the list of files."""
    folder = written(tmp_path / "out")
    before = files_of(folder)
    with (
        small_files(size),
        pytest.raises(ExportError, match=r"out' cannot be written: .*too large.*untouched"),
    ):
        mo.write(recipe(2.0), folder, force=True)
    assert files_of(folder) == before
    assert list(tmp_path.iterdir()) == [folder]


def _many_times(folder: str, value: float) -> None:
    for _ in range(15):
        mo.write(recipe(value), folder, force=True)


def test_two_processes_that_write_the_same_folder(tmp_path: Path) -> None:
    running = [
        processes.call(_many_times, str(tmp_path / "out"), value, cwd=tmp_path) for value in (1, 2)
    ]
    for one in running:
        result = one.wait()
        assert result.code == 0, result.err
        said = re.split(r"[\r\n]+", result.err)
        assert [s for s in said if s.strip() and "%|" not in s] == []  # bars, on a busy machine
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
    check_target(tmp_path / "out", force=True)  # one of the two, whole
    weights = load_file(tmp_path / "out/model.safetensors")
    assert len({float(value) for t in weights.values() for value in t.flatten()}) == 1


# -- kill -9 ------------------------------------------------------------------------------------

_EVENTS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.copyfile"}


def _kill_at(step: int, place: str) -> None:
    """Kills this process before the step-th thing that it does to the disk below ``place``."""
    import sys

    seen = 0

    def audit(event: str, args: tuple[object, ...]) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(args[1], str) and args[1] != "r"
        if (event in _EVENTS or writes) and str(args[0]).startswith(place):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


def _replaced_until(step: int, folder: str) -> None:
    _kill_at(step, folder.rpartition("/")[0])
    mo.write(recipe(2.0), folder, force=True, max_shard_size=40)


def _removed_until(step: int, folder: str) -> None:
    _kill_at(step, folder.rpartition("/")[0])
    remove_written(Path(folder))


def _last_step(task: Callable[[int, str], None], tmp_path: Path, wanted: list[object]) -> int:
    """Kills at every step, looks what is there, and lets the next writer put it right.

    Returns:
        How many steps there are.
    """
    folder = tmp_path / "out"
    for step in range(1, 200):
        clear_leftovers(folder)
        if not folder.exists():
            written(folder)
        put("others.txt")(tmp_path)
        put(".out.partial-notes")(tmp_path)
        killed = processes.call(task, step, str(folder), cwd=tmp_path).wait()
        if killed.code == 0:
            return step - 1
        assert killed.code == -signal.SIGKILL, killed.err
        assert not folder.exists() or files_of(folder) in wanted
        written(folder)
        names = {"out", "others.txt", ".out.partial-notes", "reference"}
        assert {p.name for p in tmp_path.iterdir()} == names, step
    raise AssertionError("It never ends.")


def test_killed_at_every_step_of_replacing(tmp_path: Path) -> None:
    (tmp_path / "reference").mkdir()
    old = files_of(written(tmp_path / "reference/out", 1.0))
    new = files_of(written(tmp_path / "reference/new/out", 2.0))
    steps = _last_step(_replaced_until, tmp_path, [old, new])
    assert steps > 20
    assert files_of(tmp_path / "out") == new


def test_killed_at_every_step_of_removing(tmp_path: Path) -> None:
    (tmp_path / "reference").mkdir()
    old = files_of(written(tmp_path / "reference/out", 1.0))
    assert _last_step(_removed_until, tmp_path, [old]) > 10
    assert not (tmp_path / "out").exists()
