"""Search spaces that a recipe with free numbers cannot say.

Each is a callable from a trial to a recipe, as ``mo.MergeObjective`` takes it, and makes its own
sampler: ``space.sampler(seed=0)``.
"""

from __future__ import annotations

from merge_optuna.spaces._exchange import Choices, Exchange
from merge_optuna.spaces._genealogy import Genealogy, check_families, family_of, parents_of
from merge_optuna.spaces._prior import LayerPrior
from merge_optuna.spaces._space import KINDS, Declaration, ParameterSpace, Space, own_sampler, read
from merge_optuna.spaces._streams import layer_prior
from merge_optuna.spaces._swarm import DROP_RATE
from merge_optuna.spaces.affine_swarm import AffineSwarm
from merge_optuna.spaces.differential_crossover import DifferentialCrossover
from merge_optuna.spaces.layer_path import LayerPath
from merge_optuna.spaces.particle_swarm import ParticleSwarm
from merge_optuna.spaces.split_slerp import SplitSlerp

__all__ = [
    "DROP_RATE",
    "KINDS",
    "AffineSwarm",
    "Choices",
    "Declaration",
    "DifferentialCrossover",
    "Exchange",
    "Genealogy",
    "LayerPath",
    "LayerPrior",
    "ParameterSpace",
    "ParticleSwarm",
    "Space",
    "SplitSlerp",
    "check_families",
    "family_of",
    "layer_prior",
    "own_sampler",
    "parents_of",
    "read",
]
