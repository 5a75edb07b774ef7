"""Real processes for the sampler tests: ``python -m tests.samplers.driver``.

Reads one task a line (JSON: name, folder, then the arguments) and forks for each, since a fresh
interpreter costs over a second; imports neither torch nor pytest. The answer is ``answer.json``
in the folder.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from merge_optuna.samplers import (
    CatCmaEsSampler,
    CmaEsSampler,
    DESampler,
    GASampler,
    MAPElitesSampler,
    NichesSampler,
    NSGA2Sampler,
    PSOSampler,
    StoredSampler,
)
from merge_optuna.samplers._protocol import waiting
from merge_optuna.testing import WriteHook, kill_at, on_write
from tests.samplers.storages import make_storage

SPACE = {
    "x": FloatDistribution(-1, 2),
    "y": FloatDistribution(1e-3, 1, log=True),
    "k": IntDistribution(0, 9),
}
_AFTER_THE_CLAIM = ("x", "y", "k", "report", "attribute", "constraint", "tell")
WRITES = {
    "journal": ("create", "owner", "claim", *_AFTER_THE_CLAIM),
    "sqlite": ("create", "claim", *_AFTER_THE_CLAIM),  # at once, as nobody is waited for
}

GRID = {"x": (-1, 2, 4)}
SAMPLERS: dict[str, Callable[[], StoredSampler]] = {
    "cmaes": lambda: CmaEsSampler(SPACE, seed=1),
    "catcma": lambda: CatCmaEsSampler(SPACE, population_size=5, seed=1),
    "de": lambda: DESampler(SPACE, population_size=5, seed=1),
    "pso": lambda: PSOSampler(SPACE, population_size=5, seed=1),
    "ga": lambda: GASampler(SPACE, population_size=5, seed=1),
    "map-elites": lambda: MAPElitesSampler(SPACE, descriptors=GRID, initial=5, seed=1),
    "niches": lambda: NichesSampler(SPACE, archive_size=4, initial=5, seed=1),
    "nsga2": lambda: NSGA2Sampler(SPACE, population_size=5, seed=1),
}


def objective(trial: optuna.Trial) -> float:
    x, y, k = suggested(trial)
    trial.report(x, 0)
    trial.set_user_attr("note", "a user attribute")
    trial.set_constraint("c", x - 2)
    return round((x - 1) ** 2 + abs(y - 0.1) + (k - 3) ** 2 / 9, 1)


def two_objectives(trial: optuna.Trial) -> tuple[float, float]:
    x, y, k = suggested(trial)
    trial.set_user_attr("instead of a report", x)  # as many writes, at the same places
    trial.set_user_attr("note", "a user attribute")
    trial.set_constraint("c", x - 2)
    return round((x - 1) ** 2 + abs(y - 0.1), 1), round(x**2 + (k - 3) ** 2 / 9, 1)


def suggested(trial: optuna.Trial) -> tuple[float, float, int]:
    return (
        trial.suggest_float("x", -1, 2),
        trial.suggest_float("y", 1e-3, 1, log=True),
        trial.suggest_int("k", 0, 9),
    )


SEVERAL: dict[str, Callable[[Any], tuple[float, ...]]] = {"nsga2": two_objectives}


def objective_of(sampler: str) -> Callable[[Any], Any]:
    return SEVERAL.get(sampler, objective)


def create(sampler: str, storage: BaseStorage, name: str = "s") -> optuna.Study:
    return optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=SAMPLERS[sampler](),
        load_if_exists=True,
        directions=["minimize"] * (2 if sampler in SEVERAL else 1),
    )


def search(
    sampler: str,
    storage: BaseStorage,
    total: int,
    evaluate: Callable[..., Any] | None = None,
    name: str = "s",
) -> None:
    """One worker: the same command, however often it is started."""
    study = create(sampler, storage, name)
    while len(done(study)) < total:
        study.optimize(evaluate or objective_of(sampler), n_trials=1, catch=ValueError)


def done(study: optuna.Study) -> list[dict[str, Any]]:
    finished = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED])
    return [t.params for t in finished]


def fork(run: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            run()
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    return pid


def wait(pid: int) -> int:
    """Exit status; -9 for a killed process."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def params(folder: Path, sampler: str, kind: str, total: int) -> list[dict[str, Any]]:
    """The parameters of an uninterrupted run."""
    storage = make_storage(kind, folder)
    search(sampler, storage, total)
    return done(optuna.load_study(study_name="s", storage=storage))


def kills(
    folder: Path, sampler: str, kind: str, writes: Sequence[str], before: int, total: int
) -> dict[str, Any]:
    """Kill the trial after the first ``before`` at some of its writes; start again each time.

    Each of ``writes`` is e.g. "before claim" or "after tell".
    """
    waiting._PATIENCE_UNOWNED = 600.0  # the writes are the same on a busy machine
    if kind == "journal":
        waiting._FEW = 0  # as if there were a long log to fold: sign first
    template = folder / "template"
    template.mkdir()
    assert wait(fork(lambda: search(sampler, make_storage(kind, template), before))) == 0

    def restart(own: Path) -> None:
        waiting._PATIENCE_UNOWNED = 1.0  # nobody else is there
        storage = make_storage(kind, own)
        study = optuna.load_study(study_name="s", storage=storage)
        kept = done(study)
        search(sampler, storage, total)
        states = [t.state.name for t in study.trials]
        result = {"kept": kept, "params": done(study), "states": states}
        (own / "result.json").write_text(json.dumps(result))

    def case(instant: str) -> None:
        own = folder / instant
        shutil.copytree(template, own)
        when, write = instant.split()
        kill = kill_at(WRITES[kind].index(write) + 1, after=when == "after")
        killed = fork(lambda: search(sampler, on_write(make_storage(kind, own), kill), total))
        assert wait(killed) == -signal.SIGKILL
        assert wait(fork(lambda: restart(own))) == 0

    pids = [fork(lambda i=i: case(i)) for i in writes]
    statuses = [wait(pid) for pid in pids]
    assert not any(statuses), statuses
    return {i: json.loads((folder / i / "result.json").read_text()) for i in writes}


def workers(folder: Path, sampler: str, kind: str, total: int) -> list[int]:
    """Four workers and a person on one study; the results stay in the storage.

    Worker 1 is slow between creating a trial and signing it, and between signing and claiming;
    worker 2 evaluates ten times slower; worker 3 is killed at the third write of a trial: between
    owner and claim, or after the claim (SQLite).
    """
    waiting._PATIENCE_UNOWNED = 2.0  # the person's trial costs every worker that much
    make = lambda: make_storage(kind, folder)  # noqa: E731
    study = create(sampler, make())
    study.sampler = optuna.samplers.RandomSampler()
    study.ask()  # a person's trial, running for ever

    def hesitate(k: int, method: str, after: bool) -> None:
        if after and method in ("create_new_trial", "set_trial_system_attr"):
            time.sleep(0.15)

    kill = kill_at(3, after=False, trial=3)
    hooks: list[WriteHook | None] = [None, hesitate, None, kill]

    def worker(i: int) -> None:
        def evaluate(trial: optuna.Trial) -> Any:
            value = objective_of(sampler)(trial)
            time.sleep(0.2 if i == 2 else 0.02)
            if trial.number % 7 == 3:
                raise ValueError("injected")
            if trial.number % 5 == 2:
                raise optuna.TrialPruned
            return float("nan") if trial.number % 11 == 5 else value

        hook = hooks[i]
        search(sampler, make() if hook is None else on_write(make(), hook), total, evaluate)

    return [wait(pid) for pid in [fork(lambda i=i: worker(i)) for i in range(4)]]


TASKS: dict[str, Callable[..., Any]] = {"params": params, "kills": kills, "workers": workers}


def perform(name: str, folder: Path, arguments: Sequence[Any]) -> None:
    signal.alarm(900)  # a hanging worker must not outlive the tests
    (folder / "answer.json").write_text(json.dumps(TASKS[name](folder, *arguments)))


def serve() -> None:
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    for sampler in SAMPLERS:  # the forks inherit what these have imported
        search(sampler, make_storage("memory", Path()), 1)
    with tempfile.TemporaryDirectory() as folder:
        search("de", make_storage("sqlite", Path(folder)), 1)
    for line in sys.stdin:
        name, folder, *arguments = json.loads(line)
        task = fork(lambda n=name, f=Path(folder), a=arguments: perform(n, f, a))
        print(wait(task), flush=True)


if __name__ == "__main__":
    serve()
