"""Searches whose next trial follows from the stored ones: a plan as sampler and stop rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage

from merge_optuna.search._merge_study import MergeStudy
from merge_optuna.study import StopRule
from merge_optuna.study import storage as open_storage

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

    from merge_optuna.spaces import LayerPath
    from merge_optuna.study import MergeObjective


class Plan(ABC):
    """What to evaluate next.

    Attributes:
        end: Why it is over when it is.
        most: How many evaluations it takes at most.
    """

    end: str
    most: int

    @abstractmethod
    def following(self, study: Study, but: int | None = None) -> Mapping[str, Any] | None:
        """The parameters of the next trial; None if there is nothing left.

        Args:
            study: With everything that is known, and what other processes are evaluating.
            but: The number of the trial that asks.
        """

    def total(self, study: Study) -> int:
        """How many trials the study has when everything is evaluated.

        Raises:
            StudyError: If the plan does not go on with what the study has.
        """
        return self.most


def carried_out(
    plan: Plan,
    space: LayerPath,
    objective: MergeObjective,
    *,
    name: str,
    n_trials: int | None,
    storage: str | BaseStorage | None,
    progress: bool,
) -> Study:
    """Runs a plan, or goes on with it, until it is over or there are ``n_trials``."""
    search = MergeStudy(
        name,
        objective,
        n_trials=plan.most,
        sampler=_PlannedSampler(plan, space),
        callbacks=[_IsOver(plan)],
        baselines=False,
    )
    opened = open_storage(storage) if isinstance(storage, str) else storage
    opened = InMemoryStorage() if opened is None else opened
    total = plan.total(search.open(opened))
    return search.run(opened, n_trials=total if n_trials is None else n_trials, progress=progress)


class _IsOver(StopRule):
    """Ends a search when its plan is over."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def reason(self, study: Study) -> str | None:
        """See :meth:`StopRule.reason`."""
        return self._plan.end if self._plan.following(study) is None else None


class _PlannedSampler(BaseSampler):
    """Proposes what a plan says; anything else is as at the start of the space."""

    def __init__(self, plan: Plan, space: LayerPath) -> None:
        self._plan = plan
        self._space = space

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {**self._space.start(), **(self._plan.following(study, trial.number) or {})}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._space.start()[param_name]  # of a trial that others have enqueued in part
