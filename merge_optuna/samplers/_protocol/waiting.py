"""Whose turn it is: a trial claims once every running trial below it has, or is given up on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from threading import RLock
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna.samplers._protocol import owner as _owner
from merge_optuna.samplers._protocol.claim import copied_claim, own_claim
from merge_optuna.samplers._protocol.log import check_numbers

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from merge_optuna.samplers._protocol.claim import Claim
    from merge_optuna.samplers._protocol.log import Log

_PATIENCE_UNOWNED = _owner.PATIENCE
_PATIENCE_OWNED = 120.0  # from its owner to its claim: a journal lock takes up to 30 s
_STEP_ASIDE = 0.5  # seconds a higher-numbered trial gets to claim again after a clash
_FEW = 64  # trials that are folded in no time


class Waiting:
    """Waits for the trials that have to claim before another one.

    Args:
        log: what is known of them.
        lock: guards the log against other threads; never held while waiting.

    Attributes:
        given_up: numbers of running trials without a claim that are not waited for any more.
    """

    def __init__(self, log: Log, lock: RLock) -> None:
        self.given_up: set[int] = set()
        self._first_seen: dict[int, float] = {}  # since when they have been waited for
        self._log = log
        self._lock = lock

    def at_hand(self, study: Study, trial: FrozenTrial) -> Sequence[FrozenTrial] | None:
        """What Optuna has read a moment ago, if that is enough to claim at once.

        It is if everybody below has claimed and lives (or is not waited for) and little is to be
        folded. Reading again and signing first would double the time of an ask on a database.
        """
        trials = compat.trials_at_hand(study, trial.number) if is_young(trial) else None
        if trials is None:
            return None
        with self._lock:
            few = trial.number - self._log.front < _FEW
            try:
                running = self._running(trials, trial.number)
            except KeyError:
                return None  # others have made trials meanwhile
            claimed = all(own_claim(t) or t.number in self.given_up for t in running)
        alive = all(_owner.owner_alive(t) is not False for t in running)
        return trials if few and claimed and alive else None

    def for_lower(self, study: Study, number: int) -> list[FrozenTrial]:
        """All trials, once every lower-numbered running one has claimed or is given up on."""
        pause = 0.01
        while True:
            trials = compat.all_trials(study)
            check_numbers(trials, number + 1)
            with self._lock:
                running = self._running(trials, number)
                dead = [t for t in running if _owner.owner_alive(t) is False]
                waiting = [t for t in running if self._may_claim(t)]
            if dead:
                for t in dead:
                    _owner.fail_as_killed(study, t)
                continue
            if not waiting:
                return trials
            time.sleep(pause)  # storages cannot notify
            pause = min(2 * pause, 0.25)

    def clash(self, study: Study, claim: Claim) -> bool:
        """Whether another trial holds the same place, after the higher had time to step aside.

        That takes a trial that claims late. It need not be looked for if this one was claimed in
        good time and nobody below it is without a claim: a read is a millisecond on a database.
        """
        rivals = list(self._rivals(study, claim))
        if rivals and min(rivals) > claim.trial:
            time.sleep(_STEP_ASIDE)
            rivals = list(self._rivals(study, claim))
        if rivals:
            with self._lock:
                self._log.reset()
        return bool(rivals)

    def _may_claim(self, trial: FrozenTrial) -> bool:
        """Whether to wait for the claim of a running trial."""
        if trial.number in self.given_up or compat.FIXED_PARAMS in trial.system_attrs:
            return False
        if own_claim(trial) is not None:
            return False
        owned = _owner.owner_of(trial) is not None
        waited = time.monotonic() - self._first_seen.setdefault(trial.number, time.monotonic())
        if waited < (_PATIENCE_OWNED if owned else _PATIENCE_UNOWNED):
            return True
        self.given_up.add(trial.number)  # should it claim after all, the log is folded anew
        return False

    def _running(self, trials: Sequence[FrozenTrial], number: int) -> list[FrozenTrial]:
        """The running trials below a number."""
        log = self._log
        unfinished = [*(n for n in log.open if n < number), *range(log.front, number)]
        return [trials[n] for n in unfinished if trials[n].state == TrialState.RUNNING]

    def _rivals(self, study: Study, claim: Claim) -> Iterator[int]:
        trials = compat.all_trials(study)
        with self._lock:
            numbers = {*self._log.open, *range(self._log.front, len(trials))} - {claim.trial}
        for number in numbers:
            other = own_claim(trials[number]) if number < len(trials) else None
            if other is not None and other.same_attempt(claim):
                yield number


def is_young(trial: FrozenTrial) -> bool:
    """Whether all trials above this one still wait for it to claim."""
    waited = bool(trial.params) or copied_claim(trial) is not None  # for a worker to take it
    return not waited and _owner.age(trial) < _PATIENCE_UNOWNED / 2
