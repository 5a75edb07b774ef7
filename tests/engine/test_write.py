"""The written folder: weights, the files around them, memory, errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import merge_optuna as mo
from merge_optuna.engine import Merger
from merge_optuna.errors import ExportError, RecipeError, SourceChanged
from tests import toys, vocabularies

CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"


def tokenizer(words: int) -> PreTrainedTokenizerFast:
    vocabulary = {f"w{i}": i for i in range(words)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="w0", chat_template=CHAT)


# -- weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sharded", [False, True], ids=["single", "sharded"])
def test_weights_are_the_stream_of_tensors(tmp_path: Path, sharded: bool) -> None:
    base, *experts = toys.family(tmp_path, experts=2, sharded=not sharded)
    recipe = mo.recipes.ties(base, experts)

    out = mo.write(recipe, tmp_path / "out", max_shard_size=16_000 if sharded else 10**9)

    assert out == tmp_path / "out"
    files = list(out.glob("*.safetensors"))
    assert (len(files) > 1) == sharded
    written = {name: t for file in files for name, t in load_file(file).items()}
    streamed = dict(mo.engine.tensors(recipe))
    assert written.keys() == streamed.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in streamed.items())
    loaded, info = type(toys.llama()).from_pretrained(out, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    state = loaded.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in streamed.items())


def test_a_written_model_is_a_source(tmp_path: Path) -> None:
    base, ja = toys.family(tmp_path, experts=1)
    mo.write(base, tmp_path / "copy")
    copied = mo.Checkpoint(tmp_path / "copy", name="base")
    assert copied == base
    assert mo.recipes.linear([copied, ja]) == mo.recipes.linear([base, ja])


# -- config and other files ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, "bfloat16", torch.float16])
def test_config_is_the_bases_with_the_data_type_of_the_weights(
    tmp_path: Path, dtype: torch.dtype | str | None
) -> None:
    base, ja = toys.family(tmp_path, lambda: toys.llama(rope_theta=12345.0), experts=1)
    mo.write(mo.recipes.linear([base, ja]), tmp_path / "out", dtype=dtype)
    before = json.loads((tmp_path / "base" / "config.json").read_text())
    after = json.loads((tmp_path / "out" / "config.json").read_text())
    name = str(dtype or "float32").removeprefix("torch.")
    assert after == {**before, "dtype": name}
    assert type(toys.llama()).from_pretrained(tmp_path / "out").dtype == getattr(torch, name)


def test_an_old_config_keeps_its_own_word_for_the_data_type(tmp_path: Path) -> None:
    _, ja = toys.family(tmp_path, experts=1)
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["torch_dtype"] = config.pop("dtype")
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    recipe = mo.recipes.linear([mo.Checkpoint(tmp_path / "base"), ja])
    mo.write(recipe, tmp_path / "out", dtype="bfloat16")
    after = json.loads((tmp_path / "out" / "config.json").read_text())
    assert after == {**config, "torch_dtype": "bfloat16"}
    assert type(toys.llama()).from_pretrained(tmp_path / "out").dtype == torch.bfloat16


def files_around(folder: Path, label: str, words: int) -> None:
    tokenizer(words).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"of": label}))
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text(label)
    (folder / "generation_config.json").write_text(json.dumps({"temperature": words / 100}))
    (folder / "training_args.bin").write_bytes(b"secret")
    (folder / "optimizer.pt").write_bytes(b"large")


@pytest.mark.parametrize("chosen", [None, "base", "ja"])
def test_files_come_from_the_base_and_the_tokenizer_from_the_chosen_source(
    tmp_path: Path, chosen: str | None
) -> None:
    base, ja = toys.family(tmp_path, experts=1)
    files_around(tmp_path / "base", "base", 20)
    files_around(tmp_path / "ja", "ja", 30)
    base, ja = (mo.Checkpoint(one.ref, name=one.name) for one in (base, ja))

    out = mo.write(mo.recipes.ties(base, [ja]), tmp_path / "out", tokenizer=chosen)

    source = tmp_path / (chosen or "base")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    assert json.loads((out / "preprocessor_config.json").read_text()) == {"of": source.name}
    assert (out / "additional_chat_templates" / "tools.jinja").read_text() == source.name
    generation = (tmp_path / "base" / "generation_config.json").read_bytes()
    assert (out / "generation_config.json").read_bytes() == generation
    assert not (out / "training_args.bin").exists()
    assert not (out / "optimizer.pt").exists()
    loaded = AutoTokenizer.from_pretrained(out)
    assert len(loaded) == (30 if chosen == "ja" else 20)
    chat = loaded.apply_chat_template([{"role": "user", "content": "w1 w2"}], tokenize=False)
    assert chat == "<user>w1 w2"


def test_a_module_writes_its_config_and_generation_config(tmp_path: Path) -> None:
    model = toys.llama()
    model.generation_config.max_length = 77
    ja = mo.Checkpoint.from_module(toys.noised(model, 1), name="ja")
    base = mo.Checkpoint.from_module(model, name="base")
    mo.write(mo.recipes.linear([base, ja]), tmp_path / "out", dtype="bfloat16")
    loaded = type(model).from_pretrained(tmp_path / "out")
    assert loaded.dtype == torch.bfloat16
    assert loaded.generation_config.max_length == 77
    assert loaded.config.architectures == ["LlamaForCausalLM"]
    ours, theirs = model.config.to_diff_dict(), loaded.config.to_diff_dict()
    assert {**ours, "dtype": 0, "architectures": 0} == {**theirs, "dtype": 0, "architectures": 0}


# -- recipe and card ----------------------------------------------------------------------------


def test_the_recipe_is_beside_the_weights(tmp_path: Path) -> None:
    base, ja = toys.family(tmp_path, experts=1)
    recipe = mo.recipes.dare_ties(base, [ja], density=0.25)
    mo.write(recipe, tmp_path / "out")
    again = mo.Recipe.from_yaml(tmp_path / "out" / "recipe.yaml")
    assert again == recipe
    mo.write(again, tmp_path / "again")
    weights = [(tmp_path / d / "model.safetensors").read_bytes() for d in ("out", "again")]
    assert weights[0] == weights[1]


def test_the_model_card(tmp_path: Path) -> None:
    base, ja = toys.family(tmp_path, experts=1)
    recipe = mo.recipes.dare_ties(base, [ja], density=0.25)
    score = {"accuracy": 0.875, "examples": 400}
    mo.write(recipe, tmp_path / "merged-7b", score=score, command="python search.py")
    card = (tmp_path / "merged-7b" / "README.md").read_text()
    header, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(header) == {
        "library_name": "transformers",
        "tags": ["merge", "merge_optuna"],
    }
    assert body.count("# merged-7b\n") == 1
    assert "A merge of 2 models" in body
    for checkpoint in (base, ja):
        row = f"| {checkpoint.name} | `{checkpoint.ref}` | `{checkpoint.digest}` |"
        assert row in body.splitlines()
    assert {"| accuracy | 0.875 |", "| examples | 400 |"} <= set(body.splitlines())
    assert recipe.digest in body
    assert mo.Recipe.from_yaml(body.split("```yaml\n")[1].split("```")[0]) == recipe
    assert "```sh\npython search.py\n```" in body


# -- memory -------------------------------------------------------------------------------------

_MEASURED = """
import json, struct, sys, threading, time
from pathlib import Path
import torch
import merge_optuna as mo

torch.set_num_threads(1)
root = Path(sys.argv[1])

def sparse(name, count=96, elements=1 << 18):
    # 96 MiB of zeros, which take no disk
    (root / name).mkdir()
    size = 4 * elements
    header = {f"h.{i}.w": {"dtype": "F32", "shape": [elements],
              "data_offsets": [i * size, (i + 1) * size]} for i in range(count)}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(root / name / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + count * size)
    return mo.Checkpoint(root / name, name=name)

def memory():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024

small = [sparse(f"small{i}", 2, 2) for i in range(3)]
mo.write(mo.recipes.task_arithmetic(small[0], small[1:]), root / "small")  # compiles the kernels
recipe = mo.recipes.task_arithmetic(sparse("base"), [sparse("ja"), sparse("math")])
peak, done = [memory()], threading.Event()

def watch():
    while not done.wait(0.002):
        peak.append(memory())

thread = threading.Thread(target=watch)
thread.start()
mo.write(recipe, root / "out", max_shard_size=30 << 20)
done.set()
thread.join()
print(len(peak), max(peak) - peak[0])
"""


def test_writing_takes_the_memory_of_a_few_tensors(tmp_path: Path) -> None:
    """A model of 96 MiB in 96 tensors, of which one part is held."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    measured, growth = map(float, done.stdout.split())
    size = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    shutil.rmtree(tmp_path / "out")
    assert size > 96 << 20
    assert measured > 20
    assert growth < 16


# -- errors -------------------------------------------------------------------------------------


def test_output_folder_not_empty(tmp_path: Path) -> None:
    base, ja = toys.family(tmp_path, experts=1)
    recipe = mo.recipes.linear([base, ja])
    mo.write(recipe, tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    with pytest.raises(ExportError, match=r"out' is not empty.*force=True \(--force\)"):
        mo.write(base, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    mo.write(base, tmp_path / "out", force=True)
    assert mo.Checkpoint(tmp_path / "out", name="base") == base
    assert not (tmp_path / "out" / "recipe.yaml").exists()


@pytest.mark.parametrize("target", ["ja", ".", "link"])
def test_a_source_is_not_overwritten(tmp_path: Path, target: str) -> None:
    base, ja = toys.family(tmp_path / "models", experts=1)
    (tmp_path / "models" / "link").symlink_to("ja")
    with pytest.raises(ExportError, match=r"holds '(ja|base)', a source of this merge"):
        mo.write(mo.recipes.linear([base, ja]), tmp_path / "models" / target, force=True)
    assert mo.Checkpoint(tmp_path / "models" / "ja", name="ja") == ja


def test_a_file_of_a_source_is_not_overwritten(tmp_path: Path) -> None:
    base, ja = toys.family(tmp_path, experts=1)
    mo.write(ja, tmp_path / "out")
    weights = tmp_path / "ja" / "model.safetensors"
    weights.unlink()
    weights.symlink_to(tmp_path / "out" / "model.safetensors")
    with pytest.raises(ExportError, match="out' holds 'ja', a source of this merge"):
        mo.write(mo.recipes.linear([base, ja]), tmp_path / "out", force=True)
    assert mo.Checkpoint(tmp_path / "ja", name="ja") == ja


def test_a_link_as_target(tmp_path: Path) -> None:
    base, ja = toys.family(tmp_path, experts=1)
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    mo.write(mo.recipes.linear([base, ja]), tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "model.safetensors").is_file()


def test_a_relative_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (base,) = toys.family(tmp_path, experts=0)
    monkeypatch.chdir(tmp_path)
    assert mo.write(base, "here/../there") == tmp_path / "there"
    assert (tmp_path / "there" / "model.safetensors").is_file()


def test_unknown_tokenizer_source(tmp_path: Path) -> None:
    base, ja = toys.family(tmp_path, experts=1)
    with pytest.raises(RecipeError, match=r"No source is called 'jp'; .*one of base, ja"):
        mo.write(mo.recipes.linear([base, ja]), tmp_path / "out", tokenizer="jp")
    assert not (tmp_path / "out").exists()


def test_numbers_that_float16_does_not_reach(tmp_path: Path) -> None:
    module = nn.Linear(3, 2)
    with torch.no_grad():
        module.weight[1, 2] = 70_000.0
    base = mo.Checkpoint.from_module(module, name="base")
    twice = mo.recipes.linear([base], weight=[2.0], normalize=False)
    for recipe in (base, twice):
        with pytest.raises(ExportError, match=r"weight has values beyond 65504, which float16"):
            mo.write(recipe, tmp_path / "out", dtype="float16")
    assert list(tmp_path.iterdir()) == []
    mo.write(twice, tmp_path / "out", dtype="bfloat16")
    # Infinity that a source holds already, e.g. in a mask, is only copied.
    module.half().weight[1, 2].detach().fill_(float("-inf"))
    masked = mo.Checkpoint.from_module(module, name="masked")
    mo.write(mo.recipes.linear([masked], exclude=["weight"]), tmp_path / "masked")


def test_errors_leave_nothing_behind(tmp_path: Path) -> None:
    base, ja = toys.family(tmp_path, experts=1)
    before = {path.name for path in tmp_path.iterdir()}
    space = mo.recipes.linear([base, ja], weight=mo.free(0, 1))
    with pytest.raises(RecipeError, match="free numbers"):
        mo.write(space, tmp_path / "out")
    with pytest.raises(RecipeError, match="dtype must be"):
        mo.write(base, tmp_path / "out", dtype="bf16")
    weights = [mo.per_group([1, 1, 1, 1]), mo.per_group([1, 1, -1, 1])]
    infeasible = mo.recipes.linear([base, ja], weight=weights)
    with pytest.raises(mo.errors.InfeasibleRecipe):
        mo.write(infeasible, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == before


# -- mergekit's YAML ------------------------------------------------------------------------


def test_what_mergekit_can_do_is_written_for_it_too(tmp_path: Path) -> None:
    base, *experts = toys.family(tmp_path / "models")
    recipe = mo.recipes.task_arithmetic(base, experts, weight=[0.1, 0.2, 0.3])
    folder = mo.write(recipe, tmp_path / "out", dtype="bfloat16")
    again = mo.Recipe.from_mergekit(folder / "mergekit_config.yml", strict=True)
    assert again == recipe.with_fields(dtype="bfloat16")
    assert mo.Recipe.read(folder / "recipe.yaml") == recipe


def test_what_mergekit_cannot_do_is_not(tmp_path: Path) -> None:
    base, *experts = toys.family(tmp_path / "models")
    folder = mo.write(mo.recipes.rankmean(base, experts), tmp_path / "out")
    assert not (folder / "mergekit_config.yml").exists()


def test_a_source_that_changes_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new folder never takes the place of the old one."""
    base, ja = toys.family(tmp_path, experts=1)
    recipe = mo.recipes.linear([base, ja])
    out = mo.write(recipe, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    file = tmp_path / "ja" / "model.safetensors"
    plan = Merger.plan

    def plan_of_a_changed_source(self: Merger, *arguments: Any) -> Any:
        with open(file, "r+b") as opened:
            opened.seek(-4, os.SEEK_END)
            opened.write(b"\0\0\0\1")
        return plan(self, *arguments)

    monkeypatch.setattr(Merger, "plan", plan_of_a_changed_source)
    with pytest.raises(SourceChanged, match=r"model\.safetensors was written to"):
        mo.write(recipe, out, force=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_path_through_a_common_vocabulary_is_written_without_it(tmp_path: Path) -> None:
    """mergekit has the layers, but not the same rows."""
    models = vocabularies.word_family(tmp_path / "models")
    recipe = mo.Recipe(
        method="path",
        models=tuple(models[:2]),
        path={"hops": "A0-B1", "head_from": 1},
        tokenizer="union",
    )
    folder = mo.write(recipe, tmp_path / "out")
    assert not (folder / "mergekit_config.yml").exists()
    with pytest.raises(RecipeError, match="tokenizer"):
        recipe.to_mergekit()
