"""What a sampler refuses, before the first trial if at all possible."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.pruners import HyperbandPruner

from merge_optuna import _optuna_compat as compat
from merge_optuna.errors import StudyError, shown
from merge_optuna.samplers.breeding import breeding_of

if TYPE_CHECKING:
    from optuna import Study

    from merge_optuna.samplers._protocol.log import Book, Log
    from merge_optuna.samplers.box import Box


def check_common(seed: int | None, max_attempts: int) -> None:
    """Checks the numbers that all samplers take."""
    if seed is not None and (not isinstance(seed, int | np.integer) or seed < 0):
        raise StudyError(f"seed must be a non-negative integer, got {seed!r}.")
    if max_attempts < 1:
        raise StudyError(f"max_attempts must be at least 1, got {max_attempts}.")


def check_options(algorithm: Any) -> None:
    """A word or a class in the place of a strategy would be noticed a generation later."""
    for option in fields(algorithm) if is_dataclass(algorithm) else ():
        value, example = getattr(algorithm, option.name), option.default
        if not is_dataclass(example) or (value is None and "None" in str(option.type)):
            continue
        misfit = value is None or isinstance(value, type | str | int | float | Mapping)
        if misfit or callable(value) != callable(example):
            raise StudyError(f"{option.name} must be an object such as {example}, got {value!r}.")


def check_space(space: Mapping[str, BaseDistribution], sampler: str, *, breeds: bool) -> None:
    """Checks that it is distributions, and that the sampler breeds if its individuals are bred."""
    if not isinstance(space, Mapping):
        raise StudyError(
            f"{sampler} takes a search space, parameter name -> distribution, not {shown(space)}."
        )
    for name, distribution in space.items():
        if not isinstance(distribution, BaseDistribution):
            raise StudyError(
                f"search_space[{name!r}] must be a distribution of optuna.distributions, e.g. "
                f"FloatDistribution(0, 1), got {distribution!r}."
            )
    if breeding_of(space) is not None and not breeds:
        raise StudyError(
            f"{sampler} knows nothing of parents, which the individuals of this space are named "
            "by. Use the sampler that the space makes: space.sampler(seed=0)."
        )


def check_initial(initial: Sequence[Mapping[str, Any]], box: Box | None, size: int | None) -> None:
    """Checks that the first candidates lie in the box, and that they have that many slots."""
    if box is None:
        raise StudyError("initial_population needs search_space, to check its values.")
    if size is not None and len(initial) > size:
        raise StudyError(
            f"initial_population has {len(initial)} candidates, but the population only {size} "
            "slots. Raise population_size or leave some out."
        )
    for i, params in enumerate(initial):
        unknown = sorted(params.keys() - box.space.keys())
        if unknown:
            raise StudyError(
                f"initial_population[{i}] has {', '.join(map(repr, unknown[:5]))}, but the "
                f"search space has {', '.join(map(repr, box.names[:5]))}{', …' * (len(box) > 5)}"
            )
        for name, value in params.items():
            if not compat.contains(box.space[name], value):
                raise StudyError(
                    f"initial_population[{i}] has {name} = {value!r}, which is not in "
                    f"{box.space[name]}."
                )


def check_study(study: Study, sampler: str, *, multi_objective: bool) -> None:
    """Checks that a sampler of this name can search the study."""
    if len(study.directions) > 1 and not multi_objective:
        raise StudyError(
            f"{sampler} needs one objective, the study has {len(study.directions)}: use NSGA-II, "
            "merge_optuna.samplers.NSGA2Sampler, or one value per trial."
        )
    if isinstance(study.pruner, HyperbandPruner):
        raise StudyError(
            f"{sampler} cannot be used with HyperbandPruner, which hides trials from samplers: "
            "use SuccessiveHalvingPruner or WilcoxonPruner."
        )


def warn_if_anew(study: Study, log: Log, book: Book, sampler: str) -> None:
    """Says that a study holds trials of other options or spaces, and none of these."""
    if not book.starts and any(other.starts for name, other in log.books.items() if name):
        warnings.warn(
            f"The study {study.study_name!r} was searched with other options or another search "
            f"space than those of this {sampler}: it starts anew.",
            stacklevel=2,
        )
