"""Optuna's own suites for third-party samplers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from merge_optuna.samplers import (
    JDE,
    SHADE,
    Best,
    CatCmaEsSampler,
    CmaEsSampler,
    CurrentToPBest,
    DESampler,
    FitnessProportional,
    GASampler,
    Generational,
    Genetic,
    IsoLine,
    MAPElitesSampler,
    NichesSampler,
    NSGA2Sampler,
    PSOSampler,
    Reflect,
    Ring,
)


class TestCmaEs(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture(params=["full", "separable", "margin"])
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return lambda: CmaEsSampler(variant=request.param, seed=0)


class TestCatCmaEs(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture(params=[None, 0.5], ids=["default", "wide"])
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return lambda: CatCmaEsSampler(sigma0=request.param, population_size=4, seed=0)


class TestDE(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "rand": {},
        "best-jde": {"mutation": Best(), "adaptation": JDE(), "bounds": Reflect()},
        "shade": {"mutation": CurrentToPBest(), "adaptation": SHADE(5)},
    }

    @pytest.fixture(params=variants)
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        options = self.variants[request.param]
        return lambda: DESampler(population_size=4, seed=0, **options)


class TestPSO(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture(params=[{}, {"topology": Ring(), "random": "scalar"}], ids=["gbest", "ring"])
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return lambda: PSOSampler(population_size=5, seed=0, **request.param)


class TestGA(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "truncation": {},
        "generational": {"selection": FitnessProportional(), "survival": Generational()},
    }

    @pytest.fixture(params=variants)
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        options = self.variants[request.param]
        return lambda: GASampler(population_size=3, seed=0, **options)


@pytest.mark.filterwarnings("ignore:Trial .* is left out of the archive of MAP-Elites")
class TestMAPElites(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    """Of a parameter that most objectives of the suite suggest, as a number or a category."""

    @pytest.fixture(params=[IsoLine(), Genetic()], ids=["iso-line", "genetic"])
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        options = {"descriptors": {"x": (0, 10, 5)}, "variation": request.param}
        return lambda: MAPElitesSampler(initial=2, seed=0, **options)


@pytest.mark.filterwarnings("ignore:Trial .* has no per-example scores")
class TestNiches(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture(params=[True, False], ids=["attraction", "ablations"])
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        options = {"attraction": request.param, "split_point": request.param}
        return lambda: NichesSampler(archive_size=3, seed=0, **options)


class TestNSGA2(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: NSGA2Sampler(population_size=3, seed=0)
