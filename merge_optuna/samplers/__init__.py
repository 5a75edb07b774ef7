"""Samplers: how a search varies a recipe. State lives in the study's storage alone."""

from __future__ import annotations

from merge_optuna.samplers._archive import (
    ArchiveAlgorithm,
    ArchiveSampler,
    DistributionAlgorithm,
)
from merge_optuna.samplers._bounds import Clip, Midpoint, Reflect, Resample
from merge_optuna.samplers._box import Box
from merge_optuna.samplers._log import PARTIAL, SURPLUS, Candidate, Member, own_claim
from merge_optuna.samplers._owner import fail_dead_trials, owner_alive, owner_of, sign
from merge_optuna.samplers._population import Population, PopulationAlgorithm, PopulationSampler
from merge_optuna.samplers._stored import StoredSampler
from merge_optuna.samplers.cmaes import CmaEs, CmaEsSampler
from merge_optuna.samplers.de import (
    DE,
    JDE,
    SHADE,
    Best,
    CurrentToBest,
    CurrentToPBest,
    DESampler,
    Dither,
    Fixed,
    LinearReduction,
    Rand,
)

__all__ = [
    "DE",
    "JDE",
    "PARTIAL",
    "SHADE",
    "SURPLUS",
    "ArchiveAlgorithm",
    "ArchiveSampler",
    "Best",
    "Box",
    "Candidate",
    "Clip",
    "CmaEs",
    "CmaEsSampler",
    "CurrentToBest",
    "CurrentToPBest",
    "DESampler",
    "DistributionAlgorithm",
    "Dither",
    "Fixed",
    "LinearReduction",
    "Member",
    "Midpoint",
    "Population",
    "PopulationAlgorithm",
    "PopulationSampler",
    "Rand",
    "Reflect",
    "Resample",
    "StoredSampler",
    "fail_dead_trials",
    "own_claim",
    "owner_alive",
    "owner_of",
    "sign",
]
