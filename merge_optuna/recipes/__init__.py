"""What to merge: one function per method, each returning a recipe.

Every numeric parameter may be a number; a free number, ``mo.free(low, high, per=...)``; one value
per layer group, ``mo.per_group([...])``; or ``{filter: value, "*": value}`` by tensor name.
``weight`` and ``density`` belong to each model: give one value for all, or a list with one each.

``exclude`` takes name filters: matching tensors come unchanged from the base (from the first model
for methods without one).

``tokenizer`` is for models whose vocabularies differ: ``"base"`` (the first model, for methods
without one), ``"union"`` or the name of a source says whose tokens the merged model has, and
:class:`mo.Vocabulary` more than that. ``chat_template`` is ``"auto"``, the name of a source or a
template. ``config`` is for models whose configs give weights another meaning, e.g. by another base
of the rotary positions: ``"base"`` or the name of a source says whose counts. All three are given
to the outermost recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from merge_optuna.checkpoints import Checkpoint, Vocabulary
from merge_optuna.recipes._documents import mergekit
from merge_optuna.recipes._fisher_and_gram import KEY as STATISTICS
from merge_optuna.recipes._merge import merge
from merge_optuna.recipes._params import check_params
from merge_optuna.recipes._structure import Chain, Structure
from merge_optuna.recipes._tree import Recipe, check_sources, frame_of, leaves_of
from merge_optuna.recipes._values import (
    ByName,
    Free,
    PerGroup,
    Value,
    as_value,
    form_of,
    free,
    per_group,
)
from merge_optuna.recipes.groups import Depth, Layout, depth
from merge_optuna.recipes.route import MOST_HOPS, Hop, Route, ScaleTarget

LayerPath = Route  # its name before mo.spaces.LayerPath
Source = Checkpoint | Recipe
Setting = float | Free | PerGroup | Mapping[str, Any]
PerModel = Setting | Sequence[Setting]
Tokenizer = str | Vocabulary | None


def linear(
    models: Sequence[Source],
    *,
    weight: PerModel = 1.0,
    normalize: bool = True,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """Weighted average of models.

    Args:
        models: At least one.
        weight: Coefficient of each model, any number.
        normalize: Divide by the sum of the weights. A free weight is then searched as n − 1
            shares, since only proportions matter.
        exclude: See the module.
        name: Prefix of parameter names inside another recipe.
        tokenizer: See the module.
        chat_template: See the module.
        config: See the module.

    Raises:
        RecipeError: If a parameter is outside its range.
    """
    values = {"weight": weight, "normalize": normalize}
    return merge(
        "linear",
        None,
        models,
        values,
        exclude=exclude,
        name=name,
        tokenizer=tokenizer,
        chat_template=chat_template,
        config=config,
    )


def slerp(
    a: Source,
    b: Source,
    *,
    t: Setting = 0.5,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """Spherical interpolation from ``a`` (t = 0) to ``b`` (t = 1), tensor by tensor."""
    return merge(
        "slerp",
        None,
        [a, b],
        {"t": t},
        exclude=exclude,
        name=name,
        tokenizer=tokenizer,
        chat_template=chat_template,
        config=config,
    )


def nuslerp(
    models: Sequence[Source],
    *,
    base: Source | None = None,
    weight: PerModel = 1.0,
    row_wise: bool = False,
    flatten: bool = True,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """Spherical interpolation of two models, or of their task vectors if there is a base.

    Args:
        models: Two.
        base: What task vectors are taken from; the models themselves are interpolated without.
        weight: Of each model, of any sign; the second one's share of the sum is slerp's ``t``,
            half where they cancel. Only proportions matter, so of free weights one share is
            searched.
        row_wise: Without ``flatten``, interpolate the vectors along the first axis of each tensor
            instead of those along the last.
        flatten: Interpolate each tensor as one vector.
        exclude: See the module.
        name: Prefix of parameter names inside another recipe.
        tokenizer: See the module.
        chat_template: See the module.
        config: See the module.

    Raises:
        RecipeError: If a parameter is outside its range.
    """
    values = {"weight": weight, "row_wise": row_wise, "flatten": flatten}
    return merge(
        "nuslerp",
        base,
        models,
        values,
        exclude=exclude,
        name=name,
        tokenizer=tokenizer,
        chat_template=chat_template,
        config=config,
    )


def multislerp(
    models: Sequence[Source],
    *,
    base: Source | None = None,
    weight: PerModel = 1.0,
    normalize: bool = True,
    eps: float = 1e-8,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """Mean direction and mean length of the models, or of their task vectors if there is a base.

    Args:
        models: At least one.
        base: What task vectors are taken from; the models themselves are averaged without.
        weight: Of each model, in both means.
        normalize: Divide by the sum of the weights.
        eps: Squared length up to which the mean of the unit tensors counts as zero, in [0, 1];
            then the tensors are averaged linearly.
        exclude: See the module.
        name: Prefix of parameter names inside another recipe.
        tokenizer: See the module.
        chat_template: See the module.
        config: See the module.

    Raises:
        RecipeError: If a parameter is outside its range.
    """
    values = {"weight": weight, "normalize": normalize, "eps": eps}
    return merge(
        "multislerp",
        base,
        models,
        values,
        exclude=exclude,
        name=name,
        tokenizer=tokenizer,
        chat_template=chat_template,
        config=config,
    )


def karcher(
    models: Sequence[Source],
    *,
    weight: PerModel = 1.0,
    max_iter: int = 10,
    tol: float = 1e-5,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """Karcher mean: the direction with the least squared angles to the models, in mean length.

    Args:
        models: At least one.
        weight: Of each model, at least 0. Only proportions matter, so n − 1 shares are searched.
        max_iter: Most steps of the descent, in [1, 1000].
        tol: Length of a step in radians below which the descent ends, in [0, 1].
        exclude: See the module.
        name: Prefix of parameter names inside another recipe.
        tokenizer: See the module.
        chat_template: See the module.
        config: See the module.

    Raises:
        RecipeError: If a parameter is outside its range.
    """
    values = {"weight": weight, "max_iter": max_iter, "tol": tol}
    return merge(
        "karcher",
        None,
        models,
        values,
        exclude=exclude,
        name=name,
        tokenizer=tokenizer,
        chat_template=chat_template,
        config=config,
    )


def task_arithmetic(
    base: Source,
    experts: Sequence[Source],
    *,
    weight: PerModel = 1.0,
    lambda_: Setting = 1.0,
    normalize: bool = False,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """Base plus ``lambda_`` times the weighted sum of the experts' task vectors."""
    values = {"weight": weight, "lambda_": lambda_, "normalize": normalize}
    return merge(
        "task_arithmetic",
        base,
        experts,
        values,
        exclude=exclude,
        name=name,
        tokenizer=tokenizer,
        chat_template=chat_template,
        config=config,
    )


def ties(
    base: Source,
    experts: Sequence[Source],
    *,
    weight: PerModel = 1.0,
    density: PerModel = 0.5,
    lambda_: Setting = 1.0,
    normalize: bool = True,
    elect: str = "mass",
    trim_over: str = "tensor",
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """TIES: trim each task vector, elect a sign per entry, average the entries that agree.

    Args:
        base: What task vectors are taken from.
        experts: At least one.
        weight: Coefficient of each task vector; at least 0 when normalised.
        density: Share of each task vector that is kept, in [0, 1].
        lambda_: Scale of the merged task vector.
        normalize: Mean of the agreeing entries (the paper) instead of their sum.
        elect: Sign of the weighted sum (``"mass"``) or of the majority (``"count"``).
        trim_over: Rank the entries of each ``"tensor"`` or of the whole ``"model"``.
        exclude: See the module.
        name: Prefix of parameter names inside another recipe.
        tokenizer: See the module.
        chat_template: See the module.
        config: See the module.

    Raises:
        RecipeError: If a parameter is outside its range.
    """
    values = {
        "weight": weight,
        "density": density,
        "lambda_": lambda_,
        "normalize": normalize,
        "elect": elect,
        "trim_over": trim_over,
    }
    return merge(
        "ties",
        base,
        experts,
        values,
        exclude=exclude,
        name=name,
        tokenizer=tokenizer,
        chat_template=chat_template,
        config=config,
    )


def dare_linear(
    base: Source,
    experts: Sequence[Source],
    *,
    weight: PerModel = 1.0,
    density: PerModel = 0.5,
    lambda_: Setting = 1.0,
    rescale: str = "density",
    normalize: bool = False,
    seed: int = 0,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """DARE: drop entries of each task vector at random, rescale, then task arithmetic.

    Args:
        base: What task vectors are taken from.
        experts: At least one.
        weight: Coefficient of each task vector.
        density: Probability with which an entry is kept, in [0, 1]; 0 drops the expert.
        lambda_: Scale of the merged task vector.
        rescale: Divide what is kept by the realised ``"density"``, restore the tensor's ``"l1"``
            norm, or ``"none"``.
        normalize: Divide by the sum of the weights.
        seed: Of the masks, which are keyed by (seed, expert's name, tensor's name).
        exclude: See the module.
        name: Prefix of parameter names inside another recipe.
        tokenizer: See the module.
        chat_template: See the module.
        config: See the module.

    Raises:
        RecipeError: If a parameter is outside its range.
    """
    values = {
        "weight": weight,
        "density": density,
        "lambda_": lambda_,
        "rescale": rescale,
        "normalize": normalize,
        "seed": seed,
    }
    return merge(
        "dare_linear",
        base,
        experts,
        values,
        exclude=exclude,
        name=name,
        tokenizer=tokenizer,
        chat_template=chat_template,
        config=config,
    )


def dare_ties(
    base: Source,
    experts: Sequence[Source],
    *,
    weight: PerModel = 1.0,
    density: PerModel = 0.5,
    lambda_: Setting = 1.0,
    rescale: str = "density",
    normalize: bool = False,
    elect: str = "mass",
    seed: int = 0,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """DARE, then TIES sign election and the sum of the entries that agree.

    The arguments are those of :func:`dare_linear` and ``elect`` of :func:`ties`.
    """
    values = {
        "weight": weight,
        "density": density,
        "lambda_": lambda_,
        "rescale": rescale,
        "normalize": normalize,
        "elect": elect,
        "seed": seed,
    }
    return merge(
        "dare_ties",
        base,
        experts,
        values,
        exclude=exclude,
        name=name,
        tokenizer=tokenizer,
        chat_template=chat_template,
        config=config,
    )


def model_stock(
    base: Source,
    experts: Sequence[Source],
    *,
    filter_wise: bool = False,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """Model Stock: between the base and the average of its experts, by the angle between them.

    Args:
        base: The pre-trained model that all experts were fine-tuned from.
        experts: At least two.
        filter_wise: Measure the angle for each row of a matrix instead of each tensor.
        exclude: See the module.
        name: Prefix of parameter names inside another recipe.
        tokenizer: See the module.
        chat_template: See the module.
        config: See the module.
    """
    values = {"filter_wise": filter_wise}
    return merge(
        "model_stock",
        base,
        experts,
        values,
        exclude=exclude,
        name=name,
        tokenizer=tokenizer,
        chat_template=chat_template,
        config=config,
    )


def nearswap(
    base: Source,
    expert: Source,
    *,
    t: Setting = 1e-4,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """NearSwap: each element of the base moves towards the expert's by at most ``t``.

    Elements nearer than ``t`` become the expert's; the unit is that of the weights.
    """
    return merge(
        "nearswap",
        base,
        [expert],
        {"t": t},
        exclude=exclude,
        name=name,
        tokenizer=tokenizer,
        chat_template=chat_template,
        config=config,
    )


def arcee_fusion(
    base: Source,
    expert: Source,
    *,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """Arcee Fusion: the elements of the expert whose change stands out, all others of the base.

    A change counts by its size times the divergence of its row's softmax from the base's. Taken is
    what lies at or above the tensor's median plus one and a half interquartile ranges.
    """
    return merge(
        "arcee_fusion",
        base,
        [expert],
        {},
        exclude=exclude,
        name=name,
        tokenizer=tokenizer,
        chat_template=chat_template,
        config=config,
    )


def della_linear(
    base: Source,
    experts: Sequence[Source],
    *,
    weight: PerModel = 1.0,
    density: PerModel = 0.5,
    epsilon: PerModel = 0.15,
    lambda_: Setting = 1.0,
    rescale: str = "density",
    normalize: bool = False,
    seed: int = 0,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """DELLA's MAGPRUNE: as DARE, but large entries are kept more often; then task arithmetic.

    The entries of a row (the weights of one output; a vector is one row) are ranked by magnitude.
    The largest is kept with probability density + epsilon, the smallest with density − epsilon.

    Args:
        base: What task vectors are taken from.
        experts: At least one.
        weight: Coefficient of each task vector.
        density: Mean probability with which an entry is kept, in [0, 1]; 0 drops the expert.
        epsilon: Half the spread of the probabilities, in [0, 0.5]. Where density ± epsilon would
            leave [0, 1], the smaller of density and 1 − density is taken instead, so that every
            pair is valid and the mean stays the density.
        lambda_: Scale of the merged task vector.
        rescale: Divide what is kept by its probability (``"density"``; corrected for how many
            were kept), restore the tensor's ``"l1"`` norm, or ``"none"``.
        normalize: Divide by the sum of the weights.
        seed: Of the masks, which are keyed by (seed, expert's name, tensor's name).
        exclude: See the module.
        name: Prefix of parameter names inside another recipe.
        tokenizer: See the module.
        chat_template: See the module.
        config: See the module.

    Raises:
        RecipeError: If a parameter is outside its range.
    """
    values = {
        "weight": weight,
        "density": density,
        "epsilon": epsilon,
        "lambda_": lambda_,
        "rescale": rescale,
        "normalize": normalize,
        "seed": seed,
    }
    return merge(
        "della_linear",
        base,
        experts,
        values,
        exclude=exclude,
        name=name,
        tokenizer=tokenizer,
        chat_template=chat_template,
        config=config,
    )


def della(
    base: Source,
    experts: Sequence[Source],
    *,
    weight: PerModel = 1.0,
    density: PerModel = 0.5,
    epsilon: PerModel = 0.15,
    lambda_: Setting = 1.0,
    rescale: str = "density",
    normalize: bool = True,
    elect: str = "mass",
    seed: int = 0,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """DELLA: MAGPRUNE, then TIES sign election and the mean of the entries that agree.

    The arguments are those of :func:`della_linear`, and ``normalize`` (the mean instead of the
    sum) and ``elect`` of :func:`ties`.
    """
    values = {
        "weight": weight,
        "density": density,
        "epsilon": epsilon,
        "lambda_": lambda_,
        "rescale": rescale,
        "normalize": normalize,
        "elect": elect,
        "seed": seed,
    }
    return merge(
        "della",
        base,
        experts,
        values,
        exclude=exclude,
        name=name,
        tokenizer=tokenizer,
        chat_template=chat_template,
        config=config,
    )


def breadcrumbs(
    base: Source,
    experts: Sequence[Source],
    *,
    weight: PerModel = 1.0,
    density: PerModel = 0.5,
    gamma: PerModel = 0.01,
    lambda_: Setting = 1.0,
    rescale: str = "none",
    normalize: bool = False,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """Model breadcrumbs: drop the largest and the smallest entries, then task arithmetic.

    Args:
        base: What task vectors are taken from.
        experts: At least one.
        weight: Coefficient of each task vector.
        density: Share of each task vector that is kept, tensor by tensor, in [0, 1]. The paper's
            β is 1 − density − gamma.
        gamma: Share that is dropped as too large, in [0, 1]; less where not enough would be left.
        lambda_: Scale of the merged task vector.
        rescale: Leave what is kept (``"none"``), or restore the tensor's ``"l1"`` norm.
        normalize: Divide by the sum of the weights.
        exclude: See the module.
        name: Prefix of parameter names inside another recipe.
        tokenizer: See the module.
        chat_template: See the module.
        config: See the module.

    Raises:
        RecipeError: If a parameter is outside its range.
    """
    values = {
        "weight": weight,
        "density": density,
        "gamma": gamma,
        "lambda_": lambda_,
        "rescale": rescale,
        "normalize": normalize,
    }
    return merge(
        "breadcrumbs",
        base,
        experts,
        values,
        exclude=exclude,
        name=name,
        tokenizer=tokenizer,
        chat_template=chat_template,
        config=config,
    )


def breadcrumbs_ties(
    base: Source,
    experts: Sequence[Source],
    *,
    weight: PerModel = 1.0,
    density: PerModel = 0.5,
    gamma: PerModel = 0.01,
    lambda_: Setting = 1.0,
    rescale: str = "none",
    normalize: bool = False,
    elect: str = "mass",
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """Model breadcrumbs, then TIES sign election and the sum of the entries that agree.

    The arguments are those of :func:`breadcrumbs` and ``elect`` of :func:`ties`.
    """
    values = {
        "weight": weight,
        "density": density,
        "gamma": gamma,
        "lambda_": lambda_,
        "rescale": rescale,
        "normalize": normalize,
        "elect": elect,
    }
    return merge(
        "breadcrumbs_ties",
        base,
        experts,
        values,
        exclude=exclude,
        name=name,
        tokenizer=tokenizer,
        chat_template=chat_template,
        config=config,
    )


def sce(
    base: Source,
    experts: Sequence[Source],
    *,
    select_topk: Setting = 1.0,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """SCE: select varying entries, calculate the experts' weights, erase minority signs.

    Per tensor: the entries whose task vectors vary most between the experts are kept; each expert
    is weighted by the sum of its squares; entries against the sign of the sum are left out.

    Args:
        base: What task vectors are taken from.
        experts: Any number.
        select_topk: Share of the varying entries that is kept, in [0, 1]; 0 gives the base.
        exclude: See the module.
        name: Prefix of parameter names inside another recipe.
        tokenizer: See the module.
        chat_template: See the module.
        config: See the module.

    Raises:
        RecipeError: If a parameter is outside its range.
    """
    values = {"select_topk": select_topk}
    return merge(
        "sce",
        base,
        experts,
        values,
        exclude=exclude,
        name=name,
        tokenizer=tokenizer,
        chat_template=chat_template,
        config=config,
    )


def ram(
    base: Source,
    experts: Sequence[Source],
    *,
    epsilon: Setting = 1e-5,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """RAM, for experts that change few entries: each entry is averaged over those that change it.

    Args:
        base: What task vectors are taken from.
        experts: At least one.
        epsilon: Changes up to this size count as none; at least 0.
        exclude: See the module.
        name: Prefix of parameter names inside another recipe.
        tokenizer: See the module.
        chat_template: See the module.
        config: See the module.

    Raises:
        RecipeError: If a parameter is outside its range.
    """
    return merge(
        "ram",
        base,
        experts,
        {"epsilon": epsilon},
        exclude=exclude,
        name=name,
        tokenizer=tokenizer,
        chat_template=chat_template,
        config=config,
    )


def ramplus_tl(
    base: Source,
    experts: Sequence[Source],
    *,
    r: Setting = 0.1,
    alpha: Setting = 0.2,
    epsilon: Setting = 1e-5,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """RAM+, counted in each tensor: RAM with entries that only one expert changes scaled up.

    The factor is 1 + r·min(ρ, alpha), with ρ the number of entries that the expert changes
    together with others over the number that it changes alone.

    Args:
        base: What task vectors are taken from.
        experts: At least one.
        r: At least 0.
        alpha: At least 0.
        epsilon: Changes up to this size count as none; at least 0.
        exclude: See the module.
        name: Prefix of parameter names inside another recipe.
        tokenizer: See the module.
        chat_template: See the module.
        config: See the module.

    Raises:
        RecipeError: If a parameter is outside its range.
    """
    values = {"r": r, "alpha": alpha, "epsilon": epsilon}
    return merge(
        "ramplus_tl",
        base,
        experts,
        values,
        exclude=exclude,
        name=name,
        tokenizer=tokenizer,
        chat_template=chat_template,
        config=config,
    )


def rankmean(
    base: Source,
    experts: Sequence[Source],
    *,
    rank_over: str = "layer",
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """RankMean: an average in which an expert weighs most in the blocks that it changed most.

    In each expert the blocks are ranked by the sum of absolute changes from the base, 1 for the
    smallest. The weights of a block are the experts' ranks divided by their sum; what is in no
    block (embedding, final norm, head) is averaged with equal weights. So the authors' code has it
    for two experts; that it is the sum over all for more is our reading.

    Args:
        base: Changes are measured from it; it has no part in the average.
        experts: At least one.
        rank_over: Rank the blocks (``"layer"``), or every ``"tensor"`` among all tensors (the
            authors' fine-grained variant).
        exclude: See the module.
        name: Prefix of parameter names inside another recipe.
        tokenizer: See the module.
        chat_template: See the module.
        config: See the module.

    Raises:
        RecipeError: If a parameter is outside its range.
    """
    return merge(
        "rankmean",
        base,
        experts,
        {"rank_over": rank_over},
        exclude=exclude,
        name=name,
        tokenizer=tokenizer,
        chat_template=chat_template,
        config=config,
    )


def consensus_ta(
    base: Source,
    experts: Sequence[Source],
    *,
    tall: PerModel = 0.4,
    agree: int = 2,
    lambda_: Setting = 1.0,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """Consensus task arithmetic: the sum of task vectors where several experts need it.

    An expert needs an entry where its own change is at least ``tall`` times that of all others
    together (its TALL mask).

    Args:
        base: What task vectors are taken from.
        experts: At least two.
        tall: At least 0; the paper chooses among 0.2 ... 0.6.
        agree: How many experts must need an entry; others stay as in the base.
        lambda_: Scale of the merged task vector.
        exclude: See the module.
        name: Prefix of parameter names inside another recipe.
        tokenizer: See the module.
        chat_template: See the module.
        config: See the module.

    Raises:
        RecipeError: If a parameter is outside its range.
    """
    values = {"tall": tall, "agree": agree, "lambda_": lambda_}
    return merge(
        "consensus_ta",
        base,
        experts,
        values,
        exclude=exclude,
        name=name,
        tokenizer=tokenizer,
        chat_template=chat_template,
        config=config,
    )


def fisher(
    models: Sequence[Source],
    *,
    statistics: Sequence[Checkpoint],
    weight: PerModel = 1.0,
    exclude: Sequence[str] = (),
    name: str | None = None,
    config: str | None = None,
) -> Recipe:
    """Average in which each parameter counts by its Fisher information in each model.

    Args:
        models: At least one.
        statistics: ``mo.statistics.fisher(model, data)`` of each model. Tensors that they lack are
            averaged with the weights alone.
        weight: Of each model, at least 0. Free weights are searched as n − 1 shares, since only
            proportions matter.
        exclude: See the module.
        name: Prefix of parameter names inside another recipe.
        config: See the module.

    Raises:
        RecipeError: If a parameter is outside its range, or a model lacks statistics.
    """
    return merge(
        "fisher",
        None,
        models,
        {"weight": weight},
        statistics=statistics,
        exclude=exclude,
        name=name,
        config=config,
    )


def regmean(
    models: Sequence[Source],
    *,
    statistics: Sequence[Checkpoint],
    alpha: Setting = 0.9,
    exclude: Sequence[str] = (),
    name: str | None = None,
    config: str | None = None,
) -> Recipe:
    """RegMean: linear layers that come closest to each model's outputs on its own inputs.

    Each takes the solution of a linear system with as many unknowns as the layer has inputs, in
    float64. Other tensors are averaged.

    Args:
        models: At least one.
        statistics: ``mo.statistics.gram(model, data)`` of each model.
        alpha: Factor of the off-diagonal elements of the Gram matrices, in [0, 1]: 1 trusts the
            data fully, 0 weighs each input alone.
        exclude: See the module.
        name: Prefix of parameter names inside another recipe.
        config: See the module.

    Raises:
        RecipeError: If a parameter is outside its range, or a model lacks statistics.
    """
    return merge(
        "regmean",
        None,
        models,
        {"alpha": alpha},
        statistics=statistics,
        exclude=exclude,
        name=name,
        config=config,
    )


def passthrough(
    sources: Sequence[Source],
    *,
    scale: PerModel = 1.0,
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """The layers of several models one after the other ("Frankenmerge").

    Args:
        sources: Models of one architecture, usually some of their layers,
            ``checkpoint.layers(0, 16)``, or merges of such; they may overlap and repeat.
            Embedding, config and tokenizer are those of the first, final norm and head those of
            the last.
        scale: Factor of each source's tensors.
        name: Prefix of parameter names inside another recipe.
        tokenizer: See the module.
        chat_template: See the module.
        config: See the module.

    Raises:
        CheckpointMismatch: If the layers do not fit together.

    Example:
        >>> mo.recipes.passthrough([a.layers(0, 24), b.layers(8, 32)])
    """
    return merge(
        "passthrough",
        None,
        sources,
        {"scale": scale},
        name=name,
        tokenizer=tokenizer,
        chat_template=chat_template,
        config=config,
    )


def path(
    path: str | Route,
    models: Sequence[Source],
    *,
    scale_target: ScaleTarget = "branch",
    embeddings_from: int = 0,
    head_from: int = 0,
    name: str | None = None,
    config: str | None = None,
) -> Recipe:
    """A model whose forward pass goes through chosen layers of several models, with scales.

    What is written is an ordinary model of the same architecture, with as many layers as the path
    has hops: the scales are folded into the projections that end a layer's attention and its
    feed-forward part. Paths without scales are "Frankenmerges", for every architecture with one
    stack of layers; with scales there are llama, mistral, qwen2, qwen3, gpt2, bert, roberta
    and xlm-roberta.

    Args:
        path: ``"A0-A1-B1×0.8-A2"``, or with ranges, ``"A[0:16] B[8:24]"``; letters are the models
            in their order. Or a :class:`Route`, which says the next three itself.
        models: Of one architecture and width; their depths may differ.
        scale_target: What a scale is about; see :class:`Route`.
        embeddings_from: Number of the model whose embedding, config and tokenizer it has.
        head_from: Number of the model whose final norm and head it has.
        name: Prefix of parameter names inside another recipe.
        config: See the module.

    Raises:
        RecipeError: If the text is no path, there is no such model or layer, or the architecture
            is none that can be scaled.
        CheckpointMismatch: If the layers do not fit together.

    Example:
        >>> mo.recipes.path("A[0:16] B[8:24]", [a, b])
    """
    check_sources("path", None, models)
    if isinstance(path, str):
        ends = {"embeddings_from": embeddings_from, "head_from": head_from}
        path = Route.parse(path, scale_target, **ends)
    recipe = Recipe(method="path", models=tuple(models), path=path, name=name, config=config)
    _ = recipe.structure  # finds layers that there are not
    return recipe


def __getattr__(name: str) -> Any:
    """What stands in :mod:`merge_optuna.mergekit` and stood here before."""
    if name in ("Genome", "read_genome"):
        return getattr(mergekit(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "MOST_HOPS",
    "STATISTICS",
    "ByName",
    "Chain",
    "Depth",
    "Free",
    "Hop",
    "LayerPath",
    "Layout",
    "PerGroup",
    "Recipe",
    "Route",
    "ScaleTarget",
    "Structure",
    "Value",
    "arcee_fusion",
    "as_value",
    "breadcrumbs",
    "breadcrumbs_ties",
    "check_params",
    "check_sources",
    "consensus_ta",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "depth",
    "fisher",
    "form_of",
    "frame_of",
    "free",
    "karcher",
    "leaves_of",
    "linear",
    "model_stock",
    "multislerp",
    "nearswap",
    "nuslerp",
    "passthrough",
    "path",
    "per_group",
    "ram",
    "ramplus_tl",
    "rankmean",
    "regmean",
    "sce",
    "slerp",
    "task_arithmetic",
    "ties",
]
