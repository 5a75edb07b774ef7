"""Layers of a path exchanged one by one, as long as it helps: what a search has to beat."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna._whole import whole
from merge_optuna.errors import StudyError, shown
from merge_optuna.search._planned import Plan, carried_out
from merge_optuna.spaces import LayerPath
from merge_optuna.study import MergeObjective

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

Choices: TypeAlias = tuple[str, ...]
_SKIP = "skip"  # as mo.spaces.LayerPath calls no layer


def greedy_path(
    objective: MergeObjective,
    *,
    beam: int = 1,
    storage: str | BaseStorage | None = None,
    name: str = "greedy path",
    max_evaluations: int | None = None,
    progress: bool = True,
) -> optuna.Study:
    """Exchanges layers of the path that a space starts with, one by one, as long as it helps.

    In each round every layer of the best path is exchanged for that of every other model at its
    depth, and the best of these paths is the next; scales stay as they are. A search of the same
    space has to beat it, or can begin with it: ``LayerPath(..., start=mo.recipe_of(study))``.

    It is a study like any other: trials that are there already are not evaluated again, so it
    goes on where it was stopped, and several processes can share it.

    Args:
        objective: Of a :class:`mo.spaces.LayerPath` with ``layout="depth"``.
        beam: How many paths a round goes on with.
        storage: A URL for :func:`mo.storage`, an Optuna storage, or None for memory.
        name: Of the study.
        max_evaluations: After so many it ends even if further exchanges would help.
        progress: Whether to show a progress bar; its total is more than it mostly takes.

    Returns:
        The study; its best trial is the path.

    Raises:
        StudyError: If the objective has another space, or several directions; if beam or
            max_evaluations are below 1.

    Example:
        >>> found = mo.greedy_path(objective)
        >>> space = mo.spaces.LayerPath([a, b], start=mo.recipe_of(found))
    """
    space = getattr(objective, "space", None)
    if not isinstance(space, LayerPath) or space.layout != "depth":
        raise StudyError(
            "mo.greedy_path takes the objective of a mo.spaces.LayerPath with layout='depth', not "
            f"of {shown(space)}."
        )
    if len(objective.directions) > 1:
        raise StudyError(
            f"mo.greedy_path needs one objective, and this evaluator has "
            f"{len(objective.directions)}."
        )
    for option, number in (("beam", beam), ("max_evaluations", max_evaluations or 1)):
        if (whole(number) or 0) < 1:
            raise StudyError(f"{option} must be a whole number of at least 1, not {number!r}.")
    return carried_out(
        Exchange.of(space, beam),
        space,
        objective,
        name=name,
        n_trials=max_evaluations,
        storage=storage,
        progress=progress,
    )


@dataclass(frozen=True)
class Exchange(Plan):
    """The algorithm, which sees what is known and says what to evaluate next.

    Attributes:
        names: Of the parameters that layers are chosen by.
        start: Their values on the first path.
        others: For every one, what its layer can be exchanged for.
        beam: How many paths a round goes on with.
    """

    names: tuple[str, ...]
    start: Choices
    others: tuple[Choices, ...] = field(repr=False)
    beam: int = 1

    end = "no exchange of a layer is better"

    @classmethod
    def of(cls, space: LayerPath, beam: int) -> Exchange:
        """Of the layers on the path that a space starts with."""
        begin = space.start()
        chosen = {
            name: tuple(str(choice) for choice in one.choices if choice != _SKIP)
            for name, one in space.distributions().items()
            if isinstance(one, CategoricalDistribution) and name.startswith("on/")
        }
        start = tuple(begin[name] for name in chosen)
        layers = zip(chosen.values(), start, strict=True)
        others = tuple(choices if own != _SKIP else () for choices, own in layers)
        return cls(tuple(chosen), start, others, beam)

    @property
    def most(self) -> int:  # type: ignore[override]
        """If every layer was exchanged once, a round for each and one in which none helps."""
        exchanges = [max(len(choices) - 1, 0) for choices in self.others]
        rounds = sum(count > 0 for count in exchanges) + 1
        return 1 + rounds * self.beam * sum(exchanges)

    def exchange(self, known: Mapping[Choices, float], taken: set[Choices]) -> Choices | None:
        """What to evaluate next; None if no exchange helps any more.

        Args:
            known: What is known of paths, smaller is better.
            taken: Paths that other processes evaluate; one of them if there is nothing else.
        """
        front = [self.start]
        while True:
            reached = dict.fromkeys(front)
            reached.update(dict.fromkeys(c for one in front for c in self._exchanged(one)))
            unknown = [choices for choices in reached if choices not in known]
            if unknown:
                return next((c for c in unknown if c not in taken), unknown[0])
            best = sorted(reached, key=known.__getitem__)[: self.beam]
            if set(best) == set(front[: self.beam]):
                return None
            front = best

    def _exchanged(self, choices: Choices) -> Iterator[Choices]:
        """All paths with one layer exchanged."""
        for i, others in enumerate(self.others):
            for other in others:
                if other != choices[i]:
                    yield (*choices[:i], other, *choices[i + 1 :])

    def following(self, study: optuna.Study, but: int | None = None) -> dict[str, str] | None:
        """See :meth:`Plan.following`."""
        sign = 1 if study.direction == StudyDirection.MINIMIZE else -1
        known: dict[Choices, float] = {}
        taken = set[Choices]()
        for trial in compat.all_trials(study):
            choices = self._of(trial)
            if trial.state == TrialState.COMPLETE and trial.value is not None:
                known[choices] = sign * trial.value
            elif trial.state == TrialState.PRUNED:
                known.setdefault(choices, math.inf)
            elif trial.state == TrialState.RUNNING and trial.number != but:
                taken.add(choices)
        found = self.exchange(known, taken)
        return None if found is None else dict(zip(self.names, found, strict=True))

    def _of(self, trial: FrozenTrial) -> Choices:
        """What a trial has chosen."""
        return tuple(trial.params.get(name, "") for name in self.names)
