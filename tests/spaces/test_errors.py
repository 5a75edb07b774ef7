"""What evolution refuses, and when: before the first trial wherever that is possible."""

from __future__ import annotations

import json
import resource
import sqlite3
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

import merge_optuna as mo
from merge_optuna.errors import CheckpointMismatch, RecipeError, StorageError, StudyError
from merge_optuna.samplers import (
    CmaEsSampler,
    DESampler,
    GASampler,
    MAPElitesSampler,
    NichesSampler,
    PSOSampler,
)
from merge_optuna.spaces import Genealogy, parents_of
from tests import processes
from tests.samplers.storages import make_storage
from tests.spaces.models import Net, Waves, nets
from tests.spaces.searches import done, finished, make_space, search

optuna.logging.set_verbosity(optuna.logging.ERROR)

SPACES: dict[str, Callable[..., Genealogy]] = {
    "slerp": mo.spaces.SplitSlerp,
    "crossover": mo.spaces.DifferentialCrossover,
}


@pytest.fixture(params=SPACES)
def kind(request: pytest.FixtureRequest) -> Callable[..., Genealogy]:
    return SPACES[request.param]


def run(
    space: Genealogy,
    sampler: optuna.samplers.BaseSampler | None = None,
    *,
    study: optuna.Study | None = None,
    n_trials: int = 5,
) -> optuna.Study:
    sampler = sampler or space.sampler(seed=0)
    if study is None:
        study = optuna.create_study(direction="maximize", sampler=sampler, study_name="s")
    study.sampler = sampler
    study.optimize(mo.MergeObjective(space, Waves()), n_trials=n_trials)
    return study


# -- models -----------------------------------------------------------------------------------


def test_models(kind: Callable[..., Genealogy]) -> None:
    for few in ([], nets(1)):
        with pytest.raises(RecipeError, match=rf"at least (two|2) .*, not {len(few)}"):
            kind(few)
    other = mo.Checkpoint.from_module(Net(1, width=5), name="wide")
    with pytest.raises(CheckpointMismatch, match=r"'wide' and 'net0'.* \(4, 5\) != \(4, 8\)"):
        kind([*nets(1), other])
    called = mo.Checkpoint.from_module(Net(1), name="child")
    with pytest.raises(RecipeError, match=r"cannot be called 'child'.*another name"):
        kind([*nets(1), called])
    free = mo.recipes.linear(nets(2), weight=mo.free(0, 1), name="avg")
    with pytest.raises(RecipeError, match=r"free numbers: avg/.*bind them first"):
        kind([*nets(1), free])


def test_what_is_no_model(kind: Callable[..., Genealogy]) -> None:
    a, b = nets(2)
    with pytest.raises(RecipeError, match=r"takes a list of models: \[net0\], not one"):
        kind(a)
    with pytest.raises(RecipeError, match=r"not 'net0'\. Wrap a folder: mo\.Checkpoint\(folder\)"):
        kind(["net0", b])


@pytest.mark.parametrize("preset", ["m2n2", "evolver", "pso_merging", "evolutionary_merge"])
def test_presets_take_a_base_and_a_list(preset: str) -> None:
    a, b, c = nets(3)
    make = getattr(mo.presets, preset)
    with pytest.raises(RecipeError, match=r"takes a list of models: \[net1\], not one"):
        make(a, b, Waves())
    with pytest.raises(RecipeError, match=r"takes a list of models: \[net2\], not one"):
        make([a, b], c, Waves())


def test_budgets_and_caches_are_no_debts() -> None:
    a, b, c = nets(3)
    with pytest.raises(RecipeError, match="cache_bytes must not be negative, but is -1"):
        mo.spaces.DifferentialCrossover([a, b, c], cache_bytes=-1)
    with pytest.raises(StudyError, match="generations must be at least 1, not 0"):
        mo.presets.evolver(None, [a, b, c], Waves(), generations=0)
    with pytest.raises(StudyError, match="steps must be at least 1, not -2"):
        mo.presets.pso_merging(a, [b, c], Waves(), steps=-2)
    with pytest.raises(StudyError, match="n_trials must not be negative, but is -5"):
        mo.presets.m2n2(None, [a, b, c], Waves(), n_trials=-5)


def test_a_descriptor_that_sources_lack() -> None:
    space = mo.spaces.SplitSlerp(nets(2)).distributions()
    with pytest.raises(StudyError, match=r"Descriptor 'split' is a parameter that the source"):
        MAPElitesSampler(space, descriptors={"split": (0, 1, 10)})
    MAPElitesSampler(space, descriptors={"accuracy": (0, 1, 10)})


# -- samplers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        optuna.samplers.TPESampler,
        optuna.samplers.CmaEsSampler,
        optuna.samplers.RandomSampler,
        CmaEsSampler,
        DESampler,
        PSOSampler,
        GASampler,
        NichesSampler,
    ],
)
def test_samplers_that_know_no_parents(
    make: Callable[..., optuna.samplers.BaseSampler], kind: Callable[..., Genealogy]
) -> None:
    space = kind(nets())
    right = type(space.sampler()).__name__
    with pytest.raises(StudyError, match=rf"space\.sampler\(seed=0\), a {right}\."):
        run(space, make())
    declared = mo.MergeStudy("s", mo.MergeObjective(space, Waves()), sampler=make(), n_trials=5)
    with pytest.raises(StudyError, match=r"space\.sampler\(seed=0\)"):
        declared.open(None)
    if make in (CmaEsSampler, DESampler, PSOSampler, GASampler):
        with pytest.raises(StudyError, match=r"knows nothing of parents.*space\.sampler"):
            make(space.distributions())


@pytest.mark.parametrize(
    "make",
    [
        CmaEsSampler,
        DESampler,
        PSOSampler,
        GASampler,
        NichesSampler,
        lambda space, **options: MAPElitesSampler(space, descriptors={"x": (0, 1, 4)}, **options),
    ],
)
def test_a_parameter_that_is_called_origin(make: Callable[..., Any]) -> None:
    """And has a choice called child: an ordinary space all the same."""
    choices = ["adult", "child"]
    space = {"origin": CategoricalDistribution(choices), "x": FloatDistribution(0, 1)}

    def objective(trial: optuna.Trial) -> float:
        x, origin = trial.suggest_float("x", 0, 1), trial.suggest_categorical("origin", choices)
        return abs(x - 0.3) + (origin == "adult")

    study = optuna.create_study(sampler=make(space, seed=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without scores there is one niche
        study.optimize(objective, n_trials=60)
    first = study.trials[:20]
    assert {trial.params["origin"] for trial in first} == set(choices)
    assert len({trial.params["x"] for trial in first}) == 20
    assert study.best_value < 0.2


def test_samplers_of_other_individuals() -> None:
    slerp, crossover = (kind(nets()) for kind in SPACES.values())
    for make in (
        lambda: NichesSampler(crossover.distributions()),
        lambda: MAPElitesSampler(crossover.distributions(), descriptors={"x": (0, 1, 2)}),
        lambda: mo.samplers.EvolverSampler(slerp.distributions()),
    ):
        with pytest.raises(StudyError, match=r"space\.sampler\(seed=0\)"):
            make()
    plain = dict(slerp.distributions())  # numbers like any other: they do not say who breeds
    with pytest.raises(StudyError, match=r"without the space.*space\.sampler\(seed=0\)"):
        run(slerp, NichesSampler(plain))
    with pytest.raises(StudyError, match="made for another space than the objective's"):
        run(slerp, mo.spaces.SplitSlerp(nets(2)).sampler(seed=0))


@pytest.mark.parametrize(
    "space", [mo.spaces.SplitSlerp(nets()), mo.recipes.linear(nets(), weight=mo.free(0, 1))]
)
def test_niches_without_examples(space: Any) -> None:
    def score(model: Any) -> float:
        return float(model.w1.sum())

    objective = mo.MergeObjective(space, score)
    declared = mo.MergeStudy(
        "s", objective, sampler=NichesSampler(space.distributions(), seed=0), n_trials=5
    )
    with pytest.raises(StudyError, match=r"compete for examples.*Classification.*alpha=0"):
        declared.run(None, progress=False)
    plain = NichesSampler(space.distributions(), alpha=0, attraction=False, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sampler's own: there is one niche
        study = mo.MergeStudy("s", objective, sampler=plain, n_trials=5, baselines=False).run(
            None, progress=False
        )
    assert len(finished(study)) == 5


def test_a_child_that_a_person_enqueues(kind: Callable[..., Genealogy]) -> None:
    space = kind(nets())
    study = run(space)
    expected = [t.params for t in run(space, n_trials=9).trials]
    names = [name for name in space.distributions() if name != "origin"]
    study.enqueue_trial({"origin": "child", **{n: study.trials[4].params[n] for n in names}})
    study.enqueue_trial({"origin": "net1"})
    study = run(space, study=study, n_trials=6)
    child, source = study.trials[5:7]
    assert child.state == TrialState.FAIL
    assert "Only sources can be enqueued" in child.user_attrs["error"]
    assert source.value == study.trials[1].value
    claimed = [t.params for t in study.trials if t.number not in (5, 6)]
    assert claimed == expected, "the search takes no notice of them"


# -- another space ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({}, {"angle": "segment"}, "angle='global', now 'segment'"),
        ({}, {"snap": "layer"}, "snap=None, now 'layer'"),
        ({"mutation_std": 0.1}, {"mutation_std": 0.2}, r"mutation_std=0\.1, now 0\.2"),
        ({}, {"exclude": ["b1"]}, "excluded tensors"),
    ],
)
def test_another_slerp(before: dict[str, Any], now: dict[str, Any], said: str) -> None:
    study = run(mo.spaces.SplitSlerp(nets(), **before))
    with pytest.raises(StudyError, match=f"{said}.*another study_name"):
        run(mo.spaces.SplitSlerp(nets(), **now), study=study)


@pytest.mark.filterwarnings("ignore:.*starts anew")
def test_another_crossover() -> None:
    models = nets()
    linear = mo.recipes.linear(models)
    made = mo.spaces.DifferentialCrossover
    study = run(made(models))
    for options, said in [
        ({"granularity": "row"}, "granularity='parameter', now 'row'"),
        ({"mutation": "toward"}, "mutation='difference', now 'toward'"),
        ({"merger": linear}, "without a merger, now with one"),
    ]:
        with pytest.raises(StudyError, match=said):
            run(made(models, **options), study=study)
    with pytest.raises(StudyError, match=r"sources .*net0.*, now"):
        run(made(models[::-1]), study=study)
    with pytest.raises(StudyError, match="differential_crossover, now split_slerp"):
        run(mo.spaces.SplitSlerp(models), study=study)
    before = len(finished(study))
    run(made(models, cache_bytes=0), study=study, n_trials=2)  # changes no weights
    assert len(finished(study)) == before + 2


# -- a database that was changed --------------------------------------------------------------

FAILED = [
    "UPDATE trials SET state = 'FAIL' WHERE number = :n",
    "DELETE FROM trial_values WHERE trial_id = (SELECT trial_id FROM trials WHERE number = :n)",
]
DELETED = [
    *(
        f"DELETE FROM {table} WHERE trial_id = (SELECT trial_id FROM trials WHERE number = :n)"
        for table in (
            "trial_params",
            "trial_values",
            "trial_user_attributes",
            "trial_system_attributes",
        )
    ),
    "DELETE FROM trials WHERE number = :n",
]


@pytest.mark.parametrize("kind", ["niches", "evolver", "evolver-merged"])
@pytest.mark.parametrize(
    ("statements", "said", "refused"),
    [
        (FAILED, "has failed: it cannot be a parent", "has failed: it cannot be a parent"),
        (DELETED, "is missing", r"is missing in the study\. Trials must not be deleted"),
    ],
)
def test_a_parent_that_failed_or_was_deleted(
    kind: str, statements: list[str], said: str, refused: str, tmp_path: Path
) -> None:
    study = search(kind, make_storage("sqlite", tmp_path), 9)
    children = {t.number: parents_of(t) for t in study.trials}
    child = max(number for number, parents in children.items() if parents)
    parent = max(children[child].values())
    with sqlite3.connect(tmp_path / "study.db") as database:
        for statement in statements:
            database.execute(statement, {"n": parent})
    study = optuna.load_study(study_name="s", storage=make_storage("sqlite", tmp_path))
    sources = {net.name: net for net in nets()}
    for ask in (
        lambda: mo.recipe_of(study, child, sources=sources),
        lambda: mo.lineage(study, child),
        lambda: mo.export(study, tmp_path / "out", trial=child, sources=sources),
    ):
        with pytest.raises(StudyError, match=rf"Trial {child} .* trial {parent}, which {said}"):
            ask()
    space, study.sampler = make_space(kind)
    trials = len(study.trials)
    with pytest.raises(StudyError, match=refused):
        mo.MergeObjective(space, Waves()).check_study(study)
    assert len(study.trials) == trials
    with pytest.raises(StudyError, match=refused):  # by a plain study.optimize too
        search(kind, make_storage("sqlite", tmp_path), 12)


@pytest.mark.parametrize("kind", ["niches", "evolver"])
def test_pruning_is_warned_of(kind: str) -> None:
    space, sampler = make_space(kind)
    objective = mo.MergeObjective(space, Waves())
    for pruner in (optuna.pruners.WilcoxonPruner(), optuna.pruners.MedianPruner()):
        study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
        with pytest.warns(UserWarning, match=r"Switch pruning off: .*NopPruner\(\)") as told:
            objective.check_study(study)
        assert len(told) == 1
        assert str(told[0].message).startswith(type(pruner).__name__)
    study.pruner = optuna.pruners.NopPruner()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective.check_study(study)


# -- the cache folder -------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "below", tmp_path / "file", Path("/proc/merge-optuna")):
        for make in (
            lambda f=folder: mo.spaces.SplitSlerp(nets(), mutation_std=0.1, cache_folder=f),
            lambda f=folder: mo.spaces.DifferentialCrossover(nets(), cache_folder=f),
        ):
            with pytest.raises(StorageError, match=rf"'{folder}' cannot be written.*another one"):
                make()


def fill(kind: str, limit: int, folder: Path, out: Path) -> None:
    """A search whose files can be no larger than ``limit`` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = done(search(kind, None, 15, cache_folder=folder))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    said = [str(w.message) for w in caught if "cannot be kept" in str(w.message)]
    out.write_text(json.dumps([found, said, [p.name for p in folder.iterdir()]]))


@pytest.mark.parametrize("kind", ["niches-noise", "evolver", "evolver-merged"])
def test_a_folder_that_is_full(kind: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "cache", tmp_path / "out"
    result = processes.call(fill, kind, 100, folder, out, cwd=tmp_path).wait()
    assert result.code == 0, result.err
    found, said, left = json.loads(out.read_text())
    assert found == done(search(kind, None, 15))
    assert len(said) == 1, "once"
    assert f"kept in {str(folder)!r} any more" in said[0]
    assert "The search goes on" in said[0]
    assert "Make room" in said[0]
    assert left == [], "nothing unfinished"


# -- several at once --------------------------------------------------------------------------


@pytest.mark.parametrize("merger", [None, mo.recipes.linear(nets())])
def test_a_model_that_takes_its_time(merger: mo.Recipe | None) -> None:
    """Others evaluate models again meanwhile; they must not take it for one that failed."""
    space = mo.spaces.DifferentialCrossover(nets(), merger=merger)
    study = optuna.create_study(direction="maximize", sampler=space.sampler(seed=0))
    objective = mo.MergeObjective(space, Waves())
    slow = study.ask()
    for _ in range(6):
        trial = study.ask()
        study.tell(trial, objective(trial))
    assert {t.params["origin"] for t in study.trials[1:]} != {"child"}
    study.tell(slow, objective(slow))
    trial = study.ask()
    study.tell(trial, objective(trial))
    assert trial.params["origin"] == "child"


@pytest.mark.parametrize(
    ("merger", "candidate"),
    [(None, 5), (mo.recipes.linear(nets()), 1), (mo.recipes.linear(nets()), 5)],
)
def test_a_candidate_that_fails_before_it_asks(merger: mo.Recipe | None, candidate: int) -> None:
    """It ranks last after three attempts, although nothing is stored of its parameters."""
    space = mo.spaces.DifferentialCrossover(nets(), merger=merger)
    study = optuna.create_study(direction="maximize", sampler=space.sampler(seed=0))
    objective = mo.MergeObjective(space, Waves())

    def fail(trial: optuna.Trial) -> Any:
        if candidate <= trial.number < candidate + 3:
            raise OSError
        return objective(trial)

    study.optimize(fail, n_trials=12, catch=OSError)
    assert len(finished(study)) == 9
