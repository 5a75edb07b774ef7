"""Models on the hub: from a cache laid out as the client does it, and from a server."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch

import merge_optuna as mo
from merge_optuna.errors import CheckpointError, HubError
from tests import toys
from tests.hub import Hub, files_of, put_into_cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, offline: what HF_HUB_CACHE and HF_HUB_OFFLINE=1 set."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def test_a_cached_model_is_its_folder(tmp_path: Path, cache: Path) -> None:
    folder = toys.save(toys.llama(), tmp_path / "m", sharded=True)
    commit = put_into_cache(cache, "org/model", files_of(folder))

    checkpoint = mo.Checkpoint("org/model", name="base")

    assert checkpoint.ref == "org/model"
    assert checkpoint.revision == commit
    assert checkpoint.folder == cache / "models--org--model" / "snapshots" / commit
    local = mo.Checkpoint(folder, name="base")
    assert checkpoint == local
    assert checkpoint.config == local.config
    assert all(torch.equal(checkpoint.tensor(n), local.tensor(n)) for n in local.names())


def test_names_without_an_organisation_and_revisions(tmp_path: Path, cache: Path) -> None:
    old = put_into_cache(cache, "gpt", files_of(toys.save(toys.llama(0), tmp_path / "0")), "v1")
    new = put_into_cache(cache, "gpt", files_of(toys.save(toys.llama(1), tmp_path / "1")))

    assert mo.Checkpoint("gpt").revision == new
    assert mo.Checkpoint("gpt", revision="v1").revision == old
    assert mo.Checkpoint("gpt", revision=old).digest == mo.Checkpoint(tmp_path / "0").digest


def test_recipes_travel(tmp_path: Path, cache: Path) -> None:
    """They name the model and its commit, not the place of the cache."""
    first = files_of(toys.save(toys.llama(0), tmp_path / "0"))
    commit = put_into_cache(cache, "org/model", first)
    model = mo.Checkpoint("org/model", name="a")
    recipe = mo.recipes.linear([model, toys.family(tmp_path, experts=0)[0]])

    again = mo.Recipe.from_yaml(recipe.to_yaml())

    assert again == recipe
    assert again.digest == recipe.digest
    assert str(cache) not in recipe.to_yaml()
    assert again.leaves()[0].ref == "org/model"
    assert again.leaves()[0].revision == commit
    # the branch moves on, and a folder of that name appears: the same files are read
    put_into_cache(cache, "org/model", files_of(toys.save(toys.llama(1), tmp_path / "1")))
    toys.save(toys.llama(2), tmp_path / "org" / "model")
    for copied in (again.leaves()[0], copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied.tensor("model.norm.weight").equal(model.tensor("model.norm.weight"))
    # the place of a source is not part of what the recipe is
    local = mo.recipes.linear([mo.Checkpoint(tmp_path / "0", name="a"), recipe.models[1]])
    assert local.digest == recipe.digest


def test_a_local_folder_wins(tmp_path: Path, cache: Path) -> None:
    put_into_cache(cache, "org/model", files_of(toys.save(toys.llama(0), tmp_path / "0")))
    toys.save(toys.llama(1), tmp_path / "org" / "model")

    checkpoint = mo.Checkpoint("org/model")

    assert checkpoint.ref == str(tmp_path / "org" / "model")
    assert checkpoint.revision is None


def test_engine_and_writer_take_it_as_any_source(tmp_path: Path, cache: Path) -> None:
    base, expert = toys.family(tmp_path / "local", experts=1)
    put_into_cache(cache, "org/base", files_of(tmp_path / "local" / "base"))
    cached = mo.Checkpoint("org/base", name="base")

    ours = mo.Engine().load(mo.recipes.linear([cached, expert])).state_dict()
    folder = mo.write(mo.recipes.linear([cached, expert]), tmp_path / "out")

    theirs = mo.Engine().load(mo.recipes.linear([base, expert])).state_dict()
    assert all(torch.equal(ours[name], t) for name, t in theirs.items())
    assert "org/base" in (folder / "README.md").read_text()


def test_bin_files_in_the_cache(tmp_path: Path, cache: Path) -> None:
    folder = toys.save(toys.llama(), tmp_path / "m")
    digest = mo.Checkpoint(folder).digest
    (folder / "model.safetensors").unlink()
    torch.save(toys.llama().state_dict(), folder / "pytorch_model.bin")
    put_into_cache(cache, "org/model", files_of(folder))
    assert mo.Checkpoint("org/model").digest == digest


# -- errors ---------------------------------------------------------------------------------


def refused(ref: str, *words: str, **arguments: str) -> None:
    with pytest.raises(CheckpointError, match=".*".join(map(re.escape, words))):
        mo.Checkpoint(ref, **arguments)


def test_neither_folder_nor_in_the_cache(cache: Path) -> None:
    for ref in ("org/model", "models/bsae", "model"):
        refused(ref, repr(ref), "neither a folder here nor a model in the cache", str(cache))
        refused(ref, "HF_HUB_OFFLINE is set", f"hf download {ref}")


@pytest.mark.parametrize(
    "ref", ["./models/base", "../base", "/models/base", "~/base", "a/b/c", "a b", ".hidden", "a/"]
)
def test_paths_are_no_names(cache: Path, ref: str) -> None:
    refused(ref, "No folder", str(Path(ref).expanduser().absolute()), "Check the path")
    refused(ref, "is a path", "revision='main' is for models on the hub", revision="main")


def test_an_unknown_revision(tmp_path: Path, cache: Path) -> None:
    put_into_cache(cache, "org/model", files_of(toys.save(toys.llama(), tmp_path / "m")), "v1")
    refused("org/model", "'main' of 'org/model'", "not in the cache", "only v1", "HF_HUB_OFFLINE")
    refused("org/model", "'v2' of 'org/model'", "only v1", revision="v2")


def test_an_interrupted_download(tmp_path: Path, cache: Path) -> None:
    files = files_of(toys.save(toys.llama(), tmp_path / "m", sharded=True))
    lost = sorted(name for name in files if name.endswith(".safetensors"))[1]
    del files[lost]
    put_into_cache(cache, "org/model", files)
    refused("org/model", "names 1 shards that are not there", lost, "Download")


def test_a_cached_model_that_is_no_checkpoint(cache: Path) -> None:
    put_into_cache(cache, "org/data", {"README.md": b"# data"})
    refused("org/data", "not a checkpoint", "README.md")


# -- the real client against a server -------------------------------------------------------

CLIENT = """
import json, sys
import merge_optuna as mo
for line in sys.stdin:
    kwargs = json.loads(line)
    call = kwargs.pop("call")
    try:
        if call == "push":
            result = mo.push(**kwargs)
        else:
            c = mo.Checkpoint(kwargs.pop("ref"), **kwargs)
            result = {"revision": c.revision, "digest": c.digest, "folder": str(c.folder)}
            result["files"] = sorted(p.name for p in c.folder.iterdir())
    except mo.errors.MergeOptunaError as error:
        result = f"{type(error).__name__}: {error}"
    print(json.dumps(result), flush=True)
"""


class Client:
    """A process whose environment names the hub, asked call by call."""

    def __init__(self, home: Path, endpoint: str) -> None:
        env = {n: v for n, v in os.environ.items() if not n.startswith(("HF_", "TRANSFORMERS_"))}
        hub = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", CLIENT],
            env={**env, **hub, "NO_PROXY": "127.0.0.1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, call: str, **arguments: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"call": call, **arguments}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def read(self, ref: str, **arguments: object) -> Any:
        return self.ask("read", ref=ref, **arguments)

    def push(self, folder: Path, repo: str, **arguments: object) -> Any:
        return self.ask("push", folder=str(folder), repo=repo, **arguments)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)


def test_download_and_push(tmp_path: Path) -> None:
    folder = toys.save(toys.llama(), tmp_path / "m")
    (folder / "tokenizer.json").write_text("{}")
    digest, model = mo.Checkpoint(folder).digest, files_of(folder)
    without = shutil.copytree(folder, tmp_path / "without")
    for extra in ("tokenizer.json", "generation_config.json"):
        (without / extra).unlink()
    torch.save(toys.llama().state_dict(), tmp_path / "pytorch_model.bin")
    bins = {"pytorch_model.bin": (tmp_path / "pytorch_model.bin").read_bytes()}
    hub = Hub()
    commit = hub.add("org/model", {**model, **bins, "onnx/x.onnx": b"x"})
    hub.add("org/old", {**bins, "config.json": model["config.json"]})
    hub.add("org/gated", model)
    hub.gated.add("org/gated")

    with contextlib.ExitStack() as stack:
        running = contextlib.ExitStack()
        endpoint = running.enter_context(hub.serve())
        client = stack.enter_context(Client(tmp_path / "home", endpoint))

        first = client.read("org/model")
        assert first["revision"] == commit
        assert first["digest"] == digest
        assert first["files"] == sorted(model)
        assert client.read("org/model", revision=commit) == first
        weights = f"GET /org/model/resolve/{commit}/model.safetensors"
        assert hub.requests.count(weights) == 1

        old = client.read("org/old")
        assert old["digest"] == mo.Checkpoint(without).digest
        assert old["files"] == ["config.json", "pytorch_model.bin"]

        said = client.read("org/gated")
        assert f"The model 'org/gated' is gated. Accept its terms at {endpoint}/org/gated" in said
        said = client.read("models/typo")
        assert f"'models/typo' is neither a folder here nor a model at {endpoint}" in said
        said = client.read("org/model", revision="v7")
        assert "CheckpointError: The model 'org/model' has no revision 'v7'" in said

        said = client.push(folder, "lab/merged")
        assert "HubError: You are not logged in, so nothing can be pushed to 'lab/merged'" in said
        said = client.push(folder, "lab/merged", token="hf_wrong")
        assert "HubError: The hub refuses your token" in said
        said = client.push(folder, "other/merged", token=hub.token)
        assert "logged in as 'me' and cannot push to 'other/merged'" in said
        assert "You can push to me, lab" in said
        said = client.push(tmp_path / "none", "lab/merged", token=hub.token)
        assert "HubError: There is no folder" in said
        assert set(hub.repos) == {"org/model", "org/old", "org/gated"}

        said = client.push(folder, "lab/merged", token=hub.token)
        files = hub.repos["lab/merged"]["main"]
        assert {name: c for name, c in files.items() if name != ".private"} == model
        assert said.startswith(f"{endpoint}/lab/merged/commit/")
        said = client.push(folder, "mine", token=hub.token, private=True)
        assert said.startswith(f"{endpoint}/me/mine/commit/")
        assert hub.repos["me/mine"]["main"][".private"] == b"private"

        running.close()
        assert client.read("org/model") == first
        said = client.read("org/other")
        assert "neither a folder here nor a model in the cache" in said
        assert f"{endpoint} does not answer" in said
        said = client.push(folder, "lab/merged", token=hub.token)
        assert "HubError: The hub cannot be reached to push to 'lab/merged'" in said


def test_pushing_offline(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"HF_HUB_OFFLINE is set. Unset it"):
        mo.push(tmp_path, "org/model")
    with pytest.raises(HubError, match=r"'a/b/c' is no name on the hub"):
        mo.push(tmp_path, "a/b/c")
