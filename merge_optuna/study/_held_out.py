"""What the results of a search score on data that it has not seen, kept in the study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

from merge_optuna import _optuna_compat as compat
from merge_optuna._records import decoding
from merge_optuna._schema import EXAMPLES, TEST
from merge_optuna._scores import pack, unpack
from merge_optuna.engine import AnyEngine
from merge_optuna.errors import MergeOptunaError
from merge_optuna.evaluators import Evaluator, batches_of, value_over
from merge_optuna.recipes import Recipe
from merge_optuna.study._baselines import stored_baselines
from merge_optuna.study._contenders import Sources
from merge_optuna.study._export import best_trial, complete_trials, recipe_of
from merge_optuna.study._front import front_of
from merge_optuna.study._loading import check_scorable, load_for
from merge_optuna.study._recorded import data_of, without_batches

if TYPE_CHECKING:
    from merge_optuna.checkpoints import Checkpoint


@dataclass(frozen=True)
class HeldOut:
    """What one merge scores on held-out data.

    Attributes:
        metrics: Names, one per objective.
        directions: ``"maximize"`` or ``"minimize"``, one per objective.
        values: One per objective.
        examples: How many there are.
        data: What the data are, or None if the evaluator does not say it.
        scores: Packed, of the examples in their order; None for one number for all.
    """

    metrics: Sequence[str]
    directions: Sequence[str]
    values: Sequence[float]
    examples: int
    data: Mapping[str, Any] | None
    scores: Mapping[str, Any] | None

    @property
    def value(self) -> float | tuple[float, ...]:
        """A number where there is one objective, else a tuple."""
        return self.values[0] if len(self.values) == 1 else tuple(self.values)

    @property
    def addable_scores(self) -> NDArray[np.float64] | None:
        """Scores of the examples, shape (n,), whose mean is the only value; None if they are not.

        Others lack columns that are not kept.
        """
        if self.scores is None or len(self.values) > 1:
            return None
        scores = unpack(dict(self.scores), "held-out examples").astype(np.float64)
        return scores if np.isclose(scores.mean(), self.values[0], rtol=1e-5) else None

    def is_of(self, other: HeldOut) -> bool:
        """Whether both were scored on the same data by the same metrics."""
        same = self.data is not None and without_batches(self.data) == without_batches(other.data)
        return same and [*self.metrics] == [*other.metrics]


def score_held_out(
    evaluator: Evaluator, engine: AnyEngine, recipe: Recipe | Checkpoint
) -> HeldOut:
    """Scores a recipe or a single checkpoint outside of any trial.

    Raises:
        StudyError: If it is neither.
    """
    check_scorable(recipe)
    ids, scores = zip(*batches_of(evaluator, load_for(evaluator, engine, recipe)), strict=True)
    engine.look_again(recipe)
    found = np.concatenate(scores)
    value = value_over(evaluator, found)
    by_example = found[np.argsort(np.concatenate(ids))].reshape(len(found), -1)[:, 0]
    return HeldOut(
        metrics=list(evaluator.metric_names),
        directions=list(evaluator.directions),
        values=list(value) if isinstance(value, tuple) else [value],
        examples=len(evaluator),
        data=data_of(evaluator),
        scores=pack(by_example.astype(np.float32)) if len(by_example) > 1 else None,
    )


def keep_held_out(
    study: optuna.Study, recipe: Recipe | Checkpoint, found: HeldOut, sources: Sources
) -> None:
    """Keeps what a recipe scores, if it is a result of the study or one of its baselines.

    Args:
        study: The study.
        recipe: What was scored.
        found: What it scores.
        sources: Checkpoints by name, as for :func:`mo.recipe_of`.
    """
    for who in _names(study, recipe.digest, sources):
        compat.set_study_system_attr(study, TEST + who, asdict(found))


def held_out(study: optuna.Study) -> dict[str, HeldOut]:
    """What is kept, by who was scored: ``"trial 7"``, ``"baseline base"``.

    Raises:
        StudyError: If something of it is damaged.
    """
    attrs = compat.study_system_attrs(study).items()
    return {
        key.removeprefix(TEST): _read(key.removeprefix(TEST), data)
        for key, data in attrs
        if key.startswith(TEST)
    }


def _read(who: str, data: Mapping[str, Any]) -> HeldOut:
    with decoding(f"held-out result of {who!r}"):
        return HeldOut(
            metrics=[str(name) for name in data["metrics"]],
            directions=[str(direction) for direction in data["directions"]],
            values=[float(value) for value in data["values"]],
            examples=int(data[EXAMPLES]),
            data=data["data"],
            scores=data["scores"],
        )


def _names(study: optuna.Study, digest: str, sources: Sources) -> Iterator[str]:
    """Who of a study has the recipe with this digest, of its results and baselines."""
    for trial in _results(study):
        if _digest(study, trial, sources) == digest:
            yield f"trial {trial.number}"
    for row in stored_baselines(study):
        if row.recipe is not None and row.recipe.digest == digest:
            yield f"baseline {row.name}"


def _results(study: optuna.Study) -> list[FrozenTrial]:
    """The best trial, or the front."""
    if not complete_trials(study):
        return []
    if len(study.directions) == 1:
        return [best_trial(study)]
    return [point.trial for point in front_of(study)]


def _digest(study: optuna.Study, trial: FrozenTrial, sources: Sources) -> str | None:
    try:
        return recipe_of(study, trial, sources=sources).digest
    except MergeOptunaError:  # it merges nothing, or its sources are gone
        return None
