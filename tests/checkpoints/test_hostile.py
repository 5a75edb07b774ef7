"""Damaged and hostile files of checkpoints, adapters and data: each is refused with a sentence."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

import merge_optuna as mo
from merge_optuna.checkpoints import chat_template_of
from merge_optuna.checkpoints._tensor_files import SafetensorsFile
from tests import toys
from tests.hostile import check_refused

Header = dict[str, Any]
FIRST = "lm_head.weight"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    toys.llama().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    get_peft_model(toys.llama(), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(
        folder
    )
    return folder


def with_file(model: Path, folder: Path, name: str, content: bytes | str) -> Path:
    made = folder / "made"
    shutil.copytree(model, made)
    (made / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return made


def refused(folder: Path, sentence: str, **options: Any) -> None:
    check_refused(lambda: mo.Checkpoint(folder, **options).config, sentence)


# -- safetensors ------------------------------------------------------------------------------


def entry(**changes: Any) -> Callable[[Header], object]:
    return lambda header: header[FIRST].update(changes)


def more(name: str, shape: list[int]) -> Callable[[Header], object]:
    added = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
    return lambda header: header.update({name: added})


HEADERS: list[tuple[Callable[[Header], object], str]] = [
    (entry(data_offsets=[False, 8192]), "the header has no valid entry for 'lm_head.weight'"),
    (entry(data_offsets=[-4, 4]), "no valid entry for 'lm_head.weight'"),
    (entry(data_offsets=[0.0, 4.0]), "no valid entry for 'lm_head.weight'"),
    (entry(shape=[-1, -1]), "no valid entry for 'lm_head.weight'"),
    (entry(shape=[2**40, 2**40]), "no valid entry for 'lm_head.weight'"),
    (entry(shape=[1] * 100 + [64, 32]), "no valid entry for 'lm_head.weight'"),
    (entry(dtype="F33"), "has the data type F33, which is not supported."),
    (entry(dtype=[]), "no valid entry for 'lm_head.weight'"),
    (more("z", [0, 2**70]), "no valid entry for 'z'"),
    (more("", [0]), "no valid entry for ''"),
    (more("x" * 10**6, [0]), "no valid entry for 'xxx"),
    (more("\ud800/../x", [0]), r"no valid entry for '\ud800/../x'"),
    (lambda header: header.update(z=header[FIRST]), "does not fit its shape or its neighbour"),
    (lambda header: header.update(z=5), "no valid entry for 'z'"),
]


@pytest.mark.parametrize(("change", "sentence"), HEADERS)
def test_headers(
    model: Path, tmp_path: Path, change: Callable[[Header], object], sentence: str
) -> None:
    data = (model / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    made = struct.pack("<Q", len(text)) + text + data[8 + size :]
    refused(with_file(model, tmp_path, "model.safetensors", made), sentence)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"[" * 50_000, "the header is nested more than 100 deep"),
        (b'{"a": {}, "a": {}}', "the header has 'a' twice in one object"),
        (b'{"a": [' + b"0," * 4_000_000 + b"0]}", "the header holds more than 3,000,000 values"),
        (b'{"a": ' + b"9" * 5000 + b"}", "the header is not valid JSON: Exceeds the limit"),
        (b"\xff\xfe{}", "the header is no text"),
    ],
)
def test_headers_that_are_none(model: Path, tmp_path: Path, text: bytes, sentence: str) -> None:
    made = struct.pack("<Q", len(text)) + text
    refused(with_file(model, tmp_path, "model.safetensors", made), sentence)


def test_a_header_of_100_000_tensors(tmp_path: Path) -> None:
    """A third of what is said to be read; a mixture of experts can have as many."""
    added = {"dtype": "F32", "shape": [0, 1, 1, 1], "data_offsets": [0, 0]}
    names = [f"model.layers.{i}.mlp.experts.w" for i in range(100_000)]
    text = json.dumps(dict.fromkeys(names, added)).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    assert SafetensorsFile(file).specs[names[-1]] == (torch.float32, (0, 1, 1, 1))


@pytest.mark.parametrize("length", [0, 2**63, 2**64 - 1])
def test_lengths_of_headers(model: Path, tmp_path: Path, length: int) -> None:
    made = struct.pack("<Q", length) + b"{}"
    refused(with_file(model, tmp_path, "model.safetensors", made), "is damaged or cut short")


@pytest.mark.parametrize(
    "place",
    ["../model.safetensors", "/dev/zero", "", ".", "..", "a\0b", "x" * 10**5, 5, [1], None],
)
def test_an_index_that_points_outside_of_its_folder(
    model: Path, tmp_path: Path, place: Any
) -> None:
    index = json.dumps({"weight_map": {FIRST: place}})
    made = with_file(model, tmp_path, "model.safetensors.index.json", index)
    (made / "model.safetensors").rename(tmp_path / "model.safetensors")
    refused(made, "which is no file in its folder. Download the checkpoint again.")


# -- pickles ----------------------------------------------------------------------------------


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {os.environ['MERGE_OPTUNA_TEST_EVIL']}",)


def saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def repacked(change: Callable[[dict[str, bytes]], object], how: int = zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile(io.BytesIO(saved({name: torch.ones(300) for name in "ab"}))) as file:
        files = {name: file.read(name) for name in file.namelist()}
    change(files)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", how) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return made.getvalue()


def pickled(data: bytes) -> bytes:
    return repacked(lambda files: files.update({"archive/data.pkl": data}))


BINS: list[tuple[Callable[[], bytes], str]] = [
    (lambda: saved({"a": Evil()}), "holds Python objects besides tensors, which are not loaded"),
    (lambda: saved({"a": Evil()}, _use_new_zipfile_serialization=False), "holds Python objects"),
    (lambda: pickle.dumps(Evil()), "is damaged or cut short, or no file of tensors"),
    (lambda: pickled(pickle.dumps(Evil())), "pytorch_model.bin"),
    (lambda: pickled(b"junk"), "is damaged or cut short"),
    (lambda: pickled(b"\x80\x02h\x05."), "is damaged or cut short"),
    (lambda: pickled(b"\x80\x02K\x05Q."), "is damaged or cut short"),
    (lambda: pickled(b"\x80\x02" + b"(" * 10**6 + b"."), "is damaged or cut short"),
    (lambda: pickled(b"\x80\x02B\xff\xff\xff\x7f."), "is damaged or cut short"),
    (lambda: repacked(lambda f: f, zipfile.ZIP_DEFLATED), "is damaged or cut short"),
    (lambda: repacked(lambda f: f.update({"archive/data/0": b"xx"})), "in another form than"),
    (lambda: repacked(lambda f: f.pop("archive/data/0")), "is damaged or cut short"),
    (lambda: saved({1: torch.ones(3)}), "holds 1 in another form than the numbers that are in it"),
    (lambda: saved({"a": torch.eye(3).to_sparse()}), "holds 'a' in another form than"),
    (lambda: saved({"a": torch.ones(3, device="meta")}), "holds 'a' in another form than"),
    (lambda: saved({"a": torch.ones(1).expand(10**9)}), "holds 'a' in another form than"),
    (lambda: saved({"\ud800": torch.ones(2)}), r"holds '\ud800' in another form than"),
    (lambda: b"x" * 10**6, "is damaged or cut short"),
]


@pytest.mark.parametrize(("make", "sentence"), BINS)
def test_pickles(
    model: Path,
    tmp_path: Path,
    make: Callable[[], bytes],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MERGE_OPTUNA_TEST_EVIL", str(tmp_path / "evil"))
    made = with_file(model, tmp_path, "pytorch_model.bin", make())
    (made / "model.safetensors").unlink()
    refused(made, sentence)
    assert not (tmp_path / "evil").exists()


# -- configs and texts ------------------------------------------------------------------------

CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"architectures": 5}, "architectures in "),
    ({"architectures": [5]}, "must be a list of names, not [5]. Restore the file."),
    ({"model_type": ["x"]}, "must be a name, not ['x']. Restore the file."),
    ({"hidden_size": "abc"}, "must be a whole number, not 'abc'. Restore the file."),
    ({"hidden_size": True}, "must be a whole number, not True. Restore the file."),
    (
        {"hidden_size": 10**9},
        "is 1000000000, which does not go with its 21 tensors, of at most 64",
    ),
    ({"num_hidden_layers": 10**9}, "is 1000000000, which does not go with its 21 tensors"),
    ({"text_config": {"num_hidden_layers": 10**9}}, "num_hidden_layers in "),
    ({"num_experts": 10**7}, "num_experts in "),
    ({"rope_parameters": 5}, "must be a table, not 5. Restore the file."),
    ({"dtype": ["float32"]}, "must be the name of a data type, not ['float32']. Restore the"),
    ({"id2label": {"x": "y"}}, "must be a table, not {'x': 'y'}. Restore the file."),
]


@pytest.mark.parametrize(("fields", "sentence"), CONFIGS)
def test_configs(model: Path, tmp_path: Path, fields: dict[str, Any], sentence: str) -> None:
    config = json.loads((model / "config.json").read_text())
    refused(with_file(model, tmp_path, "config.json", json.dumps(config | fields)), sentence)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_attention_heads": 0},
        {"vocab_size": None},
        {"dtype": "nope"},
        {"tie_word_embeddings": "x"},
        {"architectures": ["AutoTokenizer"]},
    ],
)
def test_settings_that_only_transformers_can_judge(
    model: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    config = json.loads((model / "config.json").read_text())
    made = with_file(model, tmp_path, "config.json", json.dumps(config | fields))
    pair = [mo.Checkpoint(made, name="x"), mo.Checkpoint(model, name="y")]
    recipe = mo.recipes.linear(pair)
    check_refused(lambda: mo.Engine().load(recipe), "transformers cannot make a ")


def test_a_config_that_makes_transformers_fail_in_a_way_of_its_own(
    model: Path, tmp_path: Path
) -> None:
    config = json.loads((model / "config.json").read_text())
    text = json.dumps(config | {"attention_dropout": 0.5, "x": {"y": {"dtype": [1]}}})
    made = mo.Checkpoint(with_file(model, tmp_path, "config.json", text), name="x")
    recipe = mo.recipes.linear([made, mo.Checkpoint(model, name="y")])
    check_refused(lambda: recipe.slots, "The configs of 'y' and 'x' give weights another meaning")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("tokenizer_config.json", "[]", "tokenizer_config.json holds no JSON object"),
        ("tokenizer_config.json", "[" * 50_000, "is nested more than 100 deep"),
        ("tokenizer_config.json", '{"chat_template": 5}', "chat_template of 'x' in"),
        ("tokenizer_config.json", '{"chat_template": {"a": 1}}', "is no text: {'a': 1}."),
        ("chat_template.jinja", b"\xff\xfe", "is no text in UTF-8"),
        ("chat_template.jinja", "x" * 2_000_000, "is longer than 1,000,000 characters"),
    ],
)
def test_texts(
    model: Path, tmp_path: Path, name: str, content: str | bytes, sentence: str
) -> None:
    made = with_file(model, tmp_path, name, content)
    check_refused(lambda: chat_template_of(mo.Checkpoint(made, name="x")), sentence)


# -- adapters ---------------------------------------------------------------------------------

SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"lora_alpha": "x"}, "'lora_alpha' in "),
    ({"lora_alpha": None}, "must be a number, not None. Restore the file."),
    ({"lora_alpha": float("nan")}, "must be a number, not nan. Restore the file."),
    ({"lora_alpha": 10**400}, "must be a number, not a whole number of 1,329 bits."),
    ({"alpha_pattern": 5}, "must be a table, not 5. Restore the file."),
    ({"alpha_pattern": {"q": "x"}}, "'q' in "),
    ({"alpha_pattern": {"(": 1}}, "has '(', which is no pattern of names."),
    ({"alpha_pattern": {"(a|.)*!": 1}}, "has '(a|.)*!', which is no pattern of names."),
    ({"peft_type": "PROMPT_TUNING"}, "it adds tokens or activations"),
]


@pytest.mark.parametrize(("fields", "sentence"), SETTINGS)
def test_settings_of_adapters(
    model: Path, adapter: Path, tmp_path: Path, fields: dict[str, Any], sentence: str
) -> None:
    settings = json.loads((adapter / "adapter_config.json").read_text()) | fields
    made = with_file(adapter, tmp_path, "adapter_config.json", json.dumps(settings))
    refused(made, sentence, base=mo.Checkpoint(model))


@pytest.mark.parametrize(
    "fields", [{"peft_type": "NOPE"}, {"init_lora_weights": "nope"}, {"lora_bias": True}]
)
def test_settings_that_only_peft_can_judge(
    model: Path, adapter: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    settings = json.loads((adapter / "adapter_config.json").read_text()) | fields
    made = with_file(adapter, tmp_path, "adapter_config.json", json.dumps(settings))

    def read() -> object:
        checkpoint = mo.Checkpoint(made, base=mo.Checkpoint(model))
        return [checkpoint.tensor(name) for name in checkpoint.names()]

    check_refused(read, "peft cannot merge the adapter")


@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        ([1], "says that its base is [1]"),
        ("x" * 10**5, "cannot be opened: 'xxx"),
        ("SELF", "has itself as its base (base_model_name_or_path in adapter_config.json)."),
    ],
)
def test_bases_of_adapters(adapter: Path, tmp_path: Path, base: Any, sentence: str) -> None:
    place = str(tmp_path / "made") if base == "SELF" else base
    settings = json.loads((adapter / "adapter_config.json").read_text())
    text = json.dumps({**settings, "base_model_name_or_path": place})
    refused(with_file(adapter, tmp_path, "adapter_config.json", text), sentence)


# -- dev data ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("[" * 50_000, "line 1 is nested more than 100 deep"),
        ('{"text": "a", "label": 0, "label": 1}', "line 1 has 'label' twice in one object."),
        ('{"text": "a", "label": ' + "9" * 400 + "}", "is not an integer: labels must be all"),
        ('{"text": "a", "label": ' + "9" * 5000 + "}", "line 1 is not valid JSON: Exceeds"),
        ("\0", "line 1 is not valid JSON"),
        ("x" * 11_000_000, "line 1 is longer than 10,000,000 characters"),
    ],
    ids=str.__len__,
)
def test_json_lines(tmp_path: Path, line: str, sentence: str) -> None:
    path = tmp_path / "dev.jsonl"
    path.write_text(line)
    check_refused(lambda: mo.evaluators.Classification(path), sentence)


def test_paths_of_data_that_are_none() -> None:
    check_refused(lambda: mo.evaluators.Classification("x" * 10**5), "No file 'xxx")
    check_refused(lambda: mo.evaluators.Classification("a\0b"), r"No file 'a\x00b'.")


_BOMBS = """
import resource, sys
import merge_optuna as mo
from merge_optuna.errors import MergeOptunaError

import datasets, torch, transformers
mo.Checkpoint(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for call in (
    lambda: mo.evaluators.Classification(sys.argv[2]),
    lambda: mo.depth(10**9),
    lambda: mo.recipes.LayerPath.parse("A[0:999999]"),
    lambda: mo.recipes.LayerPath.parse("A0-" * 10**6),
    lambda: mo.Recipe.from_yaml("a: &a [" + "x, " * 10 + "]\\n" + "".join(
        f"{b}: &{b} [{', '.join(['*' + a] * 10)}]\\n" for a, b in zip("abcdefgh", "bcdefghi"))),
    lambda: mo.Recipe.from_json("[" * 10**6),
):
    try:
        call()
    except MergeOptunaError:
        continue
    raise SystemExit("accepted")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_what_grew_stays_below_200_megabytes(model: Path, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.jsonl.gz"
    bomb.write_bytes(gzip.compress(b'{"text": "' + b"a" * (1 << 29) + b'"}', 1))
    command = [sys.executable, "-c", _BOMBS, str(model), str(bomb)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200
