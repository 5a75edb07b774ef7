"""Whom a trial descends from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

import merge_optuna as mo
from merge_optuna.errors import StudyError
from merge_optuna.study import Ancestor, Lineage, best_trial
from tests import processes
from tests.samplers.storages import make_storage
from tests.spaces.models import nets
from tests.spaces.searches import KINDS, search

NETS = [net.name for net in nets()]


def child(study: optuna.Study) -> int:
    """The last child in a study."""
    return max(t.number for t in study.trials if t.params["origin"] == "child")


@pytest.mark.parametrize("kind", KINDS)
def test_everybody_it_descends_from(kind: str) -> None:
    study = search(kind, None, 15)
    ids = {t.number: t.number for t in study.trials}  # alone, and nothing has failed
    for trial in study.trials:
        found = mo.lineage(study, trial.number)
        assert isinstance(found, Lineage)
        assert found.trial.trial == trial.number
        place = {one.trial: i for i, one in enumerate(found.ancestors)}
        assert len(place) == len(found.ancestors), "each once"
        for i, one in enumerate(found.ancestors):
            stored = study.trials[one.trial]
            assert one.value == stored.value
            assert one.origin == stored.params["origin"]
            named = {n: ids[number] for n, number in one.parents.items()}
            assert {"origin": one.origin, **one.params, **named} == stored.params
            assert all(place[number] < i for number in one.parents.values()), "parents first"
            above = [found.ancestors[place[number]] for number in one.parents.values()]
            assert one.generation == 1 + max((a.generation for a in above), default=-1)
            if one is not found.trial:
                assert one.individual == ids[one.trial]
        reached = {trial.number}
        for one in reversed(found.ancestors):
            assert one.trial in reached, "nobody else"
            reached |= {*one.parents.values()}
    assert mo.lineage(study).trial.trial == best_trial(study).number
    assert mo.lineage(study, study.trials[3]) == mo.lineage(study, 3)


# -- shares, by recursion over whole vectors --------------------------------------------------


def spread(lineage: Lineage, mix: Callable[[Ancestor, Mapping[str, Any]], Any], size: int) -> Any:
    """(size, sources): what each element of the trial has of each source."""
    known: dict[int, Any] = {}
    for one in lineage.ancestors:
        if one.parents:
            known[one.trial] = mix(one, {n: known[number] for n, number in one.parents.items()})
        else:
            known[one.trial] = np.tile(np.array(NETS) == one.origin, (size, 1)).astype(float)
    return known[lineage.trial.trial]


@pytest.mark.parametrize("kind", ["niches", "niches-noise", "map-elites"])
def test_shares_of_spliced_models(kind: str) -> None:
    size = 100_000

    def mix(one: Ancestor, parents: Mapping[str, Any]) -> Any:
        split, ratio = one.params["split"], one.params["ratio"]
        t = np.where(np.arange(size) < split * size, ratio, 1 - ratio)[:, None]
        return (1 - t) * parents["parent_a"] + t * parents["parent_b"]

    study = search(kind, None, 25)
    found = mo.lineage(study, child(study))
    shares = found.shares
    assert shares is not None
    expected = dict(zip(NETS, spread(found, mix, size).mean(axis=0), strict=True))
    assert {name: shares.get(name, 0) for name in NETS} == pytest.approx(expected, abs=1e-4)
    assert math.isclose(sum(shares.values()), 1)


@pytest.mark.parametrize("mutation", ["difference", "toward"])
def test_shares_of_crossed_models(mutation: str) -> None:
    rng, size = np.random.default_rng(0), 200_000

    def mix(one: Ancestor, parents: Mapping[str, Any]) -> Any:
        target, a = parents["target"], parents["donor_a"]
        mutant = target + one.params["F"] * (a - parents.get("donor_b", target))
        return np.where(rng.random((size, 1)) < one.params["CR"], mutant, target)

    study = search("evolver", None, 12, mutation=mutation)
    found = mo.lineage(study, child(study))
    shares = found.shares
    assert shares is not None
    expected = dict(zip(NETS, spread(found, mix, size).mean(axis=0), strict=True))
    assert {name: shares.get(name, 0) for name in NETS} == pytest.approx(expected, abs=0.02)


def test_shares_of_particles() -> None:
    rng, size = np.random.default_rng(0), 200_000
    w, c1, c2 = 0.2, 2.0, 2.0  # of the paper

    def mix(one: Ancestor, parents: Mapping[str, Any]) -> Any:
        x = parents["position"]
        r1, r2 = rng.random((2, size, 1))
        pulls = c1 * r1 * (parents["pbest"] - x) + c2 * r2 * (parents["gbest"] - x)
        return x + w * (x - parents["before"]) + pulls

    study = search("swarm", None, 14)
    found = mo.lineage(study, child(study))
    assert found.trial.generation > 2
    shares = found.shares
    assert shares is not None
    expected = dict(zip(NETS, spread(found, mix, size).mean(axis=0), strict=True))
    assert {name: shares.get(name, 0) for name in NETS} == pytest.approx(expected, abs=0.02)
    assert math.isclose(sum(shares.values()), 1)


def test_shares_of_the_members_of_a_population() -> None:
    study = search("evolver-merged", None, 25)
    trials = study.trials

    def member(number: int, slot: str) -> dict[str, np.ndarray]:
        """The models of a trial's population, as vectors of what they have of each model."""
        params = trials[number].params
        if params["origin"] != "child":
            return {name: np.array(NETS) == name for name in NETS}[slot].astype(float)
        if slot != params["target"]:
            return child_in(params[f"member/{slot}"], slot)
        target, a, b = (
            child_in(params[f"member/{params[role]}"], params[role])
            for role in ("target", "donor_a", "donor_b")
        )
        return target + params["CR"] * params["F"] * (a - b)

    def child_in(number: int, slot: str) -> Any:
        """What a trial has made; the model itself, if it is the merge of the models."""
        params = trials[number].params
        return member(number, params.get("target", slot))

    last = max(t.number for t in trials if t.params["origin"] == "child" and _has_moved(t.params))
    found = mo.lineage(study, last)
    assert found.shares is None
    members = found.members
    assert members is not None
    for slot in NETS:
        own = [members[slot].get(name, 0.0) for name in NETS]
        np.testing.assert_allclose(own, member(last, slot), atol=1e-12)
    assert mo.lineage(search("niches", None, 6)).members is None


def _has_moved(params: Mapping[str, Any]) -> bool:
    """Whether somebody in the population is no model any more, beside the child."""
    return any(params[f"member/{slot}"] for slot in NETS)


# -- text -------------------------------------------------------------------------------------


def family() -> Lineage:
    """3 is a child of 2 and 0, 2 one of 1 and 0."""
    return Lineage(
        "s",
        (
            Ancestor(0, 0, "ja", 0.5, {}, {}, 0),
            Ancestor(1, 1, "math", None, {}, {}, 0),
            Ancestor(
                2, 2, "child", 0.75, {"parent_a": 1, "parent_b": 0}, {"split": 0.25, "ratio": 1}, 1
            ),
            Ancestor(
                5,
                None,
                "child",
                1.0,
                {"parent_a": 2, "parent_b": 2},
                {"split": 1, "ratio": 0.5},
                2,
            ),
        ),
    )


def test_the_tree() -> None:
    assert str(family()) == (
        "trial 5: 1, split=1, ratio=0.5\n"
        "  parent_a: trial 2: 0.75, split=0.25, ratio=1\n"
        "    parent_a: trial 1: math, no score\n"
        "    parent_b: trial 0: ja, 0.5\n"
        "  parent_b: trial 2, see above"
    )
    assert family().tree(1).splitlines()[1:] == [
        "  parent_a: trial 2: 0.75, split=0.25, ratio=1",
        "  parent_b: trial 2, see above",
        "2 earlier ancestors",
    ]
    assert family().shares == {"ja": 0.25, "math": 0.75}
    assert json.loads(json.dumps(family().to_data()))["ancestors"][3] == {
        "trial": 5,
        "individual": None,
        "origin": "child",
        "value": 1.0,
        "parents": {"parent_a": 2, "parent_b": 2},
        "params": {"split": 1, "ratio": 0.5},
        "generation": 2,
    }


def test_thousands_of_generations() -> None:
    first = Ancestor(0, 0, "ja", 0.5, {}, {}, 0)
    params = {"split": 0.25, "ratio": 0.5}
    rest = [
        Ancestor(n, n, "child", 0.5, {"parent_a": n - 1, "parent_b": 0}, params, n)
        for n in range(1, 3000)
    ]
    long = Lineage("s", (first, *rest))
    assert long.shares == {"ja": pytest.approx(1)}
    assert len(long.tree(3).splitlines()) == 8
    assert "2995 earlier" in long.tree(3)
    assert len(str(long).splitlines()) == 2 * 3000 - 1


# -- other studies and processes --------------------------------------------------------------


def test_refused() -> None:
    study = optuna.create_study(study_name="s")
    with pytest.raises(StudyError, match="'s' has no completed trial"):
        mo.lineage(study)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(StudyError, match=r"Trial 0 .* descends from no other.*SplitSlerp"):
        mo.lineage(study)
    with pytest.raises(StudyError, match="no trial 7; it has 1"):
        mo.lineage(study, 7)


def test_the_command(tmp_path: Path) -> None:
    study = search("niches", make_storage("sqlite", tmp_path), 12)
    number = child(study)
    found = mo.lineage(study, number)
    url = f"sqlite:///{tmp_path}/study.db"
    calls = [["--trial", number], ["--trial", number, "--depth", 1], ["--json"], ["--trial", 99]]
    running = [processes.command("lineage", url, *which, cwd=tmp_path) for which in calls]
    whole, short, data, refused = [one.wait() for one in running]
    assert whole.code == 0, whole.err
    assert whole.out.endswith(f"\n\n{found.tree(3)}\n")
    assert f"s: trial {number}, {len(found.ancestors) - 1} ancestors" in whole.out
    assert short.out.endswith(f"\n\n{found.tree(1)}\n")
    assert json.loads(data.out) == json.loads(json.dumps(mo.lineage(study).to_data()))
    assert (refused.code, "no trial 99; it has 12" in refused.err) == (1, True)
