"""What all samplers of this package share: owners, claims, the log, and Optuna's interface.

Algorithms know nothing of Optuna. The sampler here gives every trial an owner and a claim,
folds the log, keys the random numbers and proposes failed candidates again; all of it from the
storage, so that any number of processes can share a study and each can be killed at any time.
What a population is, the two subclasses say: :class:`PopulationSampler` for algorithms with
slots, :class:`ArchiveSampler` for those that fold their results one after the other.
"""

from __future__ import annotations

import json
import math
import secrets
import threading
import time
import warnings
import zlib
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.pruners import HyperbandPruner
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection
from optuna.trial import TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna._schema import CLAIM, SURPLUS
from merge_optuna.errors import StudyError
from merge_optuna.samplers import _owner
from merge_optuna.samplers._box import Box, value_at
from merge_optuna.samplers._genealogy import sources_of
from merge_optuna.samplers._log import (
    Book,
    Candidate,
    Claim,
    Log,
    Place,
    check_numbers,
    held_claim,
    own_claim,
)

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial

CANDIDATE, INDEPENDENT, OUTSIDER, LEARN = range(4)
"""Tags of the random streams: candidates, parameters outside the box, unclaimed trials, learning.
"""

_PATIENCE_UNOWNED = 5.0  # seconds from the creation of a trial to its owner: milliseconds
_PATIENCE_OWNED = 120.0  # from its owner to its claim: a journal lock takes up to 30 s
_KEPT_CLAIMS = 64
_FEW = 64  # trials that are folded in no time
_STEP_ASIDE = 0.5  # seconds a higher-numbered trial gets to claim again after a clash


def keyed_rng(seed: int, tag: int, generation: int, slot: int, k: int = 0) -> np.random.Generator:
    """The random numbers of one place in a population, the same in every process."""
    return np.random.default_rng([seed, tag, generation, slot, k])


def _age(trial: FrozenTrial) -> float:
    """Seconds since a trial was created."""
    if trial.datetime_start is None:
        return math.inf
    return abs((datetime.now() - trial.datetime_start).total_seconds())


def _check_options(algorithm: Any) -> None:
    """A word or a class in the place of a strategy would be noticed a generation later."""
    for option in fields(algorithm) if is_dataclass(algorithm) else ():
        value, example = getattr(algorithm, option.name), option.default
        if not is_dataclass(example) or (value is None and "None" in str(option.type)):
            continue
        misfit = value is None or isinstance(value, type | str | int | float | Mapping)
        if misfit or callable(value) != callable(example):
            raise StudyError(f"{option.name} must be an object such as {example}, got {value!r}.")


def _check_candidate(candidate: Any, box: Box, algorithm: Any) -> None:
    name = f"{type(algorithm).__name__}.ask"
    if not isinstance(candidate, Candidate):
        raise StudyError(f"{name} must return a Candidate, not {candidate!r}.")
    x, n = candidate.x, len(box)
    if np.shape(x) != (n,) or not bool(np.all((x >= box.low) & (x <= box.high))):
        raise StudyError(f"{name} must return a point of [0, 1]^{n}, not {x!r}.")
    if not all(isinstance(vector, np.ndarray) for vector in candidate.hidden.values()):
        raise StudyError(f"{name}: Candidate.hidden holds arrays, not {candidate.hidden!r}.")


def sign_once(study: Study, trial: Trial) -> None:
    """Record the calling process as the owner of a running trial, unless that has been done."""
    if not isinstance(study.sampler, StoredSampler) and not _owner.is_signed(study, trial):
        _owner.sign(study, trial)


def next_slot(generation: int, slot: int, held: Collection[Place]) -> Place:
    """The first place of a generation from ``slot`` on that nobody holds."""
    while Place(generation, slot) in held:
        slot += 1
    return Place(generation, slot)


def _copied_claim(trial: FrozenTrial) -> Claim | None:
    """What a trial was created with by Optuna's retry callback."""
    claim = Claim.of(trial)
    return claim if claim is not None and claim.trial != trial.number else None


@dataclass
class _Notes:
    """What a sampler remembers of the study it last worked on; can be thrown away any time.

    Attributes:
        first_seen: number of a running trial without a claim -> when it was first waited for.
        given_up: those of them that are not waited for any more.
        claims: the last claims of this process, by trial number.
    """

    storage: BaseStorage
    study_id: int
    log: Log
    inferred: IntersectionSearchSpace = field(default_factory=IntersectionSearchSpace)
    first_seen: dict[int, float] = field(default_factory=dict)
    given_up: set[int] = field(default_factory=set)
    claims: dict[int, Claim] = field(default_factory=dict)

    def remember(self, claim: Claim) -> None:
        """Keep a claim of this process, so that it need not be read again."""
        self.claims[claim.trial] = claim
        if len(self.claims) > _KEPT_CLAIMS:
            del self.claims[next(iter(self.claims))]

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


class StoredSampler(BaseSampler):
    """A sampler whose state is nothing but the stored trials; base of the two kinds of plumbing.

    One worker gets the textbook algorithm bit for bit, also after being killed and started again.
    Several workers never wait for each other's evaluations. Only candidates of this sampler
    count: enqueued trials, trials of other samplers and added ones are evaluated as usual and
    teach the algorithm nothing. A failed candidate is proposed again.

    Args:
        algorithm: what proposes the parameters; ``repr(algorithm)`` names its options: trials of
            other options (or another search space) belong to another population.
        search_space: parameter name -> distribution. Without it the space is inferred from
            finished trials: the first trial is sampled uniformly, and a changed space starts
            another population.
        initial_population: parameters of the first candidates, name -> value each; the middle of
            the range where a name is not given.
        seed: a non-negative integer. None takes the seed of the study's first claim, or a
            random one.
        max_attempts: how often a candidate is proposed until its trial does not fail; after that
            it ranks last. Deaths of the process do not count, up to twenty.

    Raises:
        StudyError: on a multi-objective study or a Hyperband pruner.
    """

    categorical: ClassVar[bool] = True
    """Whether the algorithm handles categorical parameters too; else they are drawn uniformly."""
    breeds: ClassVar[bool] = False
    """Whether it can search a space whose individuals are named by their parents."""
    _kind: ClassVar[type] = object
    _raw = False

    def __init__(
        self,
        algorithm: Any,
        search_space: Mapping[str, BaseDistribution] | None = None,
        *,
        initial_population: Sequence[Mapping[str, Any]] = (),
        seed: int | None = None,
        max_attempts: int = 3,
    ) -> None:
        if seed is not None and (not isinstance(seed, int | np.integer) or seed < 0):
            raise StudyError(f"seed must be a non-negative integer, got {seed!r}.")
        if max_attempts < 1:
            raise StudyError(f"max_attempts must be at least 1, got {max_attempts}.")
        if not isinstance(algorithm, self._kind):
            raise StudyError(
                f"{type(self).__name__} runs a {self._kind.__name__}, not {algorithm!r}."
            )
        _check_options(algorithm)
        for name, distribution in (search_space or {}).items():
            if not isinstance(distribution, BaseDistribution):
                raise StudyError(
                    f"search_space[{name!r}] must be a distribution of optuna.distributions, e.g. "
                    f"FloatDistribution(0, 1), got {distribution!r}."
                )
        if sources_of(search_space) and not self.breeds:
            raise StudyError(
                f"{type(self).__name__} knows nothing of parents, which the individuals of this "
                "space are named by. Use the sampler that the space makes: space.sampler(seed=0)."
            )
        self._algorithm: Any = algorithm
        self._search_space = search_space if search_space is None else dict(search_space)
        self._last: tuple[dict[str, BaseDistribution], Box, str] | None = None
        self._initial = tuple(dict(params) for params in initial_population)
        self._check_initial()
        self._seed = None if seed is None else int(seed)
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
        n = len(self._box(self._search_space or {}))
        return int(self._algorithm.population_size(n)) if n else None

    @property
    def search_space(self) -> dict[str, BaseDistribution] | None:
        """The space it was made for; None if it is inferred."""
        return None if self._search_space is None else dict(self._search_space)

    # -- Optuna's interface -------------------------------------------------------------------

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Sign and claim; everything else is derived from what this stores."""
        try:
            self._refuse(study)
            # Trial(study, id) in another process comes here a second time.
            if compat.FIXED_PARAMS in trial.system_attrs or own_claim(trial) is not None:
                _owner.sign(study, trial)
            else:
                self._claim(study, trial)
        except BaseException:  # Optuna would leave it running
            compat.set_system_attr(study, trial, SURPLUS, "never evaluated")
            compat.fail(study, trial)
            raise

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """What the algorithm searches of the space given or, without one, inferred."""
        self._refuse(study)
        if self._search_space is not None:
            return dict(self._box(self._search_space).space)
        with self._lock:
            notes = self._notes_of(study)
            claim = self._claim_of(study, trial)
            box = None if claim is None else notes.log.box(claim.population)
            if box is None:
                box = self._box(notes.inferred.calculate(study))
            return dict(box.space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The claimed candidate, as parameter values."""
        self._refuse(study)
        box = self._box(search_space)
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
        if self._search_space is not None and param_name not in self._search_space:
            warnings.warn(
                f"{param_name!r} is not in the search_space of {type(self).__name__}: its values "
                "are uniform, nothing is learned about it.",
                stacklevel=2,
            )
        claim = self._claim_of(study, trial)
        if claim is None:
            k = zlib.crc32(param_name.encode())
            rng = keyed_rng(self._seed_of(study), OUTSIDER, trial.number, 1, k)
        else:
            k = zlib.crc32(f"{claim.population} {claim.k} {param_name}".encode())
            rng = keyed_rng(claim.seed, INDEPENDENT, claim.generation, claim.slot, k)
        return value_at(param_distribution, rng.random())

    # -- Claims -------------------------------------------------------------------------------

    def _claim(self, study: Study, trial: FrozenTrial) -> None:
        trials = self._at_hand(study, trial)
        while True:
            at_once = trials is not None
            if trials is None:
                _owner.sign(study, trial)  # before anything that takes its time
                trials = self._wait_for_lower(study, trial.number)
            with self._lock:
                log = self._notes_of(study).log
                if log.front > trial.number:
                    log.reset()  # a late claim: it must not know those above it
                try:
                    if not log.follow(trials, trial.number):
                        trials = None
                        continue
                    claim = self._next_claim(study, trial, trials, log)
                    if at_once:
                        claim = replace(claim, owner=_owner.signature(trial))
                    compat.set_system_attr(study, trial, CLAIM, claim.to_json())
                except BaseException:
                    log.reset()  # it may have read results that no stored claim lists
                    raise
                log.append(claim)
                self._notes_of(study).remember(claim)
                alone = log.all_claimed and self._young(trial)
            # A clone cannot claim anything else: the fold drops one of the two.
            if alone or _copied_claim(trial) is not None or not self._clash(study, claim):
                return
            trials = None

    def _at_hand(self, study: Study, trial: FrozenTrial) -> Sequence[FrozenTrial] | None:
        """What Optuna has read a moment ago, if that is enough to claim at once.

        It is if everybody below has claimed and lives (or is not waited for) and little is to be
        folded. Reading again and signing first would double the time of an ask on a database.
        """
        trials = compat.trials_at_hand(study, trial.number) if self._young(trial) else None
        if trials is None:
            return None
        with self._lock:
            notes = self._notes_of(study)
            few = trial.number - notes.log.front < _FEW
            try:
                running = self._running(study, trials, trial.number)
            except KeyError:
                return None  # others have made trials meanwhile
            claimed = all(own_claim(t) or t.number in notes.given_up for t in running)
        alive = all(_owner.owner_alive(t) is not False for t in running)
        return trials if few and claimed and alive else None

    def _young(self, trial: FrozenTrial) -> bool:
        """Whether all trials above this one still wait for it to claim."""
        waited = bool(trial.params) or _copied_claim(trial) is not None  # for a worker to take it
        return not waited and _age(trial) < _PATIENCE_UNOWNED / 2

    def _wait_for_lower(self, study: Study, number: int) -> list[FrozenTrial]:
        """All trials, once every lower-numbered running one has claimed or is given up on."""
        pause = 0.01
        while True:
            trials = compat.all_trials(study)
            check_numbers(trials, number + 1)
            with self._lock:
                notes = self._notes_of(study)
                running = self._running(study, trials, number)
                dead = [t for t in running if _owner.owner_alive(t) is False]
                waiting = [t for t in running if notes.may_claim(t)]
            if dead:
                for t in dead:
                    _owner.fail_as_killed(study, t)
                continue
            if not waiting:
                return trials
            time.sleep(pause)  # storages cannot notify
            pause = min(2 * pause, 0.25)

    def _running(
        self, study: Study, trials: Sequence[FrozenTrial], number: int
    ) -> list[FrozenTrial]:
        """The running trials below a number."""
        log = self._notes_of(study).log
        unfinished = [*(n for n in log.open if n < number), *range(log.front, number)]
        return [trials[n] for n in unfinished if trials[n].state == TrialState.RUNNING]

    def _next_claim(
        self, study: Study, trial: FrozenTrial, trials: Sequence[FrozenTrial], log: Log
    ) -> Claim:
        # Asking the study's sampler instead of self lets PartialFixedSampler take parameters out.
        box = self._box(study.sampler.infer_relative_search_space(study, trial))
        digest = self._digest(box)
        log.know(digest, box)
        if log.front < trial.number:  # forgotten because results had to be checked in this box
            log.follow(trials, trial.number)
        above = [c for t in trials[trial.number + 1 :] if (c := held_claim(t)) is not None]
        # A trial that claims late leaves the log alone: those above have read it already.
        seen = () if above else log.unread(trials, trial.number)
        log.see(trials, seen)
        if (copied := _copied_claim(trial)) is not None:
            return copied.again(trial.number, seen)
        book = log.book(digest)
        others = any(other.starts for name, other in log.books.items() if name)
        if self._search_space is not None and others and not book.starts:
            warnings.warn(
                f"The study {study.study_name!r} was searched with other options or another "
                f"search space than those of this {type(self).__name__}: it starts anew.",
                stacklevel=2,
            )
        held = {claim.place for claim in above if claim.population == digest}
        for failed in book.retries:
            if failed.place not in held:
                return failed.again(trial.number, seen)
        seed = self._seed_of(study)
        self._catch_up(book, box)
        place = self._next_place(book, box, held, seed)
        candidate = self._propose(book, box, place, seed)
        return Claim(
            trial.number,
            digest,
            place.generation,
            place.slot,
            attempt=0,
            seed=seed,
            seen=seen,
            vectors=candidate.encode(),
            k=place.k,
            parents=candidate.parents,
        )

    def _clash(self, study: Study, claim: Claim) -> bool:
        """Whether another trial holds the same place, after the higher had time to step aside.

        That takes a trial that claims late. It is not looked for if this one was claimed in good
        time and nobody below it is without a claim: a read is a millisecond on a database.
        """
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
            if other is not None and other.same_attempt(claim):
                yield number

    def _unclaimed(self, study: Study, trial: FrozenTrial, box: Box) -> Candidate:
        """Values for a trial outside the population: partly enqueued, or under a wrapper."""
        digest = self._digest(box)
        with self._lock:
            log = self._notes_of(study).log
            log.know(digest, box)
            log.follow(compat.all_trials(study), trial.number)
            book, seed = log.book(digest), self._seed_of(study)
            try:
                self._catch_up(book, box)
            except BaseException:
                log.reset()  # the algorithm may have learned half a generation
                raise
            rng = keyed_rng(seed, OUTSIDER, trial.number, 0)
            return self._draw(book, box, rng) if len(box) else Candidate(np.empty(0))

    def _propose(self, book: Book, box: Box, place: Place, seed: int) -> Candidate:
        """The candidate of a place."""
        if len(box) == 0:
            return Candidate(np.empty(0))
        candidate = self._draw(book, box, keyed_rng(seed, CANDIDATE, *place), place)
        _check_candidate(candidate, box, self._algorithm)
        return candidate

    # -- What a population is -----------------------------------------------------------------

    @abstractmethod
    def _catch_up(self, book: Book, box: Box) -> None:
        """Fold what is new in the log."""

    @abstractmethod
    def _next_place(self, book: Book, box: Box, held: Collection[Place], seed: int) -> Place:
        """The next free place.

        ``held`` are the places of trials with a higher number, if this one claims late. They
        have read the log without it: it must not begin a generation.
        """

    @abstractmethod
    def _draw(
        self, book: Book, box: Box, rng: np.random.Generator, place: Place | None = None
    ) -> Candidate:
        """A candidate; without a place one of a trial outside the population."""

    # -- The study ----------------------------------------------------------------------------

    def _notes_of(self, study: Study) -> _Notes:
        storage, study_id = compat.storage_of(study), compat.study_id(study)
        notes = self._notes
        if notes is None or notes.storage is not storage or notes.study_id != study_id:
            sign = 1 if study.direction == StudyDirection.MINIMIZE else -1
            self._notes = notes = _Notes(storage, study_id, Log(sign, self._max_attempts))
        return notes

    def _box(self, space: Mapping[str, BaseDistribution]) -> Box:
        return self._box_and_digest(space)[0]

    def _digest(self, box: Box) -> str:
        return self._box_and_digest(box.space)[1]

    def _box_and_digest(self, space: Mapping[str, BaseDistribution]) -> tuple[Box, str]:
        # Kept, as it takes some milliseconds at 300 parameters. Optuna hands back box.space.
        last = self._last  # threads may share the sampler
        if last is None or space not in (last[0], last[1].space):
            box = Box(space, categorical=self.categorical, raw=self._raw)
            initial = [json.dumps(self._initial, sort_keys=True)] if self._initial else []
            digest = box.digest(repr(self._algorithm), *initial) if len(box) else ""
            self._last = last = dict(space), box, digest
        return last[1:]

    def _seed_of(self, study: Study) -> int:
        if self._seed is not None:
            return self._seed
        with self._lock:
            first = self._notes_of(study).log.seed
        return self._random_seed if first is None else first

    def _claim_of(self, study: Study, trial: FrozenTrial) -> Claim | None:
        with self._lock:
            mine = self._notes_of(study).claims.get(trial.number)
        if mine is not None:
            return mine
        stored = compat.system_attrs(study, trial).get(CLAIM)
        return None if stored is None else Claim.from_json(stored, trial.number)

    def _check_initial(self) -> None:
        if self._initial and self._search_space is None:
            raise StudyError("initial_population needs search_space, to check its values.")
        space = self._box(self._search_space or {}).space
        for i, params in enumerate(self._initial):
            unknown = sorted(params.keys() - space.keys())
            if unknown:
                raise StudyError(
                    f"initial_population[{i}] has {', '.join(map(repr, unknown[:5]))}, but the "
                    f"search space has {', '.join(map(repr, list(space)[:5]))}"
                    f"{', …' * (len(space) > 5)}"
                )
            for name, value in params.items():
                if not compat.contains(space[name], value):
                    raise StudyError(
                        f"initial_population[{i}] has {name} = {value!r}, which is not in "
                        f"{space[name]}."
                    )

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
