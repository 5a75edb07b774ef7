"""What a study must go on with: data, how models are given them, and the function that scores."""

from __future__ import annotations

import ast
import contextlib
import copy
import functools
import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import merge_optuna as mo
from merge_optuna.evaluators import Function
from tests import toys


def test_the_longest_text_and_the_tokenizer_are_part_of_the_digest(
    tmp_path: Path, tokenizer: Any
) -> None:
    data = tmp_path / "dev.jsonl"
    data.write_text('{"text": "good bad", "label": 0}\n{"text": "bad good", "label": 1}\n')
    one, same, other = (copy.deepcopy(tokenizer) for _ in range(3))
    other.add_tokens(["new"])
    same("good bad", truncation=True, max_length=2)  # leaves its marks in the fast tokenizer
    one.save_pretrained(tmp_path / "saved")

    def digest(**options: Any) -> dict[str, Any]:
        return mo.evaluators.Classification(str(data), **options).digest

    plain = digest()
    assert (plain["max_length"], plain["tokenizer"]) == (None, None)
    assert digest(max_length=7) == {**plain, "max_length": 7}
    given = digest(tokenizer=one)
    assert given["tokenizer"] is not None
    assert digest(tokenizer=same) == digest(tokenizer=str(tmp_path / "saved")) == given
    assert digest(tokenizer=other)["tokenizer"] != given["tokenizer"]


def test_the_whole_head_is_part_of_the_digest(tmp_path: Path) -> None:
    pixels, labels = torch.zeros(2, 3, 8, 8), torch.tensor([0, 1])
    folder = toys.save(toys.vit(), tmp_path / "head")

    def digest() -> dict[str, Any]:
        return mo.evaluators.Classification((pixels, labels), head=mo.Checkpoint(folder)).digest

    before = digest()
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"owl"', '"eagle"'))
    after = digest()
    assert {part for part in before if before[part] != after[part]} == {"head_content"}


PLAIN = """
import functools
class Scorer:
    def __init__(self, k): self.k = k
    def __call__(self, model): return self.k
    def method(self, model): return 2.0
def f(model, k=1):
    return 1.0
def make(): return lambda model: 1.0
g = dict(a=1, b=lambda model: 3.0,
    c=2)["b"]
"""


def made_of(text: str, where: Path) -> Any:
    where.write_text(text)
    spec = importlib.util.spec_from_file_location(where.stem, where)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[where.stem] = module
    spec.loader.exec_module(module)
    return module


KINDS = {
    "function": lambda m: m.f,
    "partial": lambda m: functools.partial(m.f, k=3),
    "partial of an object": lambda m: functools.partial(m.f, m.Scorer(1)),
    "object": lambda m: m.Scorer(1),
    "method": lambda m: m.Scorer(1).method,
    "lambda": lambda m: m.make(),
    "lambda inside a call": lambda m: m.g,
    "builtin": lambda m: abs,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_function_counts_by_its_name_and_source(kind: str, tmp_path: Path) -> None:
    def digest(text: str, name: str) -> str:
        return Function(KINDS[kind](made_of(text, tmp_path / f"{name}.py"))).digest["function"]

    before = digest(PLAIN, "script_a")
    # elsewhere in a file of another name, with comments, and what is around it is another
    moved = "# mine\n\n" + PLAIN.replace("1.0\n", "1.0  # so\n").replace(
        "self.k\n", "self.k  # so\n"
    )
    assert digest(moved.replace("a=1", "a=2"), "script_b") == before
    changed = digest(PLAIN.replace(".0", ".5").replace("self.k\n", "self.k + 1\n"), "script_c")
    assert (changed == before) == (kind == "builtin")


def test_partials_count_by_what_they_were_given() -> None:
    digests = {Function(functools.partial(abs, k=k)).digest["function"] for k in (1, 2)}
    assert len(digests) == 2


_GIVEN = """
import functools
from pathlib import Path
import numpy as np
import torch
from merge_optuna.evaluators import Function

values = [
    {"a", "b", "c"}, [{"a", "b", "c"}, frozenset("xyz")], {"k": (None, {"p", "q", "r"})},
    np.arange(5), np.array(["a", None]), torch.ones(3, dtype=torch.bfloat16), Path("x"), 1.5, abs,
]
print([Function(functools.partial(abs, k=value)).digest["function"] for value in values])
"""


def test_what_a_partial_was_given_is_the_same_in_every_process() -> None:
    here = io.StringIO()
    with contextlib.redirect_stdout(here):
        exec(_GIVEN, {})
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    there = subprocess.run(
        [sys.executable, "-c", _GIVEN],
        env={**os.environ, "PYTHONHASHSEED": other},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout == here.getvalue()
    assert len(set(ast.literal_eval(there.stdout))) == 9


def _one_changed(values: Any) -> Any:
    changed = copy.deepcopy(values)
    changed[len(changed) // 2] = 7
    return changed


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.zeros(10_000), _one_changed(np.zeros(10_000))),
        (np.zeros(4), np.zeros(4, np.float32)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.array(["a", None]), np.array(["b", None])),
        (torch.zeros(10_000), _one_changed(torch.zeros(10_000))),
        (torch.zeros(4), torch.zeros(4, dtype=torch.int32)),
        ([torch.zeros(2000)], [_one_changed(torch.zeros(2000))]),
        ([print, 1], [print, 2]),
        ([KINDS], [KINDS, 1]),
        ({"a", "b"}, {"a", "c"}),
        ({"a": {1}}, {"a": frozenset({1})}),
        ((1,), [1]),
    ],
)
def test_every_part_of_what_a_partial_was_given_counts(one: Any, other: Any) -> None:
    def digest(value: Any) -> Any:
        return Function(functools.partial(abs, k=value)).digest["function"]

    assert digest(one) == digest(copy.deepcopy(one))
    assert digest(one) != digest(other)


def test_a_digest_of_ones_own_takes_the_place_of_the_source() -> None:
    assert Function(abs, digest="v1").digest == {"function": "v1"}
    assert Function(abs, digest={"data": "7", "prompt": "p"}).digest == {
        "data": "7",
        "prompt": "p",
    }
