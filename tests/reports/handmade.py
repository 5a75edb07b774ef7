"""Studies as samplers and objectives leave them, written down by hand."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from merge_optuna._schema import CLAIM, SCORES
from merge_optuna._scores import pack

SOURCES = ("ja", "math", "code")
_ORIGIN = CategoricalDistribution((*SOURCES, "child"))
_ID, _SHARE = IntDistribution(0, 2**31 - 1), FloatDistribution(0.0, 1.0)


def claim(
    trial: int, generation: int, *, x: Sequence[float] = (0.5,), parents: Mapping[str, int] | None
) -> dict[str, Any]:
    """As docs/database.md describes it."""
    vector = base64.b64encode(np.asarray(x, "<f8").tobytes()).decode()
    stored = {"trial": trial, "population": "p", "generation": generation, "slot": 0}
    drawn = {"attempt": 0, "seed": 0, "seen": [], "vectors": {"x": vector}}
    return {**stored, **drawn, "parents": dict(parents or {})}


def individual(
    number: int, value: float | None, parents: tuple[int, int] | None = None, **more: Any
) -> FrozenTrial:
    """A trial of M2N2: a source, or the child of two trials. Each result is a generation."""
    params: dict[str, Any] = {"origin": SOURCES[number] if parents is None else "child"}
    kinds: dict[str, Any] = {"origin": _ORIGIN}
    named = {} if parents is None else {"parent_a": parents[0], "parent_b": parents[1]}
    if parents is not None:
        params |= {**named, "split": 0.5, "ratio": 0.25}
        kinds |= {"parent_a": _ID, "parent_b": _ID, "split": _SHARE, "ratio": _SHARE}
    claimed = claim(number, number, parents=named)
    return made(number, value, {CLAIM: claimed}, params=params, distributions=kinds, **more)


def made(
    number: int,
    value: float | Sequence[float] | None,
    system: Mapping[str, Any] | None = None,
    *,
    scores: Sequence[float] | None = None,
    **more: Any,
) -> FrozenTrial:
    """Any trial; pruned if it has no value."""
    packed = {} if scores is None else {SCORES: pack(np.asarray(scores, np.float32))}
    several = isinstance(value, Sequence)
    return create_trial(
        state=TrialState.PRUNED if value is None else TrialState.COMPLETE,
        value=None if several else value,
        values=value if several else None,
        system_attrs={**(system or {}), **packed},
        **more,
    )


def study_of(trials: Sequence[FrozenTrial], *directions: str) -> optuna.Study:
    """A study with these trials; it maximises unless it is told."""
    study = optuna.create_study(directions=directions or ["maximize"])
    study.add_trials(trials)
    return study


def thousands(total: int = 2000) -> optuna.Study:
    """Individuals of an archive, each a child of two of the last twenty."""
    rng = np.random.default_rng(0)
    trials = [individual(i, 0.5) for i in range(len(SOURCES))]
    for number in range(len(trials), total):
        a, b = (int(n) for n in number - 1 - rng.choice(min(20, number), 2, replace=False))
        value = 0.5 + 0.4 * number / total + 0.02 * float(rng.normal())
        trials.append(individual(number, value, (a, b)))
    return study_of(trials)
