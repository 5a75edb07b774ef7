"""Samplers: how a search varies a recipe. State lives in the study's storage alone."""

# ruff: noqa: F401
from __future__ import annotations

from merge_optuna.samplers._bounds import Clip, Midpoint, Reflect, Resample
from merge_optuna.samplers._protocol.sampler import (
    ArchiveSampler,
    PopulationSampler,
    StoredSampler,
)
from merge_optuna.samplers._variation import (
    SBX,
    Gaussian,
    Genetic,
    IsoLine,
    PolynomialMutation,
    Variation,
)
from merge_optuna.samplers.adaptation import JDE, SHADE, Dither, Fixed
from merge_optuna.samplers.algorithm import (
    ArchiveAlgorithm,
    Candidate,
    DistributionAlgorithm,
    Member,
    Population,
    PopulationAlgorithm,
)
from merge_optuna.samplers.box import Box
from merge_optuna.samplers.breeding import Breeding, Pedigree, SplitCrossover
from merge_optuna.samplers.cmaes import CmaEs, CmaEsSampler
from merge_optuna.samplers.de import (
    DE,
    Best,
    CurrentToBest,
    CurrentToPBest,
    DESampler,
    LinearReduction,
    Rand,
)
from merge_optuna.samplers.evolver import Evolver, EvolverSampler
from merge_optuna.samplers.ga import (
    GA,
    FitnessProportional,
    GASampler,
    Generational,
    Tournament,
    Truncation,
)
from merge_optuna.samplers.map_elites import Descriptor, MAPElites, MAPElitesSampler
from merge_optuna.samplers.niches import NaturalNiches, Niches, NichesSampler
from merge_optuna.samplers.pso import (
    PSO,
    Absorb,
    Bounce,
    ClipPosition,
    Constriction,
    GlobalBest,
    Inertia,
    Leash,
    PSOSampler,
    Ring,
)
from merge_optuna.samplers.swarm import SwarmSampler

# What is imported here is public; the stub, which is generated, lists it by name.
__all__ = sorted(name for name, value in globals().items() if isinstance(value, type))
