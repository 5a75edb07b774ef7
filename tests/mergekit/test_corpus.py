"""Real mergekit files: mergekit says of them what was noted, and makes what we make.

Models are in float32 and both compute in it, so that both round to the file's data type once.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import merge_optuna as mo
from tests import corpus

from .conftest import Mergekit, read
from .test_yaml import assert_agree

_RANDOM = ("dare_", "della")

pytestmark = [
    corpus.needed,
    pytest.mark.filterwarnings("ignore:.*no effect", "ignore:.*ignores the key"),
]


def _documents(name: str, root: Path) -> list[dict[str, Any]]:
    """The configurations of a file, told to compute in float32 and to round in the end."""
    text = corpus.stand_ins((corpus.folder() / name).read_text(), root, dtype=torch.float32)
    documents: list[dict[str, Any]] = list(yaml.safe_load_all(text))
    for document in documents:
        # In the middle nothing is rounded, as in our recipes.
        final = document.get("out_dtype") or document.get("dtype")
        last = {} if final is None or document is not documents[-1] else {"out_dtype": final}
        document |= {"dtype": "float32"} | last
    return documents


def _merged(name: str) -> bool:
    """Whether mergekit merges it, always in the same way."""
    accepted = corpus.VERDICTS[name].startswith("ok")
    return accepted and not any(word in name for word in _RANDOM)


@pytest.mark.parametrize("name", [name for name in corpus.VERDICTS if _merged(name)])
def test_both_make_the_same(mergekit: Mergekit, tmp_path: Path, name: str) -> None:
    documents = _documents(name, tmp_path)
    (tmp_path / "mine.yml").write_text(yaml.safe_dump_all(documents))
    ours = mo.write(mo.Recipe.from_mergekit(tmp_path / "mine.yml"), tmp_path / "ours")
    if len(documents) == 1:
        theirs = mergekit.merge(documents[0], tmp_path / "theirs")
    else:
        _by_command(mergekit, tmp_path)
        theirs = read(tmp_path / "theirs")
    assert_agree(read(ours), theirs)


def _by_command(mergekit: Mergekit, folder: Path) -> None:
    subprocess.run(
        [
            Path(mergekit.python).with_name("mergekit-multi"),
            *(folder / "mine.yml", "--out-path", folder / "theirs"),
            *("--intermediate-dir", folder / "between", "--no-copy-tokenizer", "--quiet"),
        ],
        check=True,
        capture_output=True,
    )


@pytest.mark.parametrize("name", [n for n in corpus.VERDICTS if "Error: " in corpus.VERDICTS[n]])
def test_mergekit_refuses_what_was_noted(mergekit: Mergekit, tmp_path: Path, name: str) -> None:
    [document] = _documents(name, tmp_path)
    said = mergekit.error(document, tmp_path / "theirs")
    assert said is not None
    assert corpus.VERDICTS[name] in said
