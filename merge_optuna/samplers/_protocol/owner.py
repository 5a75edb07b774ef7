"""Who runs a trial, and whether that process is still alive.

A process killed inside ``study.ask`` leaves a running trial that no heartbeat sees, so every
trial first says who owns it. Other processes of the same host can then tell that it is dead
(SQLite has no other way to learn it before the grace period, a journal none at all).
"""

from __future__ import annotations

import functools
import math
import os
import socket
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna._records import check_type, decoding
from merge_optuna._schema import CLAIM, KILLED, OWNER

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial


PATIENCE = 5.0
"""Seconds from the creation of a trial to its owner, which takes milliseconds."""


def age(trial: Trial | FrozenTrial) -> float:
    """Seconds since a trial was created."""
    created = trial.datetime_start
    return math.inf if created is None else abs((datetime.now() - created).total_seconds())


def sign(study: Study, trial: Trial | FrozenTrial) -> None:
    """Record the calling process as the owner of a running trial."""
    compat.set_system_attr(study, trial, OWNER, signature(trial))


def signature(trial: Trial | FrozenTrial) -> dict[str, Any]:
    """The calling process as the owner of a trial."""
    # The number tells an owner from one that Optuna's retry callback copied to a new trial.
    return {"trial": trial.number, **_me(os.getpid())}


def owner_of(trial: FrozenTrial) -> dict[str, Any] | None:
    """What :func:`sign` or a claim has stored for this trial, if anything."""
    with decoding(f"owner of trial {trial.number}"):
        claim = trial.system_attrs.get(CLAIM, {})
        for owner in (trial.system_attrs.get(OWNER), claim.get("owner")):
            if owner is not None and owner["trial"] == trial.number:
                check_type("its pid", owner["pid"], int)
                return {**owner, "host": owner["host"], "start": owner["start"]}
        return None


def is_signed(study: Study, trial: Trial) -> bool:
    """Whether :func:`sign` has been called for a running trial."""
    owner = compat.system_attrs(study, trial).get(OWNER)
    return owner is not None and owner["trial"] == trial.number


def owner_alive(trial: FrozenTrial) -> bool | None:
    """Whether the process that owns a trial is alive; None if this process cannot tell.

    It cannot for a trial without an owner (another sampler's, a person's ``study.ask()``), for
    one of another host or container, and on systems without ``/proc``.
    """
    owner = owner_of(trial)
    return None if owner is None else is_alive(owner)


def this_process() -> dict[str, Any]:
    """The calling process, for whatever it says that it is doing."""
    return _me(os.getpid())


def is_alive(owner: Mapping[str, Any]) -> bool | None:
    """Whether a process is alive, as :func:`this_process` has described it; None if unknown."""
    if owner["host"] is None or owner["host"] != _host():
        return None
    if owner["pid"] == os.getpid():
        return bool(owner["start"] == _me(owner["pid"])["start"])
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it exists and belongs to another user
    start = _start_time(owner["pid"])
    return start is not None and start == owner["start"]


def fail_dead_trials(study: Study) -> list[int]:
    """Fail the running trials whose process has died on this host.

    Every ask of a population sampler does this, so that a restart proposes the candidate of a
    killed trial again.

    Returns:
        Numbers of the trials failed by this call.
    """
    running = (t for t in compat.all_trials(study) if t.state == TrialState.RUNNING)
    return [t.number for t in running if owner_alive(t) is False and fail_as_killed(study, t)]


def fail_as_killed(study: Study, trial: FrozenTrial) -> bool:
    """Fail a trial whose process is dead, and note that; False if somebody else has finished it.

    A candidate whose process was preempted three times must not rank last for that.
    """
    try:
        compat.set_system_attr(study, trial, KILLED, True)
    except UpdateFinishedTrialError:
        return False
    return compat.fail(study, trial)


@functools.cache
def _me(pid: int) -> dict[str, Any]:
    return {"host": _host(), "pid": pid, "start": _start_time(pid)}


@functools.cache
def _host() -> str | None:
    """Where a pid means something: host name, boot and pid namespace. None without ``/proc``."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # Containers can share a host name and always share the boot, but not their pids.
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _start_time(pid: int) -> int | None:
    """Start of a process in clock ticks since boot, None if it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in the second field may hold spaces and brackets: count from the last one.
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])
