"""What the samplers with a normal distribution share: its start, and one BLAS thread."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from optuna.distributions import CategoricalDistribution
from threadpoolctl import ThreadpoolController

from merge_optuna import _optuna_compat as compat
from merge_optuna.errors import StudyError
from merge_optuna.samplers._numbers import check_at_least
from merge_optuna.samplers.algorithm import DistributionAlgorithm

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from merge_optuna.samplers.box import Box, Vector

_SIGMA = 1 / 6


class GaussianAlgorithm(DistributionAlgorithm):
    """A distribution that starts at ``x0`` with ``sigma0``; the fields are the dataclass's."""

    x0: Mapping[str, float] | None
    sigma0: float | Mapping[str, float] | None
    size: int | None

    def __post_init__(self) -> None:
        if self.size is not None:
            check_at_least(4, "population_size", self.size)
        sigma0: Any = _SIGMA if self.sigma0 is None else self.sigma0
        several = isinstance(sigma0, Mapping | tuple)
        sigmas = dict(sigma0) if several else {"sigma0": sigma0}
        for name, sigma in sigmas.items():
            if not 0 < sigma < math.inf:
                raise StudyError(f"sigma0 must be positive, got {sigma} for {name!r}.")
        object.__setattr__(self, "sigma0", _items(sigmas) if several else float(sigma0))
        object.__setattr__(self, "x0", _items(dict(self.x0 or ())))

    def for_space(self, space: Mapping[str, BaseDistribution] | None) -> Self:
        """Itself, if its start lies in the space."""
        if space is not None:
            x0 = dict(self.x0 or ())
            numeric = {n for n, d in space.items() if not isinstance(d, CategoricalDistribution)}
            check_names("x0", x0, numeric, "numeric")
            check_names("sigma0", self._sigmas, numeric, "numeric")
            _check_values(x0, space)
        return self

    @property
    def _sigmas(self) -> dict[str, float]:
        """The sigmas of single parameters."""
        return {} if isinstance(self.sigma0, float) else dict(self.sigma0 or ())

    def population_size(self, n: int) -> int:
        """λ = 4 + ⌊3 ln n⌋ (eq. 48) unless given."""
        return self.size or 4 + math.floor(3 * math.log(n))

    def _first(self, box: Box) -> tuple[Vector, float, Vector]:
        """Mean (n,), sigma and scale (n,): the width of the engine's unit in the unit box."""
        scale, sigma = np.ones(len(box)), self.sigma0
        if not isinstance(sigma, float):
            scale = np.array([self._sigmas.get(name, _SIGMA) for name in box.names])
            sigma = 1.0
        return box.point(dict(self.x0 or ())) / scale, sigma, scale


def _items(values: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """Hashable, and with the same repr whatever the order and the type of the numbers."""
    return tuple(sorted((name, float(value)) for name, value in values.items()))


def check_names(option: str, given: Mapping[str, Any], known: set[str], kind: str) -> None:
    """Checks that an option names parameters of the search space, all of a kind.

    Raises:
        StudyError: naming those that are not.
    """
    unknown = sorted(given.keys() - known)
    if unknown:
        raise StudyError(
            f"{option} names {len(unknown)} of {len(given)} parameters that are not {kind} ones "
            f"of the search space: {', '.join(unknown[:5])}. "
            f"Its {kind} ones are {', '.join(sorted(known)[:5])}{', …' * (len(known) > 5)}"
        )


def _check_values(x0: Mapping[str, float], space: Mapping[str, BaseDistribution]) -> None:
    for name, value in x0.items():
        if not compat.contains(space[name], value):
            raise StudyError(f"x0 has {name} = {value}, which is not in {space[name]}.")


_blas_lock = threading.Lock()
_blas_controller = functools.cache(ThreadpoolController)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """At 204 dimensions the samples of one and of two BLAS threads differ."""
    # The number of threads is the process's: two threads that nest here would restore it wrongly.
    with _blas_lock, _blas_controller().limit(limits=1, user_api="blas"):
        yield
