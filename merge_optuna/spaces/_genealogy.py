"""Spaces whose individuals are named by their parents, and how they are found in the database."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Container, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from optuna.trial import TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna._schema import CLAIM
from merge_optuna.errors import RecipeError, StudyError, few
from merge_optuna.recipes import Recipe, check_params
from merge_optuna.samplers.breeding import CHILD, ORIGIN
from merge_optuna.samplers.plumbing import own_claim
from merge_optuna.spaces._space import Space

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from merge_optuna.samplers.breeding import Pedigree

One = TypeVar("One")

_STATES = {
    TrialState.FAIL: "has failed",
    TrialState.RUNNING: "is still running",
    TrialState.WAITING: "has not begun",
}
_KEPT = 128  # individuals that were parents: the living ones are chosen again and again


class Genealogy(Space, Generic[One]):
    """A space whose first trials are sources and whose others are children of trials.

    An individual is a symbol; those that were parents last are kept, the others are made again
    from the trials that they descend from.

    Args:
        recipe: Of the models that evolution starts from.

    Attributes:
        names: What these are called.
        breeding: How individuals are bred: the parameters of trials, and who names whom.

    Raises:
        RecipeError: If a model is called like a child, or has free numbers.
        CheckpointMismatch: If the models do not fit together.
    """

    breeding: Pedigree

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.names = recipe.model_names
        self._study: tuple[Any, int] | None = None
        self._known: OrderedDict[int, One] = OrderedDict()
        _check_models(recipe)
        _ = recipe.alignment  # finds models that do not fit

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_study": None, "_known": OrderedDict()}

    # -- what a space of this kind says -----------------------------------------------------

    @abstractmethod
    def source(self, name: str) -> One:
        """The individual that is a source."""

    @abstractmethod
    def child(self, params: Mapping[str, Any], parents: Mapping[str, One]) -> One:
        """The child of some parents, each by the name of the parameter that names it."""

    @abstractmethod
    def recipe_for(self, individual: One) -> Recipe:
        """What is scored."""

    def distributions(self) -> dict[str, BaseDistribution]:
        """See :meth:`Space.distributions`; they hand over the breeding."""
        return self.breeding.distributions()

    def check_objectives(self, objectives: int) -> None:
        """Checks that there is one: no sampler of several knows parents.

        Raises:
            StudyError: If there are several.
        """
        if objectives > 1:
            raise StudyError(
                f"{type(self).__name__} has one objective, not {objectives}: its individuals are "
                "named by their parents, of which NSGA-II knows nothing. Search a recipe with "
                "free numbers or mo.spaces.LayerPath for a front, or make one number of the "
                "objectives."
            )

    # -- trials -----------------------------------------------------------------------------

    def __call__(self, trial: Trial) -> Recipe:
        """Lets a trial choose and returns the recipe of its individual.

        Raises:
            StudyError: If it is a child whose parents are not known.
        """
        space = self.distributions()
        params = {ORIGIN: compat.suggest(trial, ORIGIN, space[ORIGIN])}
        if params[ORIGIN] != CHILD:
            return self.recipe_for(self.source(params[ORIGIN]))
        for name, distribution in space.items():
            if name != ORIGIN:
                params[name] = compat.suggest(trial, name, distribution)
        claim = compat.system_attrs(trial.study, trial).get(CLAIM)
        numbers = _claimed(trial.number, claim and claim["parents"])
        parents = {name: self.individual(trial.study, n) for name, n in numbers.items()}
        return self.recipe_for(self.child(params, parents))

    def rebuild(self, study: Study, trial: FrozenTrial) -> Recipe:
        """See :meth:`Space.rebuild`."""
        return self.recipe_for(self.individual(study, trial.number))

    def individual(self, study: Study, number: int) -> One:
        """The individual of a trial.

        Raises:
            StudyError: If somebody it descends from is missing.
        """
        self._join(study)
        if number not in self._known:
            self._make(study, number)
        self._known.move_to_end(number)
        one = self._known[number]
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return one

    def _make(self, study: Study, number: int) -> None:
        """Everybody unknown among the ancestors, parents first."""
        for trial in family_of(study, number, known=self._known):
            parents = parents_of(trial)
            self._check_params(trial)
            if parents:
                known = {name: self._known[n] for name, n in parents.items()}
                self._known[trial.number] = self.child(trial.params, known)
            else:
                self._known[trial.number] = self.source(trial.params[ORIGIN])

    def _check_params(self, trial: FrozenTrial) -> None:
        """A source has an origin only, a child every parameter."""
        space = self.distributions()
        is_child = trial.params[ORIGIN] == CHILD
        check_params(space if is_child else {ORIGIN: space[ORIGIN]}, trial.params)

    def _join(self, study: Study) -> None:
        """Forget the individuals of another study."""
        here = compat.storage_of(study), compat.study_id(study)
        if self._study is None or self._study[0] is not here[0] or self._study[1] != here[1]:
            self._study = here
            self._known.clear()


def _check_models(recipe: Recipe) -> None:
    if CHILD in recipe.model_names:
        raise RecipeError(
            f"A source cannot be called {CHILD!r}: that is what trials call those who have "
            "parents. Give it another name=."
        )
    if recipe.slots:
        raise RecipeError(
            f"The sources have free numbers: {few([slot.name for slot in recipe.slots], 5)}. "
            "Evolution starts from fixed models: bind them first, e.g. mo.recipe_of(study)."
        )


def parents_of(trial: FrozenTrial) -> dict[str, int]:
    """Numbers of the trials that a child descends from, by the parameter; empty for a source.

    Raises:
        StudyError: If the trial does not say it.
    """
    if trial.params.get(ORIGIN) is None:
        raise StudyError(f"Trial {trial.number} is no individual: it has no parameter {ORIGIN!r}.")
    if trial.params[ORIGIN] != CHILD:
        return {}
    claim = own_claim(trial)
    return _claimed(trial.number, None if claim is None else claim.parents)


def family_of(study: Study, number: int, *, known: Container[int] = ()) -> Iterator[FrozenTrial]:
    """The trials that one descends from, each once, parents before children, and itself.

    Args:
        study: Where they are.
        number: Of the trial.
        known: Numbers of those that are left out, and whoever they descend from. It may grow.

    Raises:
        StudyError: If one of them is missing or cannot be a parent.
    """
    trials = compat.all_trials(study)
    told: set[int] = set()
    asked: set[int] = set()
    stack = [number]
    while stack:
        trial = _trial(study, trials, stack[-1], number)
        missing = [n for n in parents_of(trial).values() if n not in told and n not in known]
        if missing and trial.number in asked:
            raise StudyError(
                f"Trial {trial.number} of the study {study.study_name!r} descends from itself. "
                "Was the database changed by hand? Restore it, or use another study_name."
            )
        if missing:
            asked.add(trial.number)
            stack.extend(missing)
            continue
        stack.pop()
        if trial.number not in told and trial.number not in known:
            told.add(trial.number)
            yield trial


def check_families(study: Study) -> None:
    """Checks that every finished child has its parents.

    Raises:
        StudyError: If one of them is missing or cannot be a parent.
    """
    trials = compat.all_trials(study)
    for trial in trials:
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            claim = own_claim(trial)
            for number in claim.parents.values() if claim is not None else ():
                _trial(study, trials, number, trial.number)


def _claimed(number: int, parents: Mapping[str, int] | None) -> dict[str, int]:
    if not parents:
        raise StudyError(
            f"Trial {number} is a child, but not of a sampler that knows whose: its "
            "parameters name parents by their place among the finished trials. Let the "
            "space's own sampler propose it: sampler=space.sampler(seed=0). Only sources can be "
            "enqueued."
        )
    return dict(parents)


def _trial(study: Study, trials: list[FrozenTrial], number: int, of: int) -> FrozenTrial:
    """A trial that an individual descends from, if it is there and finished."""
    of_whom = f"Trial {of} of the study {study.study_name!r} descends from trial {number}"
    trial = compat.numbered(trials, number)
    if trial is None:
        raise StudyError(
            f"{of_whom}, which is missing: the study has {len(trials)} trials. Restore the "
            "database, in which trials must not be deleted."
        )
    if number != of and trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        raise StudyError(
            f"{of_whom}, which {_STATES[trial.state]}: it cannot be a parent. Was the database "
            "changed by hand? Restore it, or use another study_name."
        )
    return trial
