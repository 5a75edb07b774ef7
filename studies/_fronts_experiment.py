"""Two objectives of the merges of two experts: what is searched, and the sweeps beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import merge_optuna as mo

Params = dict[str, float]
Weights = Sequence[tuple[float, float]]  # of the two experts
Points = Sequence[tuple[float, ...]]


@dataclass(frozen=True)
class Inputs:
    """What an experiment is made from.

    Attributes:
        data: Folder with the texts; None if there is none.
        encoder: Hub id or folder.
    """

    data: Path | None
    encoder: str


class Way(NamedTuple):
    """How a search goes about it.

    Attributes:
        per: The groups of layers that have weights of their own.
        first: Weights of the two experts, the same in all layers, to begin with.
    """

    per: Any
    first: Weights


@dataclass(frozen=True)
class Experiment:
    """Models, and two objectives.

    Attributes:
        name: Of its files.
        title: Of its table.
        models: The base and two experts by name.
        dev: What searches see.
        test: Other examples, scored alike.
        way: Of the searches.
        reference: Of the hypervolume: fixed by the task, before anything is run.
        ideal: What no model can exceed: hypervolumes are shares of the box between both.
        plain: Scores a written model on dev, loaded by nothing but transformers.
        searches: Names of them.
        trials: Of each search and sweep.
        population: Of the searches that have one.
    """

    name: str
    title: str
    models: dict[str, mo.Checkpoint]
    dev: mo.evaluators.Evaluator
    test: mo.evaluators.Evaluator
    way: Way
    reference: tuple[float, float]
    ideal: tuple[float, float]
    plain: Callable[[Path], tuple[float, ...]]
    searches: Sequence[str]
    trials: int
    population: int

    @property
    def experts(self) -> list[str]:
        """Their names."""
        return [*self.models][1:]

    def space(self, per: Any) -> mo.Recipe:
        """Task arithmetic with a weight from 0 to 1.5 per expert, and per group of layers."""
        base, *experts = self.models.values()
        weight = mo.free(0, 1.5, per=per, start=0.5)
        return mo.recipes.task_arithmetic(base, experts, weight=weight)

    def uniform(self, weights: Weights, per: Any) -> list[Params]:
        """The parameters of models with the same weights in all layers."""
        names = [name.split("/") for name in self.space(per).start()]
        return [
            {"/".join(name): round(pair[self.experts.index(name[1])], 6) for name in names}
            for pair in weights
        ]

    # -- hypervolume ------------------------------------------------------------------------------

    def hypervolume(self, points: Points) -> float:
        """The share of the box between reference and ideal that the points dominate."""
        sides = np.subtract(self.ideal, self.reference)
        gains = np.clip((np.reshape(points, (-1, 2)) - self.reference) / sides, 0, 1)
        total = best = 0.0
        for x, y in sorted(gains.tolist(), reverse=True):
            total += x * max(0.0, y - best)
            best = max(best, y)
        return total


def one_weight(n: int) -> Weights:
    """The same for both experts, from 0 to 1.5."""
    return [(float(x), float(x)) for x in np.linspace(0, 1.5, n)]


def interpolation(n: int) -> Weights:
    """From one expert to the other."""
    return [(float(1 - x), float(x)) for x in np.linspace(0, 1, n)]


def two_weights(n: int) -> Weights:
    """A grid over what is searched, with at most so many points."""
    ticks = np.linspace(0, 1.5, int(np.sqrt(n)))
    return [(float(x), float(y)) for x in ticks for y in ticks]


OURS = "NSGA-II of merge_optuna"
LARGER = f"{OURS}, larger steps"
OPTUNAS = "NSGA-II of Optuna"
TPE = "TPE of Optuna"
LINES = {"sweep of one weight": one_weight, "sweep from expert to expert": interpolation}
SWEEPS = {**LINES, "sweep of two weights": two_weights}
