"""Models of several modules, each merged with numbers of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from torch import nn

import merge_optuna as mo
from tests import toys

from .conftest import Mergekit, read
from .test_yaml import assert_agree, located

T5 = """
    merge_method: task_arithmetic
    base_model: base
    parameters: {weight: 0.7}
    modules:
      encoder:
        models: [{model: ja, parameters: {weight: [0, 1]}}, {model: math}]
      decoder:
        models: [{model: ja}, {model: math}]
        parameters: {lambda: 0.5, weight: [{filter: layer.0, value: [0.1, 0.3]}]}
      shared:
        models: [{model: ja}, {model: math, parameters: {weight: 0.2}}]
    dtype: float32
    """


def _gated() -> nn.Module:
    """The only T5 that mergekit knows."""
    return toys.t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False)


@pytest.mark.filterwarnings("ignore:.*matches no tensor")
def test_both_write_the_same(mergekit: Mergekit, tmp_path: Path) -> None:
    toys.family(tmp_path, _gated, experts=2)
    text = located(T5, tmp_path)
    theirs = mergekit.merge(yaml.safe_load(text), tmp_path / "theirs")
    ours = read(mo.write(mo.Recipe.from_mergekit(text), tmp_path / "ours"))
    assert_agree({name: ours[name] for name in theirs}, theirs)
    assert len(theirs) > 40
