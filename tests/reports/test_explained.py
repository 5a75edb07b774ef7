"""What parameters explain, against analysis of variance, regression and Optuna's evaluator."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.samplers import BaseSampler, RandomSampler
from scipy.stats import f_oneway

import merge_optuna as mo
from merge_optuna.reports._explained import Explained, explained

Array = NDArray[np.float64]
optuna.logging.set_verbosity(optuna.logging.ERROR)
LAYERS = 12


def run(x: Array, y: Array, **options: int) -> Explained:
    """What the columns of x explain of small y."""
    n, p = x.shape
    return explained(x, np.ones(p, bool), y[:, None], np.zeros(n), **options)


def thirds(x: Array) -> NDArray[np.int64]:
    return np.argsort(np.argsort(x, axis=0), axis=0) * 3 // len(x)


def best_third(y: Array) -> Array:
    return np.float64(np.argsort(np.argsort(y)) < round(len(y) / 3))


def test_one_parameter_is_a_one_way_analysis_of_variance() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((300, 3))
    y = np.abs(x[:, 0] - 0.4) + 0.3 * x[:, 1] + 0.1 * rng.random(300)
    good = best_third(y)
    for i, found in enumerate(run(x, y, window=300).shares):
        groups = [good[thirds(x[:, i]) == j] for j in range(3)]
        ratio = f_oneway(*groups).statistic * 2 / 297  # of the sums of squares
        adjusted = 1 - (1 - ratio / (1 + ratio)) * 299 / 297
        assert found == pytest.approx(adjusted, abs=1e-12)


def test_a_group_is_the_best_additive_explanation() -> None:
    """R² of a regression on all thirds of its parameters, which are independent here."""
    rng = np.random.default_rng(1)
    x = rng.random((3000, 6))
    y = (x[:, 0] - 0.5) ** 2 + 0.1 * x[:, 1] + 0.05 * x[:, 4]
    found = run(x, y, window=3000)
    for group in ([0, 1], [2, 3], [0, 1, 2, 3, 4, 5]):
        design = np.concatenate([np.eye(3)[thirds(x[:, i])] for i in group], axis=1)
        good = best_third(y)
        fitted = design @ np.linalg.lstsq(design, good, rcond=None)[0]
        assert found.of(group)[0] == pytest.approx(fitted.var() / good.var(), abs=0.01)


def test_what_decides_all_explains_all() -> None:
    x = np.random.default_rng(2).random((400, 2))
    assert run(x, x[:, 0]).of([0])[0] == pytest.approx(1, abs=0.01)
    assert run(x, x[:, 0], window=400).of([0])[0] == pytest.approx(1)


def test_what_parameters_do_only_together_is_not_counted() -> None:
    x = np.random.default_rng(3).random((3000, 2))
    odd = np.float64((x[:, 0] > 0.5) != (x[:, 1] > 0.5))
    assert run(x, odd).of([0, 1])[0] < 0.02
    assert run(odd[:, None], odd).of([0])[0] > 0.9


def test_optuna_agrees_where_nothing_moves() -> None:
    """PED-ANOVA with kernels, at the same quantile, of a random search."""
    study = optuna.create_study(sampler=RandomSampler(seed=4))
    weights = (3.0, 2.0, 1.0, 0.0)
    study.optimize(
        lambda trial: sum(w * trial.suggest_float(f"x{i}", 0, 1) for i, w in enumerate(weights)),
        n_trials=1500,
    )
    names = [f"x{i}" for i in range(4)]
    evaluator = PedAnovaImportanceEvaluator(target_quantile=1 / 3)
    theirs = get_param_importances(study, evaluator=evaluator, normalize=False)
    x = np.array([[trial.params[name] for name in names] for trial in study.trials])
    found = run(x, np.array([trial.value for trial in study.trials]))
    variance = 1 / 3 * (1 - 1 / 3)  # Optuna's is not divided by it
    expected = np.array([theirs[name] / variance for name in names])
    # Thirds among 20 are coarser than kernels among 1500: a fifth less, in the same proportions.
    assert 0.75 < found.shares.sum() / expected.sum() < 1
    proportions = found.shares / found.shares.sum()
    np.testing.assert_allclose(proportions, expected / expected.sum(), atol=0.06)
    assert expected[0] > 0.4


@pytest.mark.parametrize("extra", [0, 30])
def test_what_has_no_effect_has_no_share_however_many_parameters(extra: int) -> None:
    rng = np.random.default_rng(5)
    shares = []
    for _ in range(20):
        x = rng.random((200, 2 + extra))
        shares.append(run(x, x[:, 0]).of([*range(1, 2 + extra)])[0])
    assert abs(np.mean(shares)) < 3 * np.std(shares) / np.sqrt(20) + 1e-9


def test_chance_is_what_lots_say() -> None:
    rng = np.random.default_rng(6)
    above = []
    for _ in range(200):
        share, chance = run(rng.random((100, 8)), rng.random(100)).of([0, 1, 2, 3])
        above.append(share > chance)
    assert 0.01 < np.mean(above) < 0.11  # once in 20


def test_what_moves_while_the_search_gets_better_explains_nothing() -> None:
    rng = np.random.default_rng(7)
    time = np.linspace(0, 1, 400)
    x = np.stack([time + 0.2 * rng.random(400), rng.random(400)], axis=1)
    y = -0.3 * time + 0.1 * x[:, 1]
    found = run(x, y)
    assert found.of([0])[0] < found.of([0])[1] + 0.02
    assert found.of([1])[0] > 0.5
    assert run(x, y, window=400).of([0])[0] > 0.5  # without windows it would


@pytest.mark.parametrize("kind", ["random", "cma-es"])
def test_only_one_layer_matters(kind: str) -> None:
    """Its four parameters of 48 decide everything, and the search moves them all."""
    names = [f"{p}/{k:02d}" for p in ("a", "b", "c", "d") for k in range(LAYERS)]
    space = {name: FloatDistribution(0, 1) for name in names}
    sampler: BaseSampler = RandomSampler(seed=0)
    if kind == "cma-es":
        sampler = mo.samplers.CmaEsSampler(space, seed=0, x0=dict.fromkeys(names, 0.5))
    study = optuna.create_study(sampler=sampler)
    optimum = dict(zip([f"{p}/07" for p in "abcd"], (0.8, 0.3, 0.6, 0.2), strict=True))

    def distance(trial: optuna.Trial) -> float:
        x = {name: trial.suggest_float(name, 0, 1) for name in names}
        return sum((x[name] - best) ** 2 for name, best in optimum.items())

    study.optimize(distance, n_trials=300)
    x = np.array([[trial.params[name] for name in names] for trial in study.trials])
    found = run(x, np.array([trial.value for trial in study.trials]))
    layers = [
        found.of([i for i, n in enumerate(names) if n.endswith(f"/{k:02d}")])
        for k in range(LAYERS)
    ]
    shares = np.array([share for share, _ in layers])
    assert shares.argmax() == 7
    assert shares[7] > 4 * np.delete(shares, 7).max()


def test_choices_absent_parameters_and_constraints() -> None:
    rng = np.random.default_rng(8)
    x = rng.integers(0, 5, (300, 2)).astype(float)  # choices without an order
    x[:, 1] = np.where(rng.random(300) < 0.5, np.nan, rng.random(300))
    ordered = np.array([False, True])
    by_choice = explained(x, ordered, (x[:, 0] == 3)[:, None] * -1.0, np.zeros(300))
    assert by_choice.of([0])[0] > 0.9
    by_absence = explained(x, ordered, np.isnan(x[:, 1])[:, None] * -1.0, np.zeros(300))
    assert by_absence.of([1])[0] > 0.9
    assert abs(by_absence.of([0])[0]) < 0.1
    violations = np.where(x[:, 0] == 3, 0.0, 1.0)
    by_constraint = explained(x, ordered, rng.random((300, 1)), violations)
    assert by_constraint.of([0])[0] > 0.3


def test_equal_trials_tell_nothing() -> None:
    found = run(np.random.default_rng(9).random((60, 3)), np.zeros(60))
    np.testing.assert_array_equal(found.shares, 0)
