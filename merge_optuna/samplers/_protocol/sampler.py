"""What all samplers of this package share: owners, claims, the log, and Optuna's interface.

Algorithms know nothing of Optuna. The sampler here gives every trial an owner and a claim,
folds the log, keys the random numbers and proposes failed candidates again; all of it from the
storage, so that any number of processes can share a study and each can be killed at any time.
What a population is, the two subclasses say: :class:`PopulationSampler` for algorithms with
slots, :class:`ArchiveSampler` for those that fold their results one after the other.
"""

from __future__ import annotations

import json
import secrets
import threading
import warnings
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection

from merge_optuna import _optuna_compat as compat
from merge_optuna._schema import CLAIM, SURPLUS
from merge_optuna.errors import StudyError
from merge_optuna.samplers._protocol import checks
from merge_optuna.samplers._protocol import owner as _owner
from merge_optuna.samplers._protocol.claim import (
    Claim,
    copied_claim,
    held_claim,
    own_claim,
)
from merge_optuna.samplers._protocol.constructor import Options, give_constructor
from merge_optuna.samplers._protocol.folds import FoldPlaces
from merge_optuna.samplers._protocol.log import Log
from merge_optuna.samplers._protocol.places import INDEPENDENT, OUTSIDER, Places, keyed_rng
from merge_optuna.samplers._protocol.slots import SlotPlaces
from merge_optuna.samplers._protocol.waiting import Waiting, is_young
from merge_optuna.samplers.algorithm import Algorithm, DistributionAlgorithm, PopulationAlgorithm
from merge_optuna.samplers.box import Box, value_at
from merge_optuna.samplers.breeding import Pedigree, breeding_of

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial

    from merge_optuna.samplers.algorithm import Candidate

_KEPT_CLAIMS = 64


@dataclass
class _Notes:
    """What a sampler remembers of the study it last worked on; can be thrown away any time.

    Attributes:
        claims: the last claims of this process, by trial number.
    """

    storage: BaseStorage
    study_id: int
    log: Log
    waiting: Waiting
    inferred: IntersectionSearchSpace = field(default_factory=IntersectionSearchSpace)
    claims: dict[int, Claim] = field(default_factory=dict)

    def remember(self, claim: Claim) -> None:
        """Keep a claim of this process, so that it need not be read again."""
        self.claims[claim.trial] = claim
        if len(self.claims) > _KEPT_CLAIMS:
            del self.claims[next(iter(self.claims))]


class StoredSampler(BaseSampler):
    """A sampler whose state is nothing but the stored trials; base of the two kinds of plumbing.

    A search that is killed and started again goes on exactly as if nothing had happened. One
    worker gets the textbook algorithm bit for bit; several share one population and never wait
    for each other's evaluations. Only candidates of this sampler count: enqueued trials, trials of
    other samplers and added ones are evaluated as usual and teach the algorithm nothing. A failed
    candidate is proposed again.

    Every parameter is mapped to [0, 1], logarithmic ones in log space; those with a step and
    categorical ones as cells of equal width, whose point moves on continuously.

    Args:
        algorithm: what proposes the parameters; its ``label`` names its options: trials of
            other options (or another search space) belong to another population.
        search_space: parameter name -> distribution, e.g. ``recipe.distributions()``. Without
            it the space is inferred from finished trials: the first trial is uniform, and a
            changed space starts another population.
        initial_population: parameters of the first candidates, name -> value each; the middle of
            the range where a name is not given.
        seed: a non-negative integer. None takes the seed of the study's first trial, or draws
            one.
        max_attempts: how often a candidate is proposed until its trial does not fail; after that
            it ranks last. Deaths of the process do not count, up to twenty.

    Raises:
        StudyError: for options that are out of range or do not fit the search space, and later
            for a study of more objectives than it can search or a Hyperband pruner.
    """

    breeds: ClassVar[bool] = False
    """Whether it can search a space whose individuals are named by their parents."""
    _kind: ClassVar[type] = Algorithm
    _places_of: ClassVar[type[Places]]

    def __init_subclass__(
        cls,
        *,
        algorithm: Callable[..., Any] | None = None,
        spread: Collection[str] = (),
        without: Collection[str] = (),
    ) -> None:
        """With an algorithm the class takes its options instead.

        Args:
            algorithm: a class of algorithms.
            spread: those of its options whose own options are taken instead.
            without: arguments that are not taken.
        """
        super().__init_subclass__()
        if algorithm is not None:
            give_constructor(cls, Options(algorithm, spread, without), StoredSampler)

    def __init__(
        self,
        algorithm: Algorithm,
        search_space: Mapping[str, BaseDistribution] | None = None,
        *,
        initial_population: Sequence[Mapping[str, Any]] = (),
        seed: int | None = None,
        max_attempts: int = 3,
    ) -> None:
        if not isinstance(algorithm, self._kind):
            raise StudyError(
                f"{type(self).__name__} runs a {self._kind.__name__}, not {algorithm!r}."
            )
        checks.check_options(algorithm)
        checks.check_common(seed, max_attempts)
        checks.check_space(search_space or {}, type(self).__name__, breeds=self.breeds)
        self._breeding = breeding_of(search_space)
        self._algorithm: Any = algorithm.for_space(search_space)
        self._search_space = search_space if search_space is None else dict(search_space)
        self._last: tuple[dict[str, BaseDistribution], Box, str] | None = None
        initial = initial_population or (self._breeding.initial() if self._breeding else ())
        self._initial = tuple(dict(params) for params in initial)
        self._places = self._places_of(self._algorithm, self._initial)
        if self._initial:
            slots = isinstance(algorithm, PopulationAlgorithm)
            box = None if search_space is None else self._box(search_space)
            checks.check_initial(self._initial, box, self.population_size() if slots else None)
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

    @property
    def breeding(self) -> Pedigree | None:
        """How the individuals of its space are bred; None if they are points."""
        return self._breeding

    @property
    def multi_objective(self) -> bool:
        """Whether it can search several objectives."""
        return bool(self._algorithm.multi_objective)

    # -- Optuna's interface -------------------------------------------------------------------

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Sign and claim; everything else is derived from what this stores."""
        try:
            self._check(study)
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
        self._check(study)
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
        self._check(study)
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
        self._check(study)
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
        with self._lock:
            notes = self._notes_of(study)
        log, waiting = notes.log, notes.waiting
        trials = waiting.at_hand(study, trial)
        while True:
            at_once = trials is not None
            if trials is None:
                _owner.sign(study, trial)  # before anything that takes its time
                trials = waiting.for_lower(study, trial.number)
            with self._lock:
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
                notes.remember(claim)
                alone = log.all_claimed and is_young(trial)
            # A clone cannot claim anything else: the fold drops one of the two.
            if alone or copied_claim(trial) is not None or not waiting.clash(study, claim):
                return
            trials = None

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
        if (copied := copied_claim(trial)) is not None:
            return copied.again(trial.number, seen)
        book, seed = log.book(digest), self._seed_of(study)
        if self._search_space is not None:
            checks.warn_if_anew(study, log, book, type(self).__name__)
        held = {claim.place for claim in above if claim.population == digest}
        for failed in book.retries:
            if failed.place not in held:
                return failed.again(trial.number, seen)
        self._places.catch_up(book, box)
        place = self._places.following(book, box, held, seed)
        candidate = self._places.propose(book, box, place, seed)
        return Claim.new(trial.number, digest, place, candidate, seed, seen)

    def _unclaimed(self, study: Study, trial: FrozenTrial, box: Box) -> Candidate:
        """Values for a trial outside the population: partly enqueued, or under a wrapper."""
        digest = self._digest(box)
        with self._lock:
            log = self._notes_of(study).log
            log.know(digest, box)
            log.follow(compat.all_trials(study), trial.number)
            book, seed = log.book(digest), self._seed_of(study)
            try:
                self._places.catch_up(book, box)
            except BaseException:
                log.reset()  # the algorithm may have learned half a generation
                raise
            return self._places.outsider(book, box, trial.number, seed)

    # -- The study ----------------------------------------------------------------------------

    def _check(self, study: Study) -> None:
        name = type(self).__name__
        checks.check_study(study, name, multi_objective=self.multi_objective)

    def _notes_of(self, study: Study) -> _Notes:
        storage, study_id = compat.storage_of(study), compat.study_id(study)
        notes = self._notes
        if notes is None or notes.storage is not storage or notes.study_id != study_id:
            log = Log(_signs(study), self._max_attempts)
            waiting = Waiting(log, self._lock)
            self._notes = notes = _Notes(storage, study_id, log, waiting)
        return notes

    def _box(self, space: Mapping[str, BaseDistribution]) -> Box:
        return self._box_and_digest(space)[0]

    def _digest(self, box: Box) -> str:
        return self._box_and_digest(box.space)[1]

    def _box_and_digest(self, space: Mapping[str, BaseDistribution]) -> tuple[Box, str]:
        # Kept, as it takes some milliseconds at 300 parameters. Optuna hands back box.space.
        last = self._last  # threads may share the sampler
        if last is None or space not in (last[0], last[1].space):
            box = self._algorithm.box(space)
            initial = [json.dumps(self._initial, sort_keys=True)] if self._initial else []
            digest = box.digest(self._algorithm.label, *initial) if len(box) else ""
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


class PopulationSampler(StoredSampler):
    """Runs a :class:`PopulationAlgorithm` in an Optuna study.

    In each generation every slot gets one candidate, in order, drawn from the population after
    the generation before: with one worker that is the textbook. With several nothing waits. The
    next generation begins when all free slots have had their candidate; slots whose candidate is
    still in flight are passed over and take part with what is known of them. When no slot is free,
    the one with the fewest candidates in this generation gets a further one, of those the one with
    the fewest in flight; a generation of nothing but further candidates has one for each slot.
    """

    _kind = PopulationAlgorithm
    _places_of = SlotPlaces


class ArchiveSampler(StoredSampler):
    """Runs a :class:`DistributionAlgorithm` or :class:`ArchiveAlgorithm` in an Optuna study.

    With λ = ``population_size(n)``, generation g is told results gλ … (g+1)λ-1 of the log,
    whichever generation they were drawn from: nothing waits and nothing is wasted. An archive has
    λ = 1.
    """

    _kind = DistributionAlgorithm
    _places_of = FoldPlaces

    def _memory_of(self, study: Study) -> Any:
        """What the algorithm knows after all finished trials, also those no claim has listed."""
        self._check(study)
        space = self._search_space
        if space is None:
            space = IntersectionSearchSpace().calculate(study)
        box, digest = self._box(space), self._digest(self._box(space))
        while True:
            trials = compat.all_trials(study)
            log = Log(_signs(study), self._max_attempts)
            log.know(digest, box)
            if log.follow(trials, len(trials)):
                break
        log.see(trials, log.unread(trials, len(trials)))
        if log.books and digest not in log.books:
            raise StudyError(
                f"No trial of the study {study.study_name!r} was proposed by this "
                f"{type(self).__name__}: it was searched with other options or another search "
                "space. Make the sampler as it was made then."
            )
        book = log.book(digest)
        self._places.catch_up(book, box)
        return self._algorithm.start(box) if book.memory is None else book.memory


def _signs(study: Study) -> list[int]:
    return [1 if one == StudyDirection.MINIMIZE else -1 for one in study.directions]


def sign_once(study: Study, trial: Trial) -> None:
    """Record the calling process as the owner of a running trial, unless that has been done."""
    if not isinstance(study.sampler, StoredSampler) and not _owner.is_signed(study, trial):
        _owner.sign(study, trial)
