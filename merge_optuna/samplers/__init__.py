"""Samplers: how a search varies a recipe. State lives in the study's storage alone."""

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

__all__ = [
    "DE",
    "GA",
    "JDE",
    "PSO",
    "SBX",
    "SHADE",
    "Absorb",
    "ArchiveAlgorithm",
    "ArchiveSampler",
    "Best",
    "Bounce",
    "Box",
    "Breeding",
    "Candidate",
    "Clip",
    "ClipPosition",
    "CmaEs",
    "CmaEsSampler",
    "Constriction",
    "CurrentToBest",
    "CurrentToPBest",
    "DESampler",
    "Descriptor",
    "DistributionAlgorithm",
    "Dither",
    "Evolver",
    "EvolverSampler",
    "FitnessProportional",
    "Fixed",
    "GASampler",
    "Gaussian",
    "Generational",
    "Genetic",
    "GlobalBest",
    "Inertia",
    "IsoLine",
    "Leash",
    "LinearReduction",
    "MAPElites",
    "MAPElitesSampler",
    "Member",
    "Midpoint",
    "NaturalNiches",
    "Niches",
    "NichesSampler",
    "PSOSampler",
    "Pedigree",
    "PolynomialMutation",
    "Population",
    "PopulationAlgorithm",
    "PopulationSampler",
    "Rand",
    "Reflect",
    "Resample",
    "Ring",
    "SplitCrossover",
    "StoredSampler",
    "SwarmSampler",
    "Tournament",
    "Truncation",
    "Variation",
]
