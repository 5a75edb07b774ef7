"""No trial is kept that was scored on other weights than the study records."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from safetensors.torch import load_file, save_file
from torch import nn

import merge_optuna as mo
from merge_optuna._schema import SURPLUS
from merge_optuna.engine._refilled import Refilled
from merge_optuna.errors import SourceChanged, StudyError
from tests import processes, toys
from tests.adapters import lora_family
from tests.checkpoints.test_digest import CONFIG

optuna.logging.set_verbosity(optuna.logging.ERROR)


def overwrite(file: Path) -> None:
    """In place, with tensors of the same names and shapes."""
    tensors = {name: tensor + 1 for name, tensor in load_file(file).items()}
    save_file(tensors, file.with_suffix(".new"), metadata={"format": "pt"})
    file.write_bytes(file.with_suffix(".new").read_bytes())
    file.with_suffix(".new").unlink()


def replace(file: Path) -> None:
    other = file.with_name(file.name + ".other")
    shutil.copy(file, other)
    overwrite(other)
    other.replace(file)


def flip(file: Path) -> None:
    """The last byte, with the time of the last write set back."""
    stat = file.stat()
    with open(file, "r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        last = opened.read(1)[0]
        opened.seek(-1, os.SEEK_END)
        opened.write(bytes([last ^ 1]))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "overwritten": (overwrite, "was written to or replaced"),
    "one bit": (flip, "was written to or replaced"),
    "replaced": (replace, "was written to or replaced"),
    "truncated": (
        lambda file: os.truncate(file, file.stat().st_size // 2),
        "was cut short or rewritten",
    ),
    "emptied": (lambda file: os.truncate(file, 0), "was cut short or rewritten"),
    "deleted": (Path.unlink, "is gone"),
}


def edit_config(folder: Path) -> None:
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"silu"', '"gelu"'))


class Search:
    """A search that does something to its sources while trial 3 is evaluated."""

    def __init__(self, recipe: mo.Recipe) -> None:
        self.recipe = recipe
        self.seen: list[float] = []
        self.then: Callable[[], object] = lambda: None
        self.objective = mo.MergeObjective(recipe, self.score)
        sampler = mo.samplers.DESampler(recipe.distributions(), population_size=4, seed=3)
        self.study = optuna.create_study(
            sampler=sampler, directions=self.objective.directions, load_if_exists=True
        )

    def score(self, model: nn.Module) -> float:
        self.seen.append(float(sum(p.double().sum() for p in model.parameters())))
        if len(self.seen) == 4:
            self.then()
        return self.seen[-1]

    def run(self, n: int) -> None:
        self.study.optimize(self.objective, n_trials=n)

    @property
    def states(self) -> list[TrialState]:
        return [trial.state for trial in self.study.trials]


KINDS = ("whole", "sharded", "adapter", "base of an adapter", "path")


def made(kind: str, root: Path) -> tuple[mo.Recipe, Path]:
    """A space, and a file that it reads."""
    if "adapter" in kind:
        base, *loras = lora_family(root, toys.llama(), ["q_proj"])
        recipe = mo.recipes.dare_ties(base, loras, weight=mo.free(0, 1))
        file = "base/model.safetensors" if "base" in kind else None
        return recipe, root / file if file else Path(loras[0].ref, "adapter_model.safetensors")
    base, ja, math = toys.family(root, experts=2, sharded=kind == "sharded")
    file = sorted((root / "ja").glob("*.safetensors"))[-1]
    if kind == "path":
        merged = mo.recipes.ties(base, [ja, math], density=mo.free(0.2, 1))
        return merged, file
    return mo.recipes.dare_ties(base, [ja, math], weight=mo.free(0, 1)), file


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["whole", "sharded", "adapter", "base of an adapter"])
def test_a_change_ends_the_search_and_no_trial_is_kept(
    kind: str, change: str, tmp_path: Path
) -> None:
    untouched = Search(made(kind, tmp_path / "untouched")[0])
    untouched.run(8)
    recipe, file = made(kind, tmp_path / "m")
    search, kept = Search(recipe), tmp_path / "kept"
    shutil.copy2(file, kept)
    do, said = CHANGES[change]
    search.then = lambda: do(file)

    with pytest.raises(SourceChanged, match=f"{file} {said} since .*Nothing that was made of it"):
        search.run(8)
    assert search.states == [TrialState.COMPLETE] * 3 + [TrialState.FAIL]
    assert search.study.trials[3].system_attrs[SURPLUS] == "source changed"
    assert "error" not in search.study.trials[3].user_attrs
    with pytest.raises(SourceChanged, match=str(file)):  # nor is anything read from now on
        search.run(1)
    assert search.states[3:] == [TrialState.FAIL] * 2

    shutil.copy2(kept, file)
    with pytest.warns(UserWarning, match=f"{file} was .* the content is the same"):
        search.run(5)
    done = [t for t in search.study.trials if t.state == TrialState.COMPLETE]
    assert [(t.params, t.values) for t in done] == [
        (t.params, t.values) for t in untouched.study.trials
    ]


@pytest.mark.parametrize("what", ["config.json", "generation_config.json"])
def test_texts_are_looked_at_too(what: str, tmp_path: Path) -> None:
    search = Search(made("whole", tmp_path)[0])
    search.then = lambda: (tmp_path / "ja" / what).write_text('{"eos_token_id": 7}')
    with pytest.raises(SourceChanged, match=f"ja/{what} was .*config, tokenizer or other texts"):
        search.run(8)
    assert search.states == [TrialState.COMPLETE] * 3 + [TrialState.FAIL]


def test_a_changed_config_is_noticed_at_resume(tmp_path: Path) -> None:
    def space() -> mo.Recipe:
        base, ja = (mo.Checkpoint(tmp_path / name, name=name) for name in ("base", "ja"))
        return mo.recipes.dare_ties(base, [ja], weight=mo.free(0, 1))

    toys.family(tmp_path, experts=1)
    search = Search(space())
    search.run(1)
    files = [tmp_path / name / "config.json" for name in ("base", "ja")]  # else they do not fit
    texts = [file.read_text() for file in files]
    for key, value in CONFIG.items():
        for file, text in zip(files, texts, strict=True):
            file.write_text(json.dumps(json.loads(text) | {key: value}))
        search.objective.space = space()
        with pytest.raises(
            StudyError, match=r"another space: sources .*ja \(2:.*\), now .*ja \(2:"
        ):
            search.objective.check_study(search.study)
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    search.objective.space = space()
    search.objective.check_study(search.study)


def test_layer_paths_are_looked_at(tmp_path: Path) -> None:
    base, ja = toys.family(tmp_path, experts=1)
    engine = mo.Engine()
    engine.load(mo.recipes.path("A0-B1", [base, ja]))
    overwrite(tmp_path / "ja/model.safetensors")
    with pytest.raises(SourceChanged, match=r"ja/model\.safetensors was written to or replaced"):
        engine.load(mo.recipes.path("B0-B1", [base, ja]))


def test_what_is_only_touched_does_not_end_a_search(tmp_path: Path) -> None:
    recipe, file = made("whole", tmp_path)
    search = Search(recipe)
    search.then = file.touch
    with pytest.warns(UserWarning, match=f"{file} was written to or replaced.* goes on"):
        search.run(8)
    assert search.states == [TrialState.COMPLETE] * 8
    assert len(set(search.seen)) == 8


def test_a_change_while_it_is_read_is_not_kept_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file comes back before anybody looks: only its time tells."""
    recipe, file = made("whole", tmp_path)
    engine, expected = mo.Engine(), {}
    bound = recipe.bind(recipe.start())
    expected = {n: t.clone() for n, t in mo.Engine().load(bound).state_dict().items()}
    content = file.read_bytes()
    times = []
    original = Refilled._refill

    def refill(self: Refilled, *args: Any) -> None:
        if not times:
            overwrite(file)
        original(self, *args)
        times.append(1)
        if len(times) == len(expected):
            file.write_bytes(content)

    monkeypatch.setattr(Refilled, "_refill", refill)
    with pytest.warns(UserWarning, match="the content is the same"):
        loaded = engine.load(bound).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    assert len(times) >= 2 * len(expected)


def test_a_file_that_never_rests_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, file = made("whole", tmp_path)
    original = Refilled._refill

    def refill(self: Refilled, *args: Any) -> None:
        original(self, *args)
        file.touch()

    monkeypatch.setattr(Refilled, "_refill", refill)
    with (
        pytest.warns(UserWarning, match="the content is the same"),
        pytest.raises(SourceChanged, match=r"of base, ja, math is touched again and again"),
    ):
        mo.Engine().load(recipe.bind(recipe.start()))


def test_what_is_written_is_looked_at_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, file = made("whole", tmp_path)
    bound, content = recipe.bind(recipe.start()), file.read_bytes()
    overwrite(file)
    with pytest.raises(SourceChanged, match=f"{file} was written to or replaced"):
        mo.write(bound, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    file.write_bytes(content)

    original = mo.engine.Merger.threads

    def threads(self: Any, source: Any) -> int:  # asked for just before the first tensor
        overwrite(file)
        return original(self, source)

    monkeypatch.setattr(mo.engine.Merger, "threads", threads)
    with (
        pytest.warns(UserWarning, match="the content is the same"),
        pytest.raises(SourceChanged, match=f"{file} was written to or replaced"),
    ):
        mo.write(bound, tmp_path / "out")
    assert not (tmp_path / "out").exists()


SCRIPT = """
import sys
import time
from pathlib import Path
import optuna
import torch
import merge_optuna as mo

root, url = Path(sys.argv[1]), sys.argv[2]
base, ja, math = (mo.Checkpoint(root / name, name=name) for name in ("base", "ja", "math"))
recipe = mo.recipes.dare_ties(base, [ja, math], weight=mo.free(0, 1))
seen = []

def score(model):
    seen.append(1)
    if len(seen) == 4:
        Path("now").touch()
        while not Path("changed").exists():
            time.sleep(0.01)
    return float(model.model.embed_tokens.weight.double().sum())

study = mo.MergeStudy("s", mo.MergeObjective(recipe, score), n_trials=8, baselines=False)
if __name__ == "__main__":
    study.run(url, progress=False)
"""


@pytest.mark.parametrize("change", ["overwritten", "truncated", "deleted"])
def test_in_a_process_of_its_own(change: str, tmp_path: Path) -> None:
    toys.family(tmp_path, experts=2)
    file = tmp_path / "ja/model.safetensors"
    shutil.copy2(file, tmp_path / "kept")
    (tmp_path / "search.py").write_text(SCRIPT)
    url = f"sqlite:///{tmp_path}/s.db"

    def start() -> processes.Running:
        return processes.script(tmp_path / "search.py", tmp_path, url, cwd=tmp_path)

    process = start()
    while process.alive and not (tmp_path / "now").exists():
        time.sleep(0.01)
    CHANGES[change][0](file)
    (tmp_path / "changed").touch()
    ended = process.wait()
    assert ended.code == 1, ended.err
    assert f"SourceChanged: {file} {CHANGES[change][1]} since 'ja' was opened" in ended.err

    states = [t.state for t in optuna.load_study(study_name="s", storage=url).trials]
    assert states == [TrialState.COMPLETE] * 3 + [TrialState.FAIL]
    if change != "overwritten":
        return  # the rest is the same for all, and takes seconds

    shutil.copy2(tmp_path / "kept", file)
    ended = start().wait()
    assert ended.code == 0, ended.err
    study = optuna.load_study(study_name="s", storage=url)
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.COMPLETE) == 8
    assert states[3] == TrialState.FAIL


def cut_short(root: Path) -> None:
    """Loads a checkpoint whose file ends in the middle of it."""
    file = root / "base/model.safetensors"
    original = Refilled._refill

    def refill(self: Refilled, *args: Any) -> None:
        os.truncate(file, 0)
        original(self, *args)

    Refilled._refill = refill  # type: ignore[method-assign]
    mo.Engine().load(mo.Checkpoint(file.parent))


def test_a_file_cut_short_in_the_middle_ends_the_process_with_a_word(tmp_path: Path) -> None:
    toys.family(tmp_path, experts=0)
    done = processes.call(cut_short, tmp_path, cwd=tmp_path).wait()
    assert done.code == -signal.SIGBUS
    assert "Fatal Python error: Bus error" in done.err
    assert "in steadily" in done.err
