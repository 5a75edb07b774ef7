"""Samplers: how a search varies a recipe. State lives in the study's storage alone."""

from __future__ import annotations

from merge_optuna.samplers._box import Box
from merge_optuna.samplers._log import PARTIAL, SURPLUS, Candidate, own_claim
from merge_optuna.samplers._owner import fail_dead_trials, owner_alive, owner_of, sign
from merge_optuna.samplers._population import DistributionAlgorithm, PopulationSampler
from merge_optuna.samplers.cmaes import CmaEs, CmaEsSampler

__all__ = [
    "PARTIAL",
    "SURPLUS",
    "Box",
    "Candidate",
    "CmaEs",
    "CmaEsSampler",
    "DistributionAlgorithm",
    "PopulationSampler",
    "fail_dead_trials",
    "own_claim",
    "owner_alive",
    "owner_of",
    "sign",
]
