"""Real processes for the sampler tests: ``python -m tests.samplers.driver TASK FOLDER STORAGE``.

Imports once and forks, since a fresh interpreter costs half a second; neither torch nor pytest.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cmaes  # noqa: F401  (so that no fork imports it again)
import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from merge_optuna.samplers import CmaEsSampler
from merge_optuna.testing import WriteHook, kill_at, on_write
from tests.samplers.storages import make_storage

SPACE = {
    "x": FloatDistribution(-1, 2),
    "y": FloatDistribution(1e-3, 1, log=True),
    "k": IntDistribution(0, 9),
}  # populations of seven
WRITES = 10  # create, owner, claim, x, y, k, report, attribute, constraint, tell


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -1, 2)
    y = trial.suggest_float("y", 1e-3, 1, log=True)
    k = trial.suggest_int("k", 0, 9)
    trial.report(x, 0)
    trial.set_user_attr("note", "a user attribute")
    trial.set_constraint("c", x - 2)
    return round((x - 1) ** 2 + abs(y - 0.1) + (k - 3) ** 2 / 9, 1)


def search(storage: BaseStorage, total: int, evaluate: Callable[..., float] = objective) -> None:
    """One worker: the same command, however often it is started."""
    study = optuna.create_study(
        study_name="s", storage=storage, sampler=CmaEsSampler(SPACE, seed=1), load_if_exists=True
    )
    while len(done(study)) < total:
        study.optimize(evaluate, n_trials=1, catch=ValueError)


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
        finally:
            os._exit(code)
    return pid


def wait(pid: int) -> int:
    """Exit status; -9 for a killed process."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def params(folder: Path, kind: str, total: int) -> list[dict[str, Any]]:
    """The parameters of an uninterrupted run."""
    storage = make_storage(kind, folder)
    search(storage, total)
    return done(optuna.load_study(study_name="s", storage=storage))


def kills(folder: Path, kind: str, before: int, total: int) -> dict[str, Any]:
    """Kill the trial after the first ``before`` at each of its writes; start again each time."""
    template = folder / "template"
    template.mkdir()
    assert wait(fork(lambda: search(make_storage(kind, template), before))) == 0
    (folder / "warm").mkdir()
    search(make_storage(kind, folder / "warm"), 1)  # the forks inherit what this has imported
    cases = [(write, after) for write in range(1, WRITES + 1) for after in (False, True)]

    def restart(own: Path) -> None:
        storage = make_storage(kind, own)
        study = optuna.load_study(study_name="s", storage=storage)
        kept = done(study)
        search(storage, total)
        states = [t.state.name for t in study.trials]
        result = {"kept": kept, "params": done(study), "states": states}
        (own / "result.json").write_text(json.dumps(result))

    def case(write: int, after: bool) -> None:
        own = folder / f"{write}-{after}"
        shutil.copytree(template, own)
        kill = kill_at(write, after=after)
        killed = fork(lambda: search(on_write(make_storage(kind, own), kill), total))
        assert wait(killed) == -signal.SIGKILL
        assert wait(fork(lambda: restart(own))) == 0

    pids = [fork(lambda w=write, a=after: case(w, a)) for write, after in cases]
    assert all(wait(pid) == 0 for pid in pids)
    return {
        f"{w}-{a}": json.loads((folder / f"{w}-{a}/result.json").read_text()) for w, a in cases
    }


def workers(folder: Path, kind: str, total: int) -> list[int]:
    """Four workers and a person on one study; the results stay in the storage.

    Worker 1 is slow between creating a trial and signing it, and between signing and claiming;
    worker 2 evaluates ten times slower; worker 3 is killed inside an ask, between owner and claim.
    """
    make = lambda: make_storage(kind, folder)  # noqa: E731
    study = optuna.create_study(study_name="s", storage=make())
    study.ask()  # a person's trial, running for ever

    def hesitate(k: int, method: str, after: bool) -> None:
        if after and method in ("create_new_trial", "set_trial_system_attr"):
            time.sleep(0.3)

    kill = kill_at(22, after=True)  # the owner of its third trial, if none of them fails
    hooks: list[WriteHook | None] = [None, hesitate, None, kill]

    def worker(i: int) -> None:
        def evaluate(trial: optuna.Trial) -> float:
            value = objective(trial)
            time.sleep(0.3 if i == 2 else 0.03)
            if trial.number % 7 == 3:
                raise ValueError("injected")
            if trial.number % 5 == 2:
                raise optuna.TrialPruned
            return float("nan") if trial.number % 11 == 5 else value

        hook = hooks[i]
        search(make() if hook is None else on_write(make(), hook), total, evaluate)

    return [wait(pid) for pid in [fork(lambda i=i: worker(i)) for i in range(4)]]


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    signal.alarm(240)  # a hanging worker must not outlive the tests
    task, folder, kind, *numbers = sys.argv[1:]
    tasks: dict[str, Callable[..., Any]] = {"params": params, "kills": kills, "workers": workers}
    print(json.dumps(tasks[task](Path(folder), kind, *map(int, numbers))))
