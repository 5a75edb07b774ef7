"""Individuals of damaged databases: refused with a sentence, and never looked for in circles."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution

import merge_optuna as mo
from merge_optuna._schema import CLAIM
from merge_optuna.samplers._protocol.claim import Claim
from tests import toys
from tests.hostile import check_refused

optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture(scope="module")
def space() -> mo.spaces.SplitSlerp:
    return mo.spaces.SplitSlerp(
        [mo.Checkpoint.from_module(toys.llama(seed), name=name) for seed, name in enumerate("ab")]
    )


def child(number: int, parents: dict[str, int], **changes: Any) -> optuna.trial.FrozenTrial:
    params = {"origin": "child", "parent_a": 0, "parent_b": 1, "split": 0.5, "ratio": 0.5}
    claim = Claim(number, "p", 1, 0, 0, 0, (), {}, parents=parents)
    params = {**params, **changes}
    return optuna.trial.create_trial(
        params=params,
        distributions={name: CategoricalDistribution([v]) for name, v in params.items()},
        value=1.0,
        system_attrs={CLAIM: claim.to_json()},
    )


def study_of(*trials: optuna.trial.FrozenTrial) -> optuna.Study:
    study = optuna.create_study()
    study.add_trials(trials)
    return study


@pytest.mark.parametrize("parents", [(0, 0), (1, 0), (2, 0), (1, 2)])
def test_an_individual_that_descends_from_itself(
    space: mo.spaces.SplitSlerp, parents: tuple[int, int]
) -> None:
    study = study_of(
        *(child(i, {"parent_a": parents[0], "parent_b": parents[1]}) for i in range(3))
    )
    check_refused(lambda: space.individual(study, 0), "descends from itself. Was the database")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"split": 7.0}, "split is 7.0, but must be a number in [0, 1]."),
        ({"ratio": "0.5"}, "ratio is '0.5', but must be a number in [0, 1]."),
        ({"parent_a": -1}, "parent_a is -1, but must be a whole number in [0, "),
        ({"origin": "c"}, "origin is 'c', but must be one of 'a', 'b', 'child'."),
    ],
)
def test_parameters_of_individuals(
    space: mo.spaces.SplitSlerp, changes: dict[str, Any], sentence: str
) -> None:
    sources = [
        optuna.trial.create_trial(
            params={"origin": name},
            distributions={"origin": CategoricalDistribution(["a", "b", "child"])},
            value=1.0,
        )
        for name in "ab"
    ]
    study = study_of(*sources, child(2, {"parent_a": 0, "parent_b": 1}, **changes))
    check_refused(lambda: space.individual(study, 2), sentence)
