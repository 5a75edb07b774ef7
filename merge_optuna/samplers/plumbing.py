"""What the other packages need of the samplers' protocol: who runs a trial, and what it claims."""

from __future__ import annotations

from merge_optuna.samplers._protocol.claim import Claim, own_claim
from merge_optuna.samplers._protocol.log import check_numbers, is_excused
from merge_optuna.samplers._protocol.owner import (
    PATIENCE,
    age,
    fail_dead_trials,
    is_alive,
    owner_alive,
    owner_of,
    sign,
    this_process,
)
from merge_optuna.samplers._protocol.places import CANDIDATE, LEARN, keyed_rng
from merge_optuna.samplers._protocol.sampler import sign_once

__all__ = [
    "CANDIDATE",
    "LEARN",
    "PATIENCE",
    "Claim",
    "age",
    "check_numbers",
    "fail_dead_trials",
    "is_alive",
    "is_excused",
    "keyed_rng",
    "own_claim",
    "owner_alive",
    "owner_of",
    "sign",
    "sign_once",
    "this_process",
]
