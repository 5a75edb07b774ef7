"""A sampler made for an algorithm takes its options, says what they mean, and the stub agrees."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from optuna.distributions import FloatDistribution

import merge_optuna as mo
from merge_optuna.samplers import (
    Candidate,
    CatCmaEsSampler,
    Clip,
    CmaEsSampler,
    DESampler,
    GASampler,
    MAPElitesSampler,
    NichesSampler,
    NSGA2Sampler,
    Population,
    PopulationAlgorithm,
    PopulationSampler,
    PSOSampler,
    Rand,
)
from tests.samplers.stub import FILE, stub

SPACE = {"a": FloatDistribution(0, 1), "b": FloatDistribution(0, 1)}
OPTIONS = {
    DESampler: ["mutation", "adaptation", "population_size", "reduction", "bounds"],
    NSGA2Sampler: ["population_size", "crossover", "mutation"],
    GASampler: ["selection", "crossover", "mutation", "survival", "population_size"],
    PSOSampler: [
        "coefficients",
        "topology",
        "random",
        "population_size",
        "initial_velocity",
        "max_velocity",
        "bounds",
        "raw",
    ],
    CatCmaEsSampler: ["x0", "sigma0", "probabilities", "population_size"],
    CmaEsSampler: ["variant", "x0", "sigma0", "population_size"],
    NichesSampler: [
        "archive_size",
        "alpha",
        "attraction",
        "crossover",
        "split_point",
        "mutation",
        "initial",
    ],
}


@dataclass(frozen=True)
class Walk(PopulationAlgorithm):
    """A walk.

    Attributes:
        length: of a step.
        size: how many walk.
    """

    length: float
    size: int = 5

    def population_size(self, n: int, evaluations: int = 0) -> int:
        return self.size

    def ask(self, population: Population, slot: int, rng: np.random.Generator) -> Candidate:
        step = self.length * rng.standard_normal(population[slot].x.size)
        return Candidate(np.clip(population[slot].x + step, 0, 1))


class WalkSampler(PopulationSampler, algorithm=Walk, without=("initial_population",)):
    """Walks."""


class FurtherSampler(WalkSampler):
    """Inherits the constructor."""


@pytest.mark.parametrize("kind", OPTIONS)
def test_the_arguments_are_the_options_and_those_of_all_samplers(kind: type) -> None:
    parameters = inspect.signature(kind).parameters
    common = ["initial_population"] * (kind not in (CmaEsSampler, CatCmaEsSampler)) + [
        "seed",
        "max_attempts",
    ]
    assert list(parameters) == ["search_space", *OPTIONS[kind], *common]
    assert parameters["search_space"].default is None
    assert (parameters["seed"].default, parameters["max_attempts"].default) == (None, 3)
    for name in [*OPTIONS[kind], *common]:
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
    algorithm = kind(SPACE)._algorithm
    for name in set(OPTIONS[kind]) - {"x0", "sigma0", "probabilities"}:
        holder = algorithm if hasattr(algorithm, name) else getattr(algorithm, "niches", algorithm)
        kept = getattr(holder, "size" if name == "population_size" else name)
        assert parameters[name].default == kept


@pytest.mark.parametrize("kind", [*OPTIONS, WalkSampler])
def test_every_argument_is_documented_once(kind: type) -> None:
    text = inspect.getdoc(kind) or ""
    for name in inspect.signature(kind).parameters:
        assert text.count(f"\n    {name}: ") == 1
    assert "    size: " not in text
    assert text.count("Raises:") == text.count("Args:") == 1


def test_options_without_a_default_are_required() -> None:
    parameters = inspect.signature(MAPElitesSampler).parameters
    assert parameters["descriptors"].default is inspect.Parameter.empty
    assert list(parameters)[:4] == ["search_space", "descriptors", "initial", "variation"]


def test_options_reach_the_algorithm() -> None:
    sampler = DESampler(SPACE, mutation=Rand(), population_size=9, bounds=Clip(), seed=1)
    assert "mutation=Rand()" in repr(sampler._algorithm)
    assert "size=9" in repr(sampler._algorithm)
    assert sampler.population_size() == 9


def test_an_algorithm_of_ones_own() -> None:
    assert WalkSampler(SPACE, length=0.1)._algorithm == Walk(0.1)
    assert FurtherSampler(SPACE, length=0.1, population_size=7, seed=1)._algorithm == Walk(0.1, 7)


def test_wrong_calls_are_named() -> None:
    with pytest.raises(TypeError, match=r"DESampler.*unexpected keyword argument 'mutashun'"):
        DESampler(SPACE, mutashun=Rand())  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"WalkSampler.*missing.*'length'"):
        WalkSampler(SPACE)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"WalkSampler.*'initial_population'"):
        WalkSampler(SPACE, length=0.1, initial_population=[])  # type: ignore[arg-type,call-arg]
    with pytest.raises(TypeError, match="too many positional"):
        DESampler(SPACE, Rand())  # type: ignore[misc]


def test_the_stub_is_what_it_would_be_written_as() -> None:
    assert Path(FILE).read_text() == stub()  # else: python -m tests.samplers.stub
    assert mo.samplers.__doc__ is not None
    assert mo.samplers.__doc__ in FILE.read_text()
