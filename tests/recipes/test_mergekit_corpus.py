"""Shapes of real mergekit files: read where mergekit reads them, else refused in a sentence.

``MERGE_OPTUNA_DATA`` names a folder with ``mergekit_yaml/*.yml``, in which models are called
``M/...``, and ``mergekit_yaml/README.md`` with mergekit's verdict on each in a table.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest

import merge_optuna as mo
from merge_optuna.errors import MergeOptunaError
from tests import corpus

pytestmark = corpus.needed


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is said of each file: ``ok``, or the error."""
    return {
        name: _verdict(corpus.folder() / name, tmp_path_factory.mktemp("models"))
        for name in corpus.VERDICTS
    }


def _verdict(file: Path, root: Path) -> str:
    mine = root / file.name
    mine.write_text(corpus.stand_ins(file.read_text(), root))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            recipe = mo.Recipe.from_mergekit(mine)
    except MergeOptunaError as error:
        return str(error).replace(str(root), "")
    assert recipe.alignment.layout.names
    return "ok"


def _agrees(theirs: str, ours: str) -> bool:
    """Whether we accept what mergekit does, and name the tool that a file belongs to."""
    if theirs.startswith("ok"):
        return ours == "ok"
    tool = re.search(r"not this tool's file \((.*)\)", theirs)
    return ours != "ok" and (tool is None or tool[1] in ours)


@pytest.mark.parametrize("name", corpus.VERDICTS)
def test_the_verdict_is_mergekits(verdicts: Mapping[str, str], name: str) -> None:
    assert _agrees(corpus.VERDICTS[name], verdicts[name]), verdicts[name]


def test_the_pass_rate(verdicts: Mapping[str, str]) -> None:
    agreed = [name for name, ours in verdicts.items() if _agrees(corpus.VERDICTS[name], ours)]
    accepted = [name for name, ours in verdicts.items() if ours == "ok"]
    print(f"{len(agreed)} of {len(verdicts)} verdicts as mergekit's, {len(accepted)} accepted")
    assert len(agreed) == len(verdicts) > 30


REFUSED = {
    "11-slerp-permodel-t.yml": "slerp needs a t here, or for all models",
    "17-slerp-no-base.yml": "slerp needs a base_model that is one of its models",
    "19-linear-pythia-modules-same-model.yml": "/M/a is merged with itself",
    "21-ties-weights-for-all-in-slices.yml": "ties needs a base_model that is one of its models",
    "50-moe-mixtral.yml": "this is a file of mergekit-moe",
    "51-evolve.yml": r"mergekit-evolve.*mo\.MergeStudy\.from_mergekit_evolve\(file, evaluator\)",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_says_why(verdicts: Mapping[str, str], name: str) -> None:
    assert re.search(REFUSED[name], verdicts[name])
