"""Recipes with free numbers as search spaces."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from optuna.distributions import FloatDistribution

from merge_optuna.errors import RecipeError
from merge_optuna.recipes._documents import Document
from merge_optuna.recipes._numbers import Numbers, Slot
from merge_optuna.recipes._params import check_params
from merge_optuna.recipes.groups import Per

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import BaseTrial


class SearchSpace(Document):
    """What has numbers of its own and recipes inside; some of the numbers may be free."""

    @cached_property
    @abstractmethod
    def numbers(self) -> Numbers:
        """Its own parameters as a search space, without those of recipes inside."""

    @property
    @abstractmethod
    def nested(self) -> tuple[tuple[str, Self], ...]:
        """The recipes inside, with the prefix of their parameter names."""

    @abstractmethod
    def changed(self, parameters: Any, nested: Mapping[str, Self] | None = None) -> Self:
        """The recipe with other parameters, and nested recipes replaced by their prefix."""

    def __call__(self, trial: BaseTrial) -> Self:
        """Same as :meth:`suggest`."""
        return self.suggest(trial)

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Every free number with its parameter name, in order."""
        inner = (slot.under(f"{prefix}/") for prefix, one in self.nested for slot in one.slots)
        return (*self.numbers.slots(), *inner)

    def distributions(self) -> dict[str, FloatDistribution]:
        """The search space: Optuna distribution by parameter name; empty if nothing is free."""
        return {slot.name: slot.distribution for slot in self.slots}

    def start(self) -> dict[str, float]:
        """The parameters at which a search begins."""
        return {slot.name: slot.start for slot in self.slots}

    def suggest(self, trial: BaseTrial) -> Self:
        """Lets a trial choose the free numbers and returns the bound recipe."""
        return self.bind(
            {
                name: trial.suggest_float(name, d.low, d.high, log=d.log)
                for name, d in self.distributions().items()
            }
        )

    def bind(self, params: Mapping[str, float]) -> Self:
        """The recipe with the free numbers replaced by a trial's parameters.

        Raises:
            RecipeError: If a parameter is missing or outside its range.
        """
        check_params(self.distributions(), params)
        inner = {prefix: one.bind(_below(params, prefix)) for prefix, one in self.nested}
        return self.changed(self.numbers.bound(params), inner)

    def free(
        self,
        *names: str,
        per: Per = "model",
        low: float | None = None,
        high: float | None = None,
    ) -> Self:
        """A space around this recipe: the named parameters are freed and start at their values.

        Without names every parameter is freed that the method's spec has a search range for (see
        ``merge-optuna methods``), over that range and starting at its value moved into the range;
        what is free already stays as it is. ``lambda_`` is only among them when weights are
        normalised, since otherwise the weights set the scale.

        Args:
            names: Parameters to free, e.g. ``"weight", "density"``.
            per: As in :func:`mo.free`.
            low: Lower bound for the named parameters; that of the search range, or 0 where values
                lie outside.
            high: Upper bound for the named parameters; that of the search range, or twice the
                largest value where values lie outside.

        Raises:
            RecipeError: If a parameter does not exist or cannot be free.
        """
        return self.changed(self.numbers.freed(names, per, low, high))

    def sampler(
        self, *, seed: int | None = None, objectives: int = 1, **overrides: Any
    ) -> BaseSampler:
        """The sampler for this space: CMA-ES from its start, one dimension per free number.

        For several objectives NSGA-II, with the start in its first population.

        Args:
            seed: Of all random numbers; fixed in the study when omitted.
            objectives: How many the study has.
            overrides: Arguments of :class:`merge_optuna.samplers.CmaEsSampler`, or of
                :class:`merge_optuna.samplers.NSGA2Sampler`.

        Raises:
            RecipeError: If nothing is free.
        """
        from merge_optuna.samplers import CmaEsSampler, NSGA2Sampler

        if not self.slots:
            raise RecipeError("Nothing is free in this recipe. Use mo.free for some parameter.")
        if objectives > 1:
            arguments: dict[str, Any] = {"initial_population": [self.start()], **overrides}
            return NSGA2Sampler(self.distributions(), seed=seed, **arguments)
        arguments = {"x0": self.start(), **overrides}
        return CmaEsSampler(self.distributions(), seed=seed, **arguments)


def _below(params: Mapping[str, float], prefix: str) -> dict[str, float]:
    start = f"{prefix}/"
    return {k.removeprefix(start): v for k, v in params.items() if k.startswith(start)}
