"""What is copied beside the weights: known files, none from outside, code only if trusted."""

from __future__ import annotations

import importlib.resources
import json
import os
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

import merge_optuna as mo
from merge_optuna.checkpoints._known_files import TEXT_FILES, is_known
from merge_optuna.errors import CheckpointError
from tests import toys
from tests.checkpoints.test_parts import UNET, pipeline
from tests.hub import Hub, files_of, put_into_cache

OURS = {
    *("README.md", "recipe.yaml", "mergekit_config.yml", ".merge_optuna.json"),
    *("model.safetensors", "config.json"),
}
OURS |= {"generation_config.json", "recipe.svg"}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return toys.save(toys.llama(), tmp_path / "base")


def write(folder: Path, **options: bool) -> set[str]:
    """What is there when the merge with ``folder`` as the base is written."""
    checkpoint = mo.Checkpoint(folder, name="base")
    out = folder.parent / "out"
    return set(files_of(mo.write(mo.recipes.linear([checkpoint]), out, **options)))


def refused(folder: Path, *words: object) -> None:
    with pytest.raises(CheckpointError, match=".*".join(re.escape(str(w)) for w in words)):
        write(folder)
    assert not (folder.parent / "out").exists()


# -- which --------------------------------------------------------------------------------------


def test_private_files_are_not_copied(base: Path) -> None:
    for name in (
        "tokenizer_secrets.txt",
        "vocab_of_customers.csv",
        "pickle.model",
        "chat_template_draft.jinja",
        "my_preprocessor_config.json",
        "search.py",
        "modeling_mine.py",
        "additional_chat_templates/notes.txt",
        "tokenizer/vocab.json",
        ".env",
    ):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text("{}")
    assert write(base) == OURS


def test_every_tokenizer_file_of_transformers_is_known() -> None:
    """As its sources name them."""
    sources = importlib.resources.files("transformers").joinpath("models")
    named: set[str] = set()
    for module in Path(str(sources)).glob("*/tokenization*.py"):
        text = module.read_text(encoding="utf-8")
        for block in re.findall(r"VOCAB_FILES_NAMES = \{(.*?)\}", text, re.DOTALL):
            named |= set(re.findall(r':\s*"([\w.-]+)"', block))
    assert len(named) > 15
    assert [name for name in sorted(named) if not is_known(name, TEXT_FILES)] == []


# -- links --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "generation_config.json"])
def test_links_that_lead_out(tmp_path: Path, base: Path, name: str) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text((base / name).read_text() if (base / name).exists() else "{}")
    (base / name).unlink(missing_ok=True)
    (base / name).symlink_to("../secret.json")
    refused(base, base / name, f"leads to '{secret}', which is outside", "Put a copy in")


def test_a_folder_that_leads_out(tmp_path: Path, base: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/key.jinja").write_text("secret")
    (base / "additional_chat_templates").symlink_to(tmp_path / "secrets")
    refused(base, "additional_chat_templates/key.jinja' leads to", tmp_path / "secrets/key.jinja")


@pytest.mark.parametrize("target", ["gone.json", "tokenizer.json", "folder"])
def test_links_that_lead_nowhere(base: Path, target: str) -> None:
    (base / "folder").mkdir()
    (base / "tokenizer.json").symlink_to(target)
    refused(base, "tokenizer.json' cannot be copied", "Restore the checkpoint")


def test_what_is_no_file(base: Path) -> None:
    os.mkfifo(base / "vocab.json")
    refused(base, "vocab.json' cannot be copied", "is not there or is no file")


def test_links_within_a_checkpoint(tmp_path: Path, base: Path) -> None:
    (base / "real").mkdir()
    (base / "real/x").write_text("{}")
    (base / "vocab.json").symlink_to("real/x")
    (base / "merges.txt").symlink_to(base / "vocab.json")
    (tmp_path / "link").symlink_to(base)
    assert write(tmp_path / "link") == OURS | {"vocab.json", "merges.txt"}
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


def test_weights_may_lie_elsewhere(tmp_path: Path, base: Path) -> None:
    """Only tensors are read of them, and people have several disks."""
    (tmp_path / "disk").mkdir()
    (base / "model.safetensors").rename(tmp_path / "disk/model.safetensors")
    (base / "model.safetensors").symlink_to(tmp_path / "disk/model.safetensors")
    assert write(base) == OURS
    assert not (tmp_path / "out/model.safetensors").is_symlink()


def test_a_snapshot_leads_to_the_blobs_of_its_model_only(tmp_path: Path, base: Path) -> None:
    cache = tmp_path / "real/cache"
    commit = put_into_cache(cache, "org/model", files_of(base))
    put_into_cache(cache, "org/other", {"tokenizer.json": b"{}"})
    (tmp_path / "cache").symlink_to(cache)
    snapshot = tmp_path / "cache/models--org--model/snapshots" / commit
    checkpoint = mo.Checkpoint(snapshot, name="base")
    mo.write(checkpoint, tmp_path / "out")
    assert (tmp_path / "out/generation_config.json").is_file()
    other = next((cache / "models--org--other/blobs").iterdir())
    (snapshot / "tokenizer.json").symlink_to(other)
    with pytest.raises(CheckpointError, match=r"models--org--other.*outside of the checkpoint"):
        mo.write(checkpoint, tmp_path / "again")


@pytest.mark.parametrize("name", ["vae/config.json", f"vae/{UNET}.safetensors", "tokenizer"])
def test_links_in_a_pipeline(tmp_path: Path, name: str) -> None:
    base = pipeline(tmp_path / "base", 0)
    (base / name).rename(tmp_path / "secret")
    (base / name).symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match=f"base/{name}.* leads to '{tmp_path}/secret"):
        mo.write(mo.Checkpoint(base, part="unet"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_known_files_of_a_pipeline(tmp_path: Path) -> None:
    base = pipeline(tmp_path / "base", 0)
    expected = set(files_of(base)) | {"README.md", ".merge_optuna.json"}
    for name in ("notes.txt", "vae/key.pem", "unet/search.py", "secrets/config.json"):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text("secret")
    mo.write(mo.Checkpoint(base, part="unet"), tmp_path / "out")
    assert set(files_of(tmp_path / "out")) == expected


def test_no_link_is_pushed(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "id_rsa").write_text("secret")
    (base / "notes").mkdir()
    (base / "notes/key").symlink_to(tmp_path / "id_rsa")
    hub = Hub()
    with hub.serve() as endpoint:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        with pytest.raises(CheckpointError, match=f"notes/key' leads to '{tmp_path}/id_rsa'"):
            mo.push(base, "lab/merged", token=hub.token)
    assert hub.requests == []


# -- code ---------------------------------------------------------------------------------------


def with_code(folder: Path, named: Iterable[str] = ("modeling_mine.Model",)) -> None:
    """Names code in the config, which imports other code."""
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {f"Auto{i}": name for i, name in enumerate(named)}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_mine.py").write_text("import os\nfrom .layers import Layer\n")
    (folder / "layers.py").write_text("from .modeling_mine import Model\nfrom .gone import x\n")
    (folder / "search.py").write_text("import merge_optuna\n")


def test_code_is_copied_only_if_it_is_trusted(tmp_path: Path, base: Path) -> None:
    with_code(base)
    with pytest.warns(UserWarning, match="trust_remote_code=True") as caught:
        assert write(base) == OURS
    (warning,) = caught
    assert "of 'base' names code (layers.py, modeling_mine.py), which" in str(warning.message)
    (tmp_path / "out").rename(tmp_path / "first")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert write(base, trust_remote_code=True) == OURS | {"layers.py", "modeling_mine.py"}


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 100_000, "{"])
def test_settings_that_cannot_be_read(base: Path, text: str) -> None:
    (base / "processor_config.json").write_text(text)
    refused(base, "processor_config.json is n")


def test_code_of_the_tokenizer(tmp_path: Path, base: Path) -> None:
    ja = toys.save(toys.noised(toys.llama(), 1), tmp_path / "ja")
    auto_map = {"AutoTokenizer": ["tokenization_ja.Tokenizer", None]}
    (ja / "tokenizer_config.json").write_text(json.dumps({"auto_map": auto_map}))
    (ja / "tokenization_ja.py").write_text("# ja\n")
    recipe = mo.recipes.linear([mo.Checkpoint(f, name=f.name) for f in (base, ja)])
    out = mo.write(recipe, tmp_path / "out", tokenizer="ja", trust_remote_code=True)
    assert (out / "tokenization_ja.py").read_text() == "# ja\n"


def test_code_in_other_places(tmp_path: Path, base: Path) -> None:
    """Code in another repository is not here; a name cannot lead anywhere else."""
    (tmp_path / "x.py").write_text("secret")
    with_code(base, ["org/repo--modeling.Model", "../x.Model", "/etc/x.Model", "gone.Model"])
    assert write(base, trust_remote_code=True) == OURS


def test_code_that_is_a_link(tmp_path: Path, base: Path) -> None:
    (tmp_path / "elsewhere.py").write_text("secret")
    with_code(base)
    (base / "layers.py").unlink()
    (base / "layers.py").symlink_to(tmp_path / "elsewhere.py")
    refused(base, "layers.py' leads to")


@pytest.mark.parametrize("trusted", [False, True])
def test_code_of_a_pipeline(tmp_path: Path, trusted: bool) -> None:
    base = pipeline(tmp_path / "base", 0)
    index = json.loads((base / "model_index.json").read_text())
    index |= {"unet": ["my_unet", "MyUnet"], "_class_name": ["my_pipeline", "MyPipeline"]}
    (base / "model_index.json").write_text(json.dumps(index))
    code = {"my_pipeline.py", "unet/my_unet.py"}
    for name in (*code, "unet/search.py"):
        (base / name).write_text("pass\n")
    unet = mo.Checkpoint(base, part="unet")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        out = mo.write(unet, tmp_path / "out", trust_remote_code=trusted)
    assert {name for name in files_of(out) if name.endswith(".py")} == (code if trusted else set())
    said = [str(one.message) for one in caught if "trust_remote_code" in str(one.message)]
    assert ["(my_pipeline.py, unet/my_unet.py)" in text for text in said] == [True] * (not trusted)
    torch.testing.assert_close(
        mo.Checkpoint(out, part="unet").tensor("down_blocks.0.conv.weight"),
        unet.tensor("down_blocks.0.conv.weight"),
    )
