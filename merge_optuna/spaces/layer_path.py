"""The data-flow space: through which layers of several models a forward pass goes.

Akiba et al.: Evolutionary Optimization of Model Merging Recipes, arXiv 2403.13187, §3.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

from optuna.distributions import FloatDistribution, IntDistribution

from merge_optuna import _optuna_compat as compat
from merge_optuna import recipes
from merge_optuna.checkpoints import Checkpoint
from merge_optuna.engine import branches_of
from merge_optuna.errors import InfeasibleRecipe, RecipeError, few, shown
from merge_optuna.recipes import (
    MOST_HOPS,
    Hop,
    Recipe,
    Route,
    ScaleTarget,
    check_params,
    check_sources,
    frame_of,
)
from merge_optuna.samplers import CatCmaEsSampler, CmaEsSampler, NSGA2Sampler
from merge_optuna.spaces._blocks import Blocks
from merge_optuna.spaces._layouts import LAYOUTS, Odds
from merge_optuna.spaces._prior import LayerPrior
from merge_optuna.spaces._scales import SCALES
from merge_optuna.spaces._space import Declaration, ParameterSpace

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution

ScaleForm = Literal["hop", "matrix", "network", "none"]
LayoutForm = Literal["depth", "paper", "blocks"]
FIRST = "first"
_BLOCKS = 3
_NUMBER = 1 / 6  # standard deviation of a block's numbers in the first generation, of their range


class LayerPath(ParameterSpace):
    """The data-flow space of evolutionary model merge: paths through the layers of some models.

    Depth by depth a trial chooses the layer of one of the models, or none, ``repeats`` times over,
    and how strongly the layer before hands on to it. A trial's path is its user attribute
    ``path``, e.g. ``A0-A1-B1×0.8-A2``, A the first model; a trial whose path is empty or too long
    is pruned. Evaluating one copies no weight, and :func:`mo.export` writes an ordinary model of
    the same architecture.

    The parameters are ``on/<repetition>/<depth>``, a model's letter or ``"skip"``, and
    ``scale/<repetition>/<depth>`` of the layers that are on the path, or those of the other forms.

    Args:
        models: Of one architecture (llama, mistral, qwen2, qwen3, gpt2, bert, roberta,
            xlm-roberta) and width; their depths may differ. One is enough. A recipe can be one:
            of :func:`mo.recipe_of` after a search in parameter space, or with free numbers, which
            are then searched together with the path, each under its own name; those of a layer
            only while it is on the path.
        repeats: How often the layers are laid out.
        scales: ``"hop"``, one scale for every layer on the path; ``"matrix"``, one for every pair
            of layers, which is for 12 layers in all; ``"network"``, a small network of the two
            layers and the number of the hop, whose 41 weights are searched; or ``"none"``, all are
            1. When omitted ``"hop"``, and ``"none"`` with ``layout="blocks"``.
        scale_target: What a scale is about, see :class:`mo.recipes.Route`.
        embeddings_from: Number of the model that has embedding, config and tokenizer.
        head_from: Number of the model that has the final norm and head.
        max_hops: Longer paths are infeasible; as long as they like when omitted.
        start: The path that a search begins with: ``"first"``, all layers of the first model; any
            text, e.g. ``"A[0:5] B[3:8]"``; a :class:`mo.recipes.Route`; or a recipe that is a path
            through these models, e.g. ``mo.recipe_of(mo.greedy_path(objective))``.
        layout: ``"depth"``; ``"paper"``, a number for every layer and repetition, all layers of a
            model before those of the next, on above 0, for CMA-ES, as in the paper; or
            ``"blocks"``: the path ``start`` stays, and blocks of layers are put into it.
        blocks: How many blocks may be put into the path; when omitted 3 with ``layout="blocks"``,
            else none. For block i there are ``block/<i>/times`` and, if that is not 0, its
            ``source`` (if there are several models), ``start``, ``length``, and ``at``: behind how
            many layers of the path it is put.
        keep: First probability of the layer that the path ``start`` has at a depth.
        drop: First probability of none there; the other models share the rest.
        insert: First probability of any layer where it has none.
        prior: What :func:`mo.layer_prior` has found of the models: first probabilities and spreads
            of scales layer by layer, around these.
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
        "layout": (str,),
        "blocks": (int,),
        "keep": (float,),
        "drop": (float,),
        "insert": (float,),
        "prior": (dict, type(None)),
    }

    def __init__(
        self,
        models: Sequence[Checkpoint | Recipe],
        repeats: int = 2,
        scales: ScaleForm | None = None,
        scale_target: ScaleTarget = "branch",
        embeddings_from: int = 0,
        head_from: int = 0,
        max_hops: int | None = None,
        start: str | Route | Recipe = FIRST,
        layout: LayoutForm = "depth",
        blocks: int | None = None,
        keep: float = 0.6,
        drop: float = 0.05,
        insert: float = 0.08,
        prior: LayerPrior | None = None,
        config: str | None = None,
    ) -> None:
        check_sources("LayerPath", None, models)
        if not models:
            raise RecipeError("LayerPath needs at least one model: LayerPath([a, b]).")
        _check_word("layout", layout, get_args(LayoutForm))
        depths = [frame_of(model).depth for model in models]
        ends: dict[str, Any] = {"embeddings_from": embeddings_from, "head_from": head_from}
        hops = _first_path(start, depths[0], scale_target, models)
        recipe = recipes.path(Route(hops, scale_target, **ends), models, config=config)
        branches_of(recipe.models)
        apart = layout == "blocks"
        self._set(
            recipe,
            depths=depths,
            repeats=repeats,
            scales=("none" if apart else "hop") if scales is None else scales,
            max_hops=max_hops,
            layout=layout,
            blocks=_BLOCKS * apart if blocks is None else blocks,
            odds=Odds(keep, drop, insert, prior),
        )
        self.start()  # finds that the path does not fit
        if max_hops is not None and len(hops) > max_hops:
            raise RecipeError(
                f"The path that a search begins with has {len(hops)} layers, more than "
                f"max_hops={max_hops}."
            )

    def _set(
        self,
        start: Recipe,
        *,
        depths: Sequence[int],
        repeats: int,
        scales: str,
        max_hops: int | None,
        layout: str,
        blocks: int,
        odds: Odds,
    ) -> None:
        if start.path is None:
            raise RecipeError(f"LayerPath starts with a path, not with a {start.method}.")
        _check_word("scales", scales, get_args(ScaleForm))
        _check_count("repeats", repeats)
        _check_count("max_hops", 1 if max_hops is None else max_hops)
        _check_count("blocks", blocks, least=0)
        _check_depths(depths, len(start.models), repeats)
        self._free, self._numbers_of = start, _numbers_of(start)
        self.recipe = start.bind(start.start()) if start.slots else start
        self.depths, self.repeats, self.max_hops = list(depths), repeats, max_hops
        self.scales, self.layout, self.blocks = scales, layout, blocks
        self.keep, self.drop, self.insert = odds.keep, odds.drop, odds.insert
        self._prior = odds.prior
        if self._prior is not None:
            self._prior.check(depths)
        self._layout = LAYOUTS[layout](tuple(depths), repeats, start.path.hops, odds)
        self._scales = SCALES[scales](tuple(depths), self._layout.slots)
        self._blocks = Blocks(blocks, tuple(depths), len(self._layout.slots))
        parts = self._layout, self._blocks, self._scales, start
        self._distributions = {n: d for part in parts for n, d in part.distributions().items()}

    @property
    def prior(self) -> dict[str, Any] | None:
        """What is known of the layers, as plain numbers."""
        return None if self._prior is None else self._prior.to_data()

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
        """The parameters of the path that a search begins with, and of what it does not need."""
        scales = self._scales.start(self._layout.taken)
        return {**self._layout.start(), **self._blocks.start(), **scales, **self._free.start()}

    def sampler(
        self, *, seed: int | None = None, objectives: int = 1, **overrides: Any
    ) -> CatCmaEsSampler | CmaEsSampler | NSGA2Sampler:
        """CatCMA around the start; CMA-ES for ``layout="paper"``.

        For several objectives NSGA-II, with the start in its first population.

        The first path is near the start but not it, which can be enqueued:
        ``study.enqueue_trial(space.start())``.

        Args:
            seed: Of all random numbers; fixed in the study when omitted.
            objectives: How many the study has.
            overrides: Further arguments of the sampler, e.g. ``population_size=128``, the paper's.
        """
        if objectives > 1:
            around: dict[str, Any] = {"initial_population": [self.start()], **overrides}
            return NSGA2Sampler(self.distributions(), seed=seed, **around)
        numbers, start = self._numbers(), self.start()
        arguments: dict[str, Any] = {
            "x0": {name: start[name] for name in numbers},
            "sigma0": numbers,
            **overrides,
        }
        if self.layout == "paper" and not self.blocks:
            return CmaEsSampler(self.distributions(), seed=seed, **arguments)
        arguments = {"probabilities": self._layout.probabilities(), **arguments}
        return CatCmaEsSampler(self.distributions(), seed=seed, **arguments)

    def _numbers(self) -> dict[str, float]:
        """Standard deviation of each number in the first generation, in units of its range."""
        parts = self._layout, self._scales
        sigmas = {name: part.sigma for part in parts for name in part.distributions()}
        if self._prior is not None:
            sigmas |= self._layout.scale_sigmas(self._prior, sigmas)
        return {
            name: sigmas[name] / (one.high - one.low) if name in sigmas else _NUMBER
            for name, one in self._distributions.items()
            if isinstance(one, FloatDistribution | IntDistribution)
        }

    def declaration(self) -> Declaration:
        """See :meth:`Space.declaration`."""
        return replace(super().declaration(), recipes={"start": self._free})

    @classmethod
    def declared(cls, recipes: Mapping[str, Recipe], options: Mapping[str, Any]) -> Self:
        """See :meth:`Space.declared`."""
        others = dict(options)
        keep, drop, insert, prior = (others.pop(n) for n in ("keep", "drop", "insert", "prior"))
        known = None if prior is None else LayerPrior.from_data(prior)
        odds = Odds(keep, drop, insert, known)
        _check_word("layout", options["layout"], tuple(LAYOUTS))
        made = cls.__new__(cls)
        made._set(recipes["start"], odds=odds, **others)
        return made

    def __call__(self, trial: Trial) -> Recipe:
        """See :meth:`Space.__call__`; only what the path depends on is suggested."""
        params: dict[str, Any] = {}
        for name in self._needed(params):
            params[name] = compat.suggest(trial, name, self._distributions[name])
        return self._recipe(params)

    def bind(self, params: Mapping[str, Any]) -> Recipe:
        """See :meth:`ParameterSpace.bind`; a path that is empty or too long is infeasible."""
        check_params(self._layout.distributions(), params)
        taken: dict[str, Any] = {}
        for name in self._needed(taken):
            check_params({name: self._distributions[name]}, params)
            taken[name] = params[name]
        return self._recipe(taken)

    def _needed(self, params: Mapping[str, Any]) -> Iterator[str]:
        """Names of the parameters that a path depends on, ``params`` those named so far."""
        yield from self._layout.distributions()
        yield from self._blocks.needed(params)
        if self._layout.absent_scales:
            yield from self._scales.distributions()
        hops = self._hops(params)
        if self._infeasible(hops) is None:
            if not self._layout.absent_scales:
                yield from self._scales.needed(self._layout.visits(params))
            on = {hop[:2] for hop in hops}
            yield from (name for name, layer in self._numbers_of.items() if layer in {None, *on})

    def _hops(self, params: Mapping[str, Any], scales: Sequence[float] = ()) -> list[Hop]:
        visits = self._layout.visits(params)
        weights = scales or [1.0] * len(visits)
        hops = [Hop(v.model, v.layer, w) for v, w in zip(visits, weights, strict=True)]
        return self._blocks.put_into(hops, params)

    def _infeasible(self, hops: Sequence[Hop]) -> str | None:
        """Why there is no such path; None if there is."""
        if not hops:
            return "The path is empty: no layer is on."
        if self.max_hops is not None and len(hops) > self.max_hops:
            return f"The path has {len(hops)} layers, more than max_hops={self.max_hops}."
        return None

    def _recipe(self, params: Mapping[str, Any]) -> Recipe:
        if (reason := self._infeasible(self._hops(params))) is not None:
            raise InfeasibleRecipe(reason)
        scales = self._scales.values(params, self._layout.visits(params))
        assert self.recipe.path is not None
        path = self.recipe.path.through(self._hops(params, scales))
        weights = {name: params.get(name, start) for name, start in self._free.start().items()}
        return self._free.with_fields(path=path).bind(weights)


def _numbers_of(path: Recipe) -> dict[str, tuple[int, int] | None]:
    """Of every free number of its models the (model, layer) that it is about; None if several."""
    found: dict[str, tuple[int, int] | None] = dict.fromkeys(path.distributions())
    for prefix, one in path.nested:
        model = next(i for i, source in enumerate(path.models) if source is one)
        for slot in one.slots:
            if slot.layer.isdigit():
                found[f"{prefix}/{slot.name}"] = model, int(slot.layer)
    return found


def _first_path(
    start: str | Route | Recipe,
    depth: int,
    scale_target: ScaleTarget,
    models: Sequence[Checkpoint | Recipe],
) -> tuple[Hop, ...]:
    """The layers of the path that a search begins with."""
    if isinstance(start, Recipe):
        names = recipes.path("A0", models).model_names
        if start.path is None or start.model_names != names:
            raise RecipeError(
                f"start must be a path through the models {few(names)}, and this recipe is "
                f"{start} of {few(start.model_names)}."
            )
        start = start.path
    if isinstance(start, str):
        return Route.parse(f"A[0:{depth}]" if start == FIRST else start, scale_target).hops
    if not isinstance(start, Route):
        raise RecipeError(f"start must be {FIRST!r}, the text of a path or a path, not {start!r}.")
    if start.is_scaled and start.scale_target != scale_target:
        raise RecipeError(
            f"The scales of the path at the start are about the {start.scale_target}: give "
            f"scale_target={start.scale_target!r}."
        )
    return start.hops


def _check_word(name: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        raise RecipeError(f"{name} must be one of {', '.join(known)}, not {value!r}.")


def _check_count(name: str, number: Any, least: int = 1) -> None:
    if type(number) is not int or number < least:
        raise RecipeError(
            f"{name} must be a whole number of at least {least}, not {shown(number)}."
        )


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
