"""The data-flow space: through which layers of several models a forward pass goes.

Akiba et al.: Evolutionary Optimization of Model Merging Recipes, arXiv 2403.13187, §3.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

from optuna.distributions import FloatDistribution

from merge_optuna import recipes
from merge_optuna.checkpoints import Checkpoint
from merge_optuna.engine import branches_of
from merge_optuna.errors import InfeasibleRecipe, RecipeError, few, shown
from merge_optuna.recipes import (
    MOST_HOPS,
    Hop,
    Recipe,
    ScaleTarget,
    check_params,
    check_sources,
    frame_of,
)
from merge_optuna.samplers import CmaEsSampler, GASampler, NSGA2Sampler
from merge_optuna.spaces._indicators import INDICATORS
from merge_optuna.spaces._scales import SCALES
from merge_optuna.spaces._space import ParameterSpace

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

ScaleForm = Literal["hop", "matrix", "network", "none"]
IndicatorForm = Literal["real", "categorical"]
FIRST_MODEL = "first-model"


class LayerPath(ParameterSpace):
    """The data-flow space of evolutionary model merge: paths through the layers of some models.

    All layers of all models are laid out in order, ``repeats`` times. For every one an indicator
    says whether it is on the path, and a scale how strongly the layer before hands on to it. A
    trial's path is its user attribute ``path``, e.g. ``A0-A1-B1×0.8-A2``, A the first model; a
    trial whose path is empty or too long is pruned. Evaluating one copies no weight, and
    :func:`mo.export` writes an ordinary model of the same architecture.

    The parameters are ``on/<repetition>/<layer>`` and ``scale/<repetition>/<layer>``, or those of
    the other forms.

    Args:
        models: Of one architecture (llama, mistral, qwen2, qwen3, gpt2, bert, roberta,
            xlm-roberta) and width; their depths may differ. A recipe without free numbers can be
            one: of :func:`mo.recipe_of` after a search in parameter space.
        repeats: How often the layers are laid out.
        scales: ``"hop"``, one scale for every indicator; ``"matrix"``, one for every pair of
            layers, which is for 12 layers in all; ``"network"``, a small network of the two layers
            and the number of the hop, whose 41 weights are searched; or ``"none"``, all are 1.
        scale_target: What a scale is about, see :class:`mo.recipes.Route`.
        embeddings_from: Number of the model that has embedding, config and tokenizer.
        head_from: Number of the model that has the final norm and head.
        max_hops: Longer paths are infeasible; as long as they like when omitted.
        init: The path that a search begins with: all layers of the first model, or any text, e.g.
            ``"A[0:5] B[3:8]"``. Layers on it begin at +2σ, others at −2σ, scales at 1.
        indicators: ``"real"``, numbers in [−6σ, 6σ], on above 0, for CMA-ES; or
            ``"categorical"``, for every depth and repetition a choice of a model or none, for
            genetic algorithms, TPE and others.
        config: Whose config counts where those of the models give weights another meaning:
            ``"base"``, the model of the embedding, or the name of a source.

    Raises:
        RecipeError: If an option is out of its range, or no path can go through these models.
        CheckpointMismatch: If their layers do not fit on each other.

    Example:
        >>> space = mo.spaces.LayerPath([a, b])
        >>> mo.MergeStudy("dfs", mo.MergeObjective(space, evaluator), n_trials=1000).run()
    """

    kind = "layer_path"
    parts = ("start",)
    options: ClassVar = {
        "depths": (list,),
        "repeats": (int,),
        "scales": (str,),
        "max_hops": (int, type(None)),
        "indicators": (str,),
    }

    def __init__(
        self,
        models: Sequence[Checkpoint | Recipe],
        repeats: int = 3,
        scales: ScaleForm = "hop",
        scale_target: ScaleTarget = "branch",
        embeddings_from: int = 0,
        head_from: int = 0,
        max_hops: int | None = None,
        init: str = FIRST_MODEL,
        indicators: IndicatorForm = "real",
        config: str | None = None,
    ) -> None:
        check_sources("LayerPath", None, models)
        if not models:
            raise RecipeError("LayerPath needs at least one model: LayerPath([a, b]).")
        _check_options(scales, indicators, init, repeats, max_hops)
        _check_bound(models)
        depths = [frame_of(model).depth for model in models]
        text = f"A[0:{depths[0]}]" if init == FIRST_MODEL else init
        start = recipes.Route.parse(
            text, scale_target, embeddings_from=embeddings_from, head_from=head_from
        )
        recipe = recipes.path(start, models, config=config)
        branches_of(recipe.models)
        self._set(recipe, depths, repeats, scales, max_hops, indicators)
        self.start()  # finds that the path does not fit
        if max_hops is not None and len(start.hops) > max_hops:
            raise RecipeError(
                f"The path that a search begins with has {len(start.hops)} layers, more than "
                f"max_hops={max_hops}."
            )

    def _set(
        self,
        start: Recipe,
        depths: Sequence[int],
        repeats: int,
        scales: str,
        max_hops: int | None,
        indicators: str,
    ) -> None:
        if start.path is None:
            raise RecipeError(f"LayerPath starts with a path, not with a {start.method}.")
        _check_depths(depths, len(start.models), repeats)
        self.recipe = start
        self.depths, self.repeats, self.max_hops = list(depths), repeats, max_hops
        self.scales, self.indicators = scales, indicators
        self._indicators = INDICATORS[indicators](tuple(depths), repeats)
        self._scales = SCALES[scales](tuple(depths), self._indicators.slots)
        self._distributions = {**self._indicators.distributions(), **self._scales.distributions()}

    @property
    def init(self) -> recipes.Route:
        """The path that a search begins with."""
        assert self.recipe.path is not None
        return self.recipe.path

    @property
    def template(self) -> Recipe:
        """See :meth:`Space.template`; no further model is made for it."""
        return self.recipe

    def untuned(self) -> Recipe:
        """See :meth:`Space.untuned`: the path that a search begins with."""
        return self.recipe

    def distributions(self) -> dict[str, BaseDistribution]:
        """See :meth:`Space.distributions`."""
        return dict(self._distributions)

    def start(self) -> dict[str, Any]:
        """The parameters at which a search begins."""
        taken = self._indicators.places(self.init.hops)
        return {**self._indicators.start(taken), **self._scales.start(taken)}

    def sampler(
        self, *, seed: int | None = None, objectives: int = 1, **overrides: Any
    ) -> CmaEsSampler | GASampler | NSGA2Sampler:
        """CMA-ES from the start; a genetic algorithm around it for categorical indicators.

        For several objectives NSGA-II, with the start in its first population.

        The first path of CMA-ES is near the start but not it, which can be enqueued:
        ``study.enqueue_trial(space.start())``.

        Args:
            seed: Of all random numbers; fixed in the study when omitted.
            objectives: How many the study has.
            overrides: Further arguments of the sampler, e.g. ``population_size=128``, the paper's.
        """
        categorical = any(
            not isinstance(d, FloatDistribution) for d in self._distributions.values()
        )
        if objectives > 1 or categorical:
            kind = NSGA2Sampler if objectives > 1 else GASampler
            around: dict[str, Any] = {"initial_population": [self.start()], **overrides}
            return kind(self.distributions(), seed=seed, **around)
        parts = self._indicators, self._scales
        sigmas = {name: part.sigma for part in parts for name in part.distributions()}
        arguments: dict[str, Any] = {
            "x0": self.start(),
            "sigma0": {
                name: sigmas[name] / (distribution.high - distribution.low)
                for name, distribution in self._distributions.items()
                if isinstance(distribution, FloatDistribution)
            },
            **overrides,
        }
        return CmaEsSampler(self.distributions(), seed=seed, **arguments)

    @classmethod
    def declared(cls, recipes: Mapping[str, Recipe], options: Mapping[str, Any]) -> Self:
        """See :meth:`Space.declared`."""
        _check_options(**{name: options[name] for name in options if name != "depths"}, init="")
        made = cls.__new__(cls)
        made._set(recipes["start"], **options)
        return made

    def bind(self, params: Mapping[str, Any]) -> Recipe:
        """See :meth:`ParameterSpace.bind`; a path that is empty or too long is infeasible."""
        check_params(self._distributions, params)
        visits = self._indicators.visits(params)
        if not visits:
            raise InfeasibleRecipe("The path is empty: no layer is on.")
        if self.max_hops is not None and len(visits) > self.max_hops:
            raise InfeasibleRecipe(
                f"The path has {len(visits)} layers, more than max_hops={self.max_hops}."
            )
        scales = self._scales.values(params, visits)
        hops = [Hop(v.model, v.layer, w) for v, w in zip(visits, scales, strict=True)]
        return self.recipe.with_fields(path=self.init.through(hops))


def _check_options(
    scales: str, indicators: str, init: str, repeats: int, max_hops: int | None
) -> None:
    for name, value, known in (
        ("scales", scales, get_args(ScaleForm)),
        ("indicators", indicators, get_args(IndicatorForm)),
    ):
        if value not in known:
            raise RecipeError(f"{name} must be one of {', '.join(known)}, not {value!r}.")
    if not isinstance(init, str):
        raise RecipeError(f"init must be 'first-model' or the text of a path, not {init!r}.")
    for name, number in (("repeats", repeats), ("max_hops", 1 if max_hops is None else max_hops)):
        if type(number) is not int or number < 1:
            raise RecipeError(f"{name} must be a whole number of at least 1, not {shown(number)}.")


def _check_depths(depths: Sequence[int], models: int, repeats: int) -> None:
    if len(depths) != models or not all(type(depth) is int and depth > 0 for depth in depths):
        raise RecipeError(
            f"depths must be the number of layers of each of {models} models, not {shown(depths)}."
        )
    if sum(depths) * repeats > MOST_HOPS:
        raise RecipeError(
            f"{sum(depths)} layers in all, repeats={repeats} times, are more than the "
            f"{MOST_HOPS:,} that a path may have. Choose a smaller repeats."
        )


def _check_bound(models: Sequence[Checkpoint | Recipe]) -> None:
    for model in models:
        if isinstance(model, Recipe) and model.slots:
            raise RecipeError(
                f"A model of the path has free numbers: {few([s.name for s in model.slots], 5)}. "
                "Bind them first, e.g. mo.recipe_of(study) after a search for them."
            )
