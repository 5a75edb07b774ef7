"""MAP-Elites against the pseudocode of its paper, on plain arrays."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from merge_optuna.errors import StudyError
from merge_optuna.samplers import (
    SBX,
    Descriptor,
    Gaussian,
    Genetic,
    IsoLine,
    MAPElites,
    MAPElitesSampler,
    PolynomialMutation,
)
from merge_optuna.samplers.plumbing import own_claim
from merge_optuna.testing import AlgorithmSuite
from tests.samplers.storages import make_storage
from tests.samplers.test_de import SPACE, N, objective, to_params, value
from tests.samplers.test_ga import deb_crossover, deb_mutation

optuna.logging.set_verbosity(optuna.logging.WARNING)

GRID = (Descriptor("a", -1, 2, 5), Descriptor("c", 0, 10, 5))


class TestGaussian(AlgorithmSuite):
    def algorithm(self) -> Any:
        return MAPElites(GRID, initial=8)


class TestIsoLine(AlgorithmSuite):
    def algorithm(self) -> Any:
        return MAPElites(GRID, 1, IsoLine())


class TestGenetic(AlgorithmSuite):
    def algorithm(self) -> Any:
        return MAPElites(GRID, 5, Genetic())


# -- The paper, on plain arrays ---------------------------------------------------------------

DESCRIPTORS = {"x": (-1.5, 2.5, 4), "spread": (0.0, 8.0, 6)}  # a parameter, an attribute


def spread(params: dict[str, Any]) -> float:
    return float(params["k"] + abs(math.log10(params["y"])) - 2)


def described(trial: optuna.Trial) -> float:
    result = objective(trial)
    trial.set_user_attr("spread", spread(trial.params))
    return result


class PlainMAPElites:
    """For minimisation; dimension 0 is categorical."""

    def __init__(self, variation: str, initial: int, sign: int, seed: int) -> None:
        self.variation, self.initial, self.sign, self.seed = variation, initial, sign, seed
        self.history: list[dict[str, Any]] = []
        self.X: dict[tuple[int, int], np.ndarray] = {}
        self.f: dict[tuple[int, int], float] = {}
        self.number: dict[tuple[int, int], int] = {}

    def run(self, n: int) -> list[dict[str, Any]]:
        for i in range(n):
            rng = np.random.default_rng([self.seed, 0, i, 0, 0])
            x = rng.random(N) if i < self.initial else getattr(self, self.variation)(rng)
            params = to_params(x)
            self.history.append(params)
            f, cell = self.sign * value(params), self.cell(params)
            if cell not in self.X or f < self.f[cell]:
                self.X[cell], self.f[cell], self.number[cell] = x, f, i
        return self.history

    @staticmethod
    def cell(params: dict[str, Any]) -> tuple[int, int]:
        row, column = (params["x"] + 1.5) / 4 * 4, spread(params) / 8 * 6
        return min(max(math.floor(row), 0), 3), min(max(math.floor(column), 0), 5)

    def elite(self, rng: np.random.Generator) -> np.ndarray:
        return list(self.X.values())[rng.integers(len(self.X))]

    def new_category(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        drawn, new = rng.random(), rng.random()
        x[0] = new if drawn < 1 / N else x[0]
        return x

    def gaussian(self, rng: np.random.Generator) -> np.ndarray:
        parent = self.elite(rng)
        x = np.clip(parent + 0.2 * rng.normal(size=N), 0, 1)
        x[0] = parent[0]
        return self.new_category(x, rng)

    def iso_line(self, rng: np.random.Generator) -> np.ndarray:
        x_i, x_j = self.elite(rng), self.elite(rng)
        iso, line = rng.normal(size=N), rng.normal()
        category = x_j[0] if rng.random() < 0.5 * abs(line) else x_i[0]
        x = x_i + 0.5 * line * (x_j - x_i)
        x = np.clip(x + 0.05 * iso, 0, 1)
        x[0] = category
        return self.new_category(x, rng)

    def genetic(self, rng: np.random.Generator) -> np.ndarray:
        a, b = self.elite(rng), self.elite(rng)
        x = a.copy()
        if rng.random() < 0.9:
            crossed, u, upper = rng.random((3, N))
            for j in np.flatnonzero(crossed < 0.5):
                x[j] = deb_crossover(a[j], b[j], u[j], 4.0)[int(upper[j] < 0.5)] if j else b[0]
        mutated, u = rng.random((2, N))
        for j in np.flatnonzero(mutated < 1 / N):
            x[j] = deb_mutation(x[j], u[j], 20.0) if j else u[0]
        return x


VARIATIONS = {
    "gaussian": Gaussian(0.2),
    "iso_line": IsoLine(0.05, 0.5),
    "genetic": Genetic(SBX(4), PolynomialMutation(20)),
}


def compare(
    variation: str, n: int, direction: str, storage: Any = None, initial: int = 12, seed: int = 4
) -> optuna.Study:
    sampler = MAPElitesSampler(
        SPACE,
        descriptors=DESCRIPTORS,
        initial=initial,
        variation=VARIATIONS[variation],
        seed=seed,
    )
    study = optuna.create_study(storage=storage, sampler=sampler, direction=direction)
    study.optimize(described, n_trials=n)
    plain = PlainMAPElites(variation, initial, 1 if direction == "minimize" else -1, seed)
    assert [t.params for t in study.trials] == plain.run(n)
    archive = sampler.archive(study)
    assert {cell: t.number for cell, t in archive.items()} == plain.number
    assert list(archive) == sorted(archive)
    return study


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("variation", VARIATIONS)
def test_one_worker_equals_the_paper(variation: str, direction: str) -> None:
    compare(variation, 150, direction)


@pytest.mark.parametrize(
    ("storage", "variation"), [("sqlite", "iso_line"), ("journal", "genetic")]
)
def test_persistent_storages_change_no_bit(storage: str, variation: str, tmp_path: Path) -> None:
    compare(variation, 22, "maximize", make_storage(storage, tmp_path))


def test_it_fills_the_map_with_better_elites_than_random_search() -> None:
    space = {name: FloatDistribution(-5, 5) for name in "abcd"}
    grid = {"a": (-5, 5, 5), "b": (-5, 5, 5)}

    def bowl(trial: optuna.Trial) -> float:
        return sum(trial.suggest_float(name, -5, 5) ** 2 for name in space)

    def elites(initial: int, **options: Any) -> list[float]:
        sampler = MAPElitesSampler(space, descriptors=grid, initial=initial, seed=0, **options)
        study = optuna.create_study(sampler=sampler)
        study.optimize(bowl, n_trials=600)
        archive = sampler.archive(study)
        for (i, j), trial in archive.items():
            assert i == min(int((trial.params["a"] + 5) / 2), 4)
            assert j == min(int((trial.params["b"] + 5) / 2), 4)
        return [t.value for _, t in sorted(archive.items())]  # type: ignore[misc]

    random = elites(600)
    assert len(random) == 25
    for variation in (Gaussian(), IsoLine(), Genetic()):
        evolved = elites(100, variation=variation)
        assert len(evolved) == 25
        assert np.median(np.array(random) - np.array(evolved)) > 0.5


# -- Cells ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "cell"),
    [(0, 0), (0.0999, 0), (0.1, 1), (0.95, 9), (1.0, 9), (-3, 0), (7, 9), (-1e308, 0), (1e308, 9)],
)
def test_cells_by_hand(value: float, cell: int) -> None:
    assert Descriptor("accuracy", 0.0, 1.0, 10).cell(value) == cell
    assert Descriptor("one", 0.0, 1.0, 1).cell(value) == 0


SMALL: dict[str, Any] = {
    "u": FloatDistribution(0, 1),
    "k": IntDistribution(0, 9),
    "b": CategoricalDistribution([True, False]),
    "s": CategoricalDistribution(["left", "right"]),
}


def run(
    descriptors: Any, objective: Callable[[optuna.Trial], float], n: int = 1, **options: Any
) -> dict[tuple[int, ...], int]:
    sampler = MAPElitesSampler(SMALL, descriptors=descriptors, seed=0, **options)
    study = optuna.create_study(sampler=sampler)

    def with_all(trial: optuna.Trial) -> float:
        for name, distribution in SMALL.items():
            trial._suggest(name, distribution)
        return objective(trial)

    study.optimize(with_all, n_trials=n)
    return {cell: t.number for cell, t in sampler.archive(study).items()}


class TestDescriptors:
    bad: ClassVar = [None, math.nan, math.inf, -math.inf, "3", [1], 10**400]

    def test_a_user_attribute_comes_before_a_parameter(self) -> None:
        def both(trial: optuna.Trial) -> float:
            trial.set_user_attr("u", 0.75 + trial.params["u"] / 1000)
            return 0.0

        assert run({"u": (0, 1, 4)}, both) == {(3,): 0}

    def test_numbers_of_every_kind(self) -> None:
        def attrs(trial: optuna.Trial) -> float:
            trial.set_user_attr("int", 3)
            trial.set_user_attr("bool", True)
            return 0.0

        names = {"int": (0, 10, 10), "bool": (0, 2, 2), "k": (100, 200, 3)}
        assert run(names, attrs) == {(3, 1, 0): 0}

    def test_a_categorical_parameter_with_numbers(self) -> None:
        assert len(run({"b": (0, 1, 2)}, lambda trial: 0.0, n=20)) == 2

    @pytest.mark.parametrize("value", bad, ids=str)
    def test_others_are_left_out_with_a_warning(self, value: Any) -> None:
        def attr(trial: optuna.Trial) -> float:
            if trial.number == 1 and value is not None:
                trial.set_user_attr("size", value)
            elif trial.number != 1:
                trial.set_user_attr("size", trial.number)
            return -float(trial.number == 1)

        what = "is missing" if value is None else "is .*, not a finite number"
        message = f"^Trial 1 is left out of the archive .*'size' {what}.*set_user_attr\\('size'"
        with pytest.warns(UserWarning, match=message):
            assert run({"size": (0, 3, 3)}, attr, n=3, initial=1) == {(0,): 0, (2,): 2}

    def test_a_category_is_not_a_number(self) -> None:
        with pytest.warns(UserWarning, match="'s' is '(left|right)', not a finite number"):
            assert run({"s": (0, 1, 2)}, lambda trial: 0.0) == {}

    def test_trials_that_did_not_complete_are_not_warned_about(self) -> None:
        def pruned(trial: optuna.Trial) -> float:
            raise optuna.TrialPruned

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert run({"size": (0, 1, 2)}, pruned, n=3, initial=1) == {}


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_who_is_an_elite(direction: str) -> None:
    """Complete before pruned, feasible before infeasible, failed never, ties to the older."""
    sign = 1 if direction == "minimize" else -1
    sampler = MAPElitesSampler(
        SMALL, descriptors={"size": (0, 3, 3)}, seed=0, initial=1, max_attempts=1
    )
    study = optuna.create_study(sampler=sampler, direction=direction)

    def finish(kind: str, size: int, number: float) -> dict[tuple[int, ...], int]:
        trial = study.ask(SMALL)
        trial.set_user_attr("size", size)
        if kind == "infeasible":
            trial.set_constraint("c", 1.0)
        if kind == "pruned":
            trial.report(sign * number, 0)
        states = {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        state = states.get(kind, TrialState.COMPLETE)
        study.tell(trial, sign * number if state == TrialState.COMPLETE else None, state=state)
        return {cell: t.number for cell, t in sampler.archive(study).items()}

    assert finish("failed", 0, 0) == {}
    assert finish("pruned", 0, 5) == {(0,): 1}
    assert finish("pruned", 0, 5) == {(0,): 1}
    assert finish("pruned", 0, 4) == {(0,): 3}
    assert finish("infeasible", 0, 9) == {(0,): 4}
    assert finish("complete", 0, 99) == {(0,): 5}
    assert finish("infeasible", 1, -99) == {(0,): 5, (1,): 6}
    assert finish("infeasible", 0, -99) == {(0,): 5, (1,): 6}
    assert finish("pruned", 0, -99) == {(0,): 5, (1,): 6}
    assert finish("failed", 0, 0) == {(0,): 5, (1,): 6}
    assert finish("complete", 0, 99) == {(0,): 5, (1,): 6}
    assert finish("complete", 0, 98.5) == {(0,): 11, (1,): 6}


def test_uniform_candidates_come_first_and_while_nobody_is_there() -> None:
    space = {"u": FloatDistribution(0, 1), "v": FloatDistribution(0, 1)}
    sampler = MAPElitesSampler(space, descriptors={"u": (0, 1, 9)}, initial=5, seed=2)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda t: t.suggest_float("u", 0, 1) + t.suggest_float("v", 0, 1), n_trials=9)
    rows = [[0.0 + p for p in t.params.values()] for t in study.trials]
    uniform = [np.random.default_rng([2, 0, i, 0, 0]).random(2).tolist() for i in range(9)]
    assert rows[:5] == uniform[:5]
    assert all(row != x for row, x in zip(rows[5:], uniform[5:], strict=True))

    with pytest.warns(UserWarning, match="left out"):
        assert run({"size": (0, 1, 9)}, lambda trial: 0.0, n=4, initial=2) == {}


# -- Reading the archive ----------------------------------------------------------------------


def test_the_archive_of_a_study_that_is_going_on(tmp_path: Path) -> None:
    """From another process, with trials in flight, foreign ones, and without a search space."""
    space = {name: d for name, d in SPACE.items() if name != "one"}

    def make(search_space: Any) -> MAPElitesSampler:
        grid = {"x": (-2, 3, 5)}
        return MAPElitesSampler(search_space, descriptors=grid, initial=4, seed=0)

    storage = make_storage("journal", tmp_path)
    study = optuna.create_study(study_name="s", storage=storage, sampler=make(space))
    study.enqueue_trial({"x": 0.1, "y": 10.0, "k": 5, "m": 8, "s": 0.75, "c": "b", "one": 4.0})
    flying = [study.ask(SPACE) for _ in range(3)]  # 0 was enqueued
    for _ in range(12):
        flying.append(study.ask(SPACE))
        trial = flying.pop(0)
        study.tell(trial, value(trial.params))
    other = optuna.load_study(study_name="s", storage=make_storage("journal", tmp_path))
    archive = make(space).archive(other)
    best: dict[tuple[int], int] = {}
    for t in study.trials[1:12]:
        cell = (min(int(t.params["x"] + 2), 4),)
        if cell not in best or t.value < study.trials[best[cell]].value:  # type: ignore[operator]
            best[cell] = t.number
    assert {cell: t.number for cell, t in archive.items()} == best
    assert {cell: t.value for cell, t in archive.items()} == {
        cell: study.trials[number].value for cell, number in best.items()
    }
    next(iter(archive.values())).params.clear()  # a copy
    assert make(space).archive(other).keys() == archive.keys()
    assert all(t.params for t in make(space).archive(other).values())

    assert make(None).archive(optuna.create_study()) == {}
    inferred = optuna.create_study(sampler=make(None))
    inferred.optimize(objective, n_trials=10)
    assert sum(1 for t in inferred.trials if own_claim(t) is not None) == 10
    first = inferred.trials[0].number  # sampled before the space was known
    numbers = {t.number for t in make(None).archive(inferred).values()}
    assert numbers
    assert first not in numbers


@pytest.mark.parametrize("flying", [2, 7, 30])
def test_many_workers_with_every_outcome(flying: int) -> None:
    rng = np.random.default_rng(flying)
    sampler = MAPElitesSampler(
        SPACE, descriptors={"x": (-2, 3, 5)}, initial=9, seed=flying, max_attempts=2
    )
    study = optuna.create_study(sampler=sampler)
    running: list[optuna.Trial] = []
    for _ in range(110):
        running.append(study.ask(SPACE))
        if len(running) < flying:
            continue
        trial = running.pop(rng.integers(len(running)))
        if rng.random() < 0.15:
            study.tell(trial, state=TrialState.FAIL)
        elif rng.random() < 0.15:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.set_constraint("c", float(rng.integers(-1, 2)))
            study.tell(trial, value(trial.params))
    claims = [claim for t in study.trials if (claim := own_claim(t)) is not None]
    assert len({(c.place, c.attempt) for c in claims}) == len(claims) == 110
    best: dict[int, float] = {}
    for t in study.trials:
        if t.state == TrialState.COMPLETE and max(t.constraints.values()) <= 0:
            cell = min(int(t.params["x"] + 2), 4)
            best[cell] = min(best.get(cell, math.inf), t.values[0])
    archive = sampler.archive(study)
    assert {cell: archive[cell,].value for cell in best} == best


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"descriptors": {}}, "descriptors must name at least one"),
        ({"descriptors": {"x": (1, 1, 5)}}, r"range of descriptor 'x' must be .* \[1.0, 1.0\]"),
        ({"descriptors": {"x": (2, 1, 5)}}, "range of descriptor 'x'"),
        ({"descriptors": {"x": (0, math.inf, 5)}}, "range of descriptor 'x' must be finite"),
        ({"descriptors": {"x": (math.nan, 1, 5)}}, "range of descriptor 'x'"),
        ({"descriptors": {"x": (-1e308, 1e308, 5)}}, "range of descriptor 'x' must be finite"),
        ({"descriptors": {"x": (0, 1, 0)}}, "Descriptor 'x' must have at least 1 cell, got 0"),
        ({"descriptors": {"x": (0, 1, 5.5)}}, "Descriptor 'x' must be"),
        ({"descriptors": {"x": (0, 1)}}, r"Descriptor 'x' must be \(lower bound, upper bound"),
        ({"descriptors": {"x": ("low", 1, 2)}}, r"Descriptor 'x' must be .* got \('low', 1, 2\)"),
        ({"descriptors": {"x": None}}, "Descriptor 'x' must be"),
        ({"initial": 0}, "initial must be at least 1, got 0"),
        ({"seed": -1}, "seed must be a non-negative integer"),
        ({"initial_population": [{"z": 1}]}, r"initial_population\[0\] has 'z'"),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        MAPElitesSampler(SPACE, **{"descriptors": DESCRIPTORS, **options})


def test_archive_refuses_two_objectives() -> None:
    study = optuna.create_study(directions=["minimize"] * 2)
    with pytest.raises(StudyError, match="one objective"):
        MAPElitesSampler(SPACE, descriptors=DESCRIPTORS).archive(study)
