"""Differential evolution against loops on plain arrays that know nothing of this package."""

from __future__ import annotations

from typing import Any

from merge_optuna.samplers import de
from merge_optuna.testing import AlgorithmSuite


class TestRand(AlgorithmSuite):
    def algorithm(self) -> Any:
        return de.DE(size=5)


class TestSHADE(AlgorithmSuite):
    def algorithm(self) -> Any:
        return de.DE(de.CurrentToPBest(), de.SHADE(5), size=6)


class TestLSHADE(AlgorithmSuite):
    def algorithm(self) -> Any:
        mutation = de.CurrentToPBest(0.11, 2.6)
        return de.DE(mutation, de.SHADE(6, True), 12, de.LinearReduction(35))


class TestJDE(AlgorithmSuite):
    def algorithm(self) -> Any:
        return de.DE(de.CurrentToBest(), de.JDE(), size=6)
