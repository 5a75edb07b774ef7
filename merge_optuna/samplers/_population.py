"""The plumbing between an algorithm and an Optuna study.

Algorithms know nothing of Optuna. The sampler here gives every trial an owner and a claim,
folds the log, keys the random numbers and proposes failed candidates again; all of it from the
storage, so that any number of processes can share a study and each can be killed at any time.
"""

from __future__ import annotations

import secrets
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from optuna.pruners import HyperbandPruner
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection
from optuna.trial import TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna.errors import StudyError
from merge_optuna.samplers import _owner
from merge_optuna.samplers._box import Box, value_at
from merge_optuna.samplers._log import (
    CLAIM,
    SURPLUS,
    Candidate,
    Claim,
    Log,
    Population,
    held_claim,
    own_claim,
)

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

CANDIDATE, INDEPENDENT, OUTSIDER = range(3)
"""Tags of the random streams: candidates, parameters outside the box, unclaimed trials."""

_PATIENCE_UNOWNED = 5.0  # seconds from the creation of a trial to its owner: milliseconds
_PATIENCE_OWNED = 120.0  # from its owner to its claim: a journal lock takes up to 30 s
_STEP_ASIDE = 0.5  # seconds a higher-numbered trial gets to claim again after a clash


class DistributionAlgorithm(Protocol):
    """An algorithm that samples candidates from a distribution, told once per generation.

    Instances are immutable; what is learned lives in the memory that ``start`` makes. Memory and
    candidates must depend on nothing but the arguments. ``repr(self)`` names the options: trials
    of other options (or another search space) belong to another population.
    """

    def population_size(self, n: int) -> int:
        """Number of candidates told at once in ``n`` dimensions."""

    def start(self, box: Box) -> Any:
        """The memory of generation 0."""

    def ask(self, memory: Any, rng: np.random.Generator) -> Candidate:
        """A candidate of the current generation."""

    def learn(self, memory: Any, ranked: Sequence[Candidate]) -> Any:
        """The memory of the next generation, from candidates of this or earlier ones, best first.

        ``memory`` may be changed in place.
        """


def keyed_rng(seed: int, tag: int, generation: int, slot: int, k: int = 0) -> np.random.Generator:
    """The random numbers of one place in a population, the same in every process."""
    return np.random.default_rng([seed, tag, generation, slot, k])


@dataclass
class _Notes:
    """What a sampler remembers of the study it last worked on; can be thrown away any time.

    Attributes:
        first_seen: number of a running trial without a claim -> when it was first waited for.
        given_up: those of them that are not waited for any more.
    """

    storage: BaseStorage
    study_id: int
    log: Log
    inferred: IntersectionSearchSpace = field(default_factory=IntersectionSearchSpace)
    first_seen: dict[int, float] = field(default_factory=dict)
    given_up: set[int] = field(default_factory=set)

    def may_claim(self, trial: FrozenTrial) -> bool:
        """Whether to wait for the claim of a running trial."""
        if trial.number in self.given_up or compat.FIXED_PARAMS in trial.system_attrs:
            return False
        if own_claim(trial) is not None:
            return False
        owned = _owner.owner_of(trial) is not None
        waited = time.monotonic() - self.first_seen.setdefault(trial.number, time.monotonic())
        if waited < (_PATIENCE_OWNED if owned else _PATIENCE_UNOWNED):
            return True
        self.given_up.add(trial.number)  # should it claim after all, the log is folded anew
        return False


class PopulationSampler(BaseSampler):
    """Runs an algorithm on populations as an Optuna sampler, with all its state in the storage.

    One worker gets the textbook algorithm bit for bit, also after being killed and started again.
    Several workers never wait for each other's evaluations. Only candidates of this sampler
    count: enqueued trials, trials of other samplers and added ones are evaluated as usual and
    teach the algorithm nothing. A failed candidate is proposed again.

    Args:
        algorithm: what proposes the numeric parameters; categorical ones are drawn uniformly.
        search_space: parameter name -> distribution. Without it the space is inferred from
            finished trials: the first trial is sampled uniformly, and a changed space starts
            another population.
        seed: a non-negative integer. None takes the seed of the study's first claim, or a
            random one.
        max_attempts: how often a candidate is proposed until its trial does not fail; after that
            it ranks last. Deaths of the process do not count, up to twenty.

    Raises:
        StudyError: on a multi-objective study or a Hyperband pruner.
    """

    def __init__(
        self,
        algorithm: DistributionAlgorithm,
        search_space: Mapping[str, BaseDistribution] | None = None,
        *,
        seed: int | None = None,
        max_attempts: int = 3,
    ) -> None:
        if seed is not None and seed < 0:
            raise StudyError(f"seed must be a non-negative integer, got {seed}.")
        if max_attempts < 1:
            raise StudyError(f"max_attempts must be at least 1, got {max_attempts}.")
        self._algorithm = algorithm
        self._search_space = search_space if search_space is None else dict(search_space)
        self._seed = seed
        self._random_seed = secrets.randbits(32)
        self._max_attempts = max_attempts
        self._lock = threading.RLock()
        self._notes: _Notes | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_lock": None, "_notes": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock())

    def population_size(self) -> int | None:
        """Candidates per generation; None while the search space is not known."""
        box = Box(self._search_space or {})
        return self._algorithm.population_size(len(box)) if len(box) else None

    @property
    def search_space(self) -> dict[str, BaseDistribution] | None:
        """The space it was made for; None if it is inferred."""
        return None if self._search_space is None else dict(self._search_space)

    # -- Optuna's interface -------------------------------------------------------------------

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Sign and claim; everything else is derived from what this stores."""
        try:
            self._refuse(study)
            _owner.sign(study, trial)
            # Trial(study, id) in another process comes here a second time.
            if compat.FIXED_PARAMS not in trial.system_attrs and own_claim(trial) is None:
                self._claim(study, trial)
        except BaseException:  # Optuna would leave it running
            compat.set_system_attr(study, trial, SURPLUS, "never evaluated")
            compat.fail(study, trial)
            raise

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The numeric parameters of the search space given or, without one, inferred."""
        self._refuse(study)
        if self._search_space is not None:
            return dict(Box(self._search_space).space)
        with self._lock:
            notes = self._notes_of(study)
            claim = self._claim_of(study, trial)
            box = None if claim is None else notes.log.box(claim.population)
            return dict((box or Box(notes.inferred.calculate(study))).space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The claimed candidate, as parameter values."""
        self._refuse(study)
        box = Box(search_space)
        claim = self._claim_of(study, trial)
        if claim is not None and claim.population == self._digest(box):
            candidate = claim.candidate
        else:
            candidate = self._unclaimed(study, trial, box)
        params: dict[str, Any] = dict(box.params(candidate.x))
        for name in search_space.keys() - params.keys():
            params[name] = self.sample_independent(study, trial, name, search_space[name])
        return params

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A uniform value; a candidate proposed again gets the same."""
        self._refuse(study)
        claim = self._claim_of(study, trial)
        if claim is None:
            k = zlib.crc32(param_name.encode())
            rng = keyed_rng(self._seed_of(study), OUTSIDER, trial.number, 1, k)
        else:
            k = zlib.crc32(f"{claim.population} {param_name}".encode())
            rng = keyed_rng(claim.seed, INDEPENDENT, claim.generation, claim.slot, k)
        return value_at(param_distribution, rng.random())

    # -- Claims -------------------------------------------------------------------------------

    def _claim(self, study: Study, trial: FrozenTrial) -> None:
        while True:
            trials = self._wait_for_lower(study, trial.number)
            with self._lock:
                log = self._notes_of(study).log
                try:
                    if not log.follow(trials, trial.number):
                        continue
                    claim = self._next_claim(study, trial, trials, log)
                    compat.set_system_attr(study, trial, CLAIM, claim.to_json())
                except BaseException:
                    log.reset()  # it may have read results that no stored claim lists
                    raise
                log.append(claim)
            if not self._clash(study, claim):
                return

    def _wait_for_lower(self, study: Study, number: int) -> list[FrozenTrial]:
        """All trials, once every lower-numbered running one has claimed or is given up on."""
        pause = 0.01
        while True:
            trials = compat.all_trials(study)
            with self._lock:
                notes = self._notes_of(study)
                unfinished = [n for n in notes.log.open if n < number]
                unfinished += range(notes.log.front, number)
                running = [trials[n] for n in unfinished if trials[n].state == TrialState.RUNNING]
                dead = [t for t in running if _owner.owner_alive(t) is False]
                waiting = [t for t in running if notes.may_claim(t)]
            if dead:
                for t in dead:
                    _owner.fail_as_killed(study, t)
                continue
            if not waiting:
                return trials
            time.sleep(pause)
            pause = min(2 * pause, 0.25)

    def _next_claim(
        self, study: Study, trial: FrozenTrial, trials: Sequence[FrozenTrial], log: Log
    ) -> Claim:
        # Asking the study's sampler instead of self lets PartialFixedSampler take parameters out.
        box = Box(study.sampler.infer_relative_search_space(study, trial))
        digest = self._digest(box)
        log.know(digest, box)
        if log.front < trial.number:  # forgotten because results had to be checked in this box
            log.follow(trials, trial.number)
        above = [c for t in trials[trial.number + 1 :] if (c := held_claim(t)) is not None]
        # A trial that claims late leaves the log alone: those above have read it already.
        seen = () if above else log.unread(trials, trial.number)
        log.see(trials, seen)
        copied = Claim.of(trial)
        if copied is not None and copied.trial != trial.number:
            return copied.again(trial.number, seen)
        population = log.population(digest)
        for failed in population.retries:
            if all(failed.place != claim.place for claim in above):
                return failed.again(trial.number, seen)
        self._catch_up(population, box)
        generation, slot = population.told, population.slots[population.told]
        while (digest, generation, slot) in {claim.place for claim in above}:
            slot += 1
        seed = self._seed_of(study)
        candidate = self._draw(population, box, keyed_rng(seed, CANDIDATE, generation, slot))
        place = (digest, generation, slot)
        return Claim(trial.number, *place, 0, seed, seen, candidate.encode())

    def _clash(self, study: Study, claim: Claim) -> bool:
        """Whether another trial holds the same place, after the higher had time to step aside."""
        rivals = list(self._rivals(study, claim))
        if rivals and min(rivals) > claim.trial:
            time.sleep(_STEP_ASIDE)
            rivals = list(self._rivals(study, claim))
        if rivals:
            with self._lock:
                self._notes_of(study).log.reset()
        return bool(rivals)

    def _rivals(self, study: Study, claim: Claim) -> Iterator[int]:
        trials = compat.all_trials(study)
        with self._lock:
            log = self._notes_of(study).log
            numbers = {*log.open, *range(log.front, len(trials))} - {claim.trial}
        for number in numbers:
            other = own_claim(trials[number]) if number < len(trials) else None
            if other is not None and other.place == claim.place and other.attempt == claim.attempt:
                yield number

    def _unclaimed(self, study: Study, trial: FrozenTrial, box: Box) -> Candidate:
        """Values for a trial outside the population: partly enqueued, or under a wrapper."""
        digest = self._digest(box)
        with self._lock:
            log = self._notes_of(study).log
            log.know(digest, box)
            log.follow(compat.all_trials(study), trial.number)
            population = log.population(digest)
            self._catch_up(population, box)
            rng = keyed_rng(self._seed_of(study), OUTSIDER, trial.number, 0)
            return self._draw(population, box, rng)

    # -- The algorithm ------------------------------------------------------------------------

    def _catch_up(self, population: Population, box: Box) -> None:
        """Tell the algorithm the log: generation g gets its records gλ … (g+1)λ-1."""
        if len(box) == 0:
            return
        size = self._algorithm.population_size(len(box))
        if population.memory is None:
            population.memory = self._algorithm.start(box)
        while len(population.records) >= (population.told + 1) * size:
            block = population.records[population.told * size : (population.told + 1) * size]
            block.sort(key=lambda r: (r.rank, r.claim.generation, r.claim.slot))
            ranked = [record.claim.candidate for record in block]
            population.memory = self._algorithm.learn(population.memory, ranked)
            population.told += 1

    def _draw(self, population: Population, box: Box, rng: np.random.Generator) -> Candidate:
        if len(box) == 0:
            return Candidate(np.empty(0))
        return self._algorithm.ask(population.memory, rng)

    # -- The study ----------------------------------------------------------------------------

    def _notes_of(self, study: Study) -> _Notes:
        storage, study_id = compat.storage_of(study), compat.study_id(study)
        notes = self._notes
        if notes is None or notes.storage is not storage or notes.study_id != study_id:
            sign = 1 if study.direction == StudyDirection.MINIMIZE else -1
            self._notes = notes = _Notes(storage, study_id, Log(sign, self._max_attempts))
        return notes

    def _digest(self, box: Box) -> str:
        return box.digest(repr(self._algorithm)) if len(box) else ""

    def _seed_of(self, study: Study) -> int:
        if self._seed is not None:
            return self._seed
        with self._lock:
            first = self._notes_of(study).log.seed
        return self._random_seed if first is None else first

    def _claim_of(self, study: Study, trial: FrozenTrial) -> Claim | None:
        stored = compat.system_attrs(study, trial).get(CLAIM)
        return None if stored is None else Claim.from_json(stored)

    def _refuse(self, study: Study) -> None:
        name = type(self).__name__
        if len(study.directions) > 1:
            raise StudyError(
                f"{name} needs one objective, the study has {len(study.directions)}: use NSGA-II, "
                "or one value per trial."
            )
        if isinstance(study.pruner, HyperbandPruner):
            raise StudyError(
                f"{name} cannot be used with HyperbandPruner, which hides trials from samplers: "
                "use SuccessiveHalvingPruner or WilcoxonPruner."
            )
