"""Optuna's own suites for third-party samplers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from merge_optuna.samplers import (
    JDE,
    SHADE,
    Best,
    CmaEsSampler,
    CurrentToPBest,
    DESampler,
    PSOSampler,
    Reflect,
    Ring,
)


class TestCmaEs(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture(params=["full", "separable", "margin"])
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return lambda: CmaEsSampler(variant=request.param, seed=0)


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
