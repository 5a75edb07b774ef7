from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from merge_optuna._schema import OWNER
from merge_optuna.samplers._protocol.owner import sign
from merge_optuna.samplers.plumbing import fail_dead_trials, owner_alive


def owned(owner: object) -> FrozenTrial:
    return create_trial(state=TrialState.RUNNING, system_attrs={OWNER: owner})


@pytest.fixture
def here() -> dict[str, object]:
    """What this process signs."""
    study = optuna.create_study()
    study.ask()
    sign(study, study.trials[0])
    owner = study.trials[0].system_attrs[OWNER]
    assert owner["trial"] == 0
    return {**owner, "trial": -1}  # create_trial's number


def test_this_process_is_alive(here: dict[str, object]) -> None:
    assert owner_alive(owned(here)) is True


def test_an_earlier_process_with_this_pid_is_dead(here: dict[str, object]) -> None:
    assert owner_alive(owned({**here, "start": int(str(here["start"])) - 1})) is False


def test_unknown_owners(here: dict[str, object]) -> None:
    assert owner_alive(create_trial(state=TrialState.RUNNING)) is None
    assert owner_alive(owned({**here, "host": "elsewhere"})) is None
    assert owner_alive(owned({**here, "host": None})) is None
    assert owner_alive(owned({**here, "trial": 5})) is None  # copied by a retry callback


def test_another_process_until_it_dies(here: dict[str, object]) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        owner = {**here, "pid": process.pid, "start": int(stat.rsplit(") ", 1)[1].split()[19])}
        assert owner_alive(owned(owner)) is True
        process.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 600
        while owner_alive(owned(owner)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert owner_alive(owned(owner)) is False  # a zombie: nobody has waited for it yet
    assert owner_alive(owned(owner)) is False


def test_fail_dead_trials(here: dict[str, object]) -> None:
    study = optuna.create_study(sampler=RandomSampler())
    for _ in range(4):
        study.ask()
    study.tell(3, 1.0)
    for number in (0, 1, 3):
        trial = study.get_trials(deepcopy=False)[number]
        start = here["start"] if number == 0 else 1
        if number != 3:
            study._storage.set_trial_system_attr(
                trial._trial_id, OWNER, {**here, "trial": number, "start": start}
            )
    assert fail_dead_trials(study) == [1]
    assert [t.state.name for t in study.trials] == ["RUNNING", "FAIL", "RUNNING", "COMPLETE"]
    assert fail_dead_trials(study) == []
