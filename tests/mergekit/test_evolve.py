"""The merges of a genome, beside those that mergekit-evolve makes of the same numbers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import merge_optuna as mo
from merge_optuna.recipes import read_genome
from tests import toys

from .conftest import Mergekit

LAYERS, GRANULARITY = 4, 2
FILTERS = ("self_attn", "mlp", "*")

_THEIRS = """
import json, sys
import numpy as np
from mergekit.evo.genome import ModelGenome, ModelGenomeDefinition
request = json.loads(sys.stdin.read())
genome = ModelGenome(ModelGenomeDefinition.model_validate(request["genome"]))
print(genome.genotype_merge_config(np.array(request["genotype"])).to_yaml())
"""

GENOMES: dict[str, dict[str, Any]] = {
    "ties": {"merge_method": "ties", "normalize": False},
    "ties with filters": {"merge_method": "ties", "filters": ["self_attn", "mlp"]}
    | {"normalize": False, "allow_negative_weights": True},
    "task arithmetic": {"merge_method": "task_arithmetic"},
}


@pytest.mark.filterwarnings("ignore:.*no effect")
@pytest.mark.parametrize("name", GENOMES)
def test_both_make_the_same_of_a_genome(mergekit: Mergekit, tmp_path: Path, name: str) -> None:
    """Embedding and head are given the numbers of the first and of the last layers."""
    toys.family(tmp_path, lambda: toys.llama(layers=LAYERS), experts=2)
    genome = {
        **GENOMES[name],
        "models": [str(tmp_path / expert) for expert in ("ja", "math")],
        "base_model": str(tmp_path / "base"),
        "layer_granularity": GRANULARITY,
    }
    space = read_genome(yaml.safe_dump({"genome": genome, "tasks": ["x"]}), "evolve.yml").space
    parameters = ["weight"] + ["density"] * ("ties" in name)
    filters = FILTERS if "filters" in genome else ("",)
    rng = np.random.default_rng(0)
    genotype = rng.uniform(0.1, 1, (LAYERS // GRANULARITY, 2, len(filters), len(parameters)))
    if genome.get("allow_negative_weights"):
        genotype[0, 1, :, 0] *= -1
    params = {}
    for slot in space.start():
        parameter, model, *where, group = slot.split("/")
        number = {"embed": 0, "00-01": 0, "02-03": 1, "head": 1}[group]
        place = ("ja", "math").index(model), filters.index(where[0] if where else "")
        params[slot] = float(genotype[number, *place, parameters.index(parameter)])
    done = subprocess.run(
        [mergekit.python, "-c", _THEIRS],
        input=json.dumps({"genome": genome, "genotype": genotype.tolist()}),
        check=True,
        capture_output=True,
        text=True,
    )
    theirs = dict(mo.engine.tensors(mo.Recipe.from_mergekit(done.stdout)))
    for tensor, ours in mo.engine.tensors(space.bind(params)):
        torch.testing.assert_close(theirs[tensor].float(), ours, rtol=2**-8, atol=1e-6)
