"""One function per merge method.

Generated from the specs in ``merge_optuna/methods/`` by
``python -m tests.methods.stub``; do not edit.
"""

from collections.abc import Sequence

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.recipes._functions import PerModel, Setting, Source, Tokenizer
from merge_optuna.recipes._tree import Recipe

__all__ = [
    "arcee_fusion",
    "breadcrumbs",
    "breadcrumbs_ties",
    "consensus_ta",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "fisher",
    "iso_c",
    "karcher",
    "linear",
    "model_stock",
    "multislerp",
    "nearswap",
    "nuslerp",
    "passthrough",
    "ram",
    "ramplus_tl",
    "rankmean",
    "regmean",
    "sce",
    "slerp",
    "task_arithmetic",
    "ties",
    "tsv_m",
]

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
    """Arcee Fusion: elements of the expert whose change stands out, all others of the base.

    A change counts by its size times the divergence of its row's softmax from the base's. Taken is
    what lies at or above the tensor's median plus one and a half interquartile ranges.

    Args:
        base: What task vectors are taken from.
        expert: The model that is merged into it.
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: Arcee Fusion of mergekit, arcee.ai.
    """

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
    """Drop the largest and smallest entries of task vectors, add their weighted sum.

    Args:
        base: What task vectors are taken from.
        experts: Any number of models.
        weight: Coefficient of each task vector.
        density: Share of each task vector that is kept. In [0, 1]. Tensor by tensor. The
            paper's β is 1 − density − gamma.
        gamma: Share of each task vector that is dropped as too large. In [0, 1]. Less where
            not enough would be left.
        lambda_: Scale of the merged task vector.
        rescale: What is kept: leave, or restore the L1 norm. ``"none"`` or ``"l1"``.
        normalize: Divide by the sum of the weights.
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: Davari & Belilovsky 2023, Model breadcrumbs, arXiv 2312.06795.
    """

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
    """Drop the largest and smallest entries of task vectors, elect signs, sum what agrees.

    Args:
        base: What task vectors are taken from.
        experts: Any number of models.
        weight: Coefficient of each task vector.
        density: Share of each task vector that is kept. In [0, 1]. Tensor by tensor. The
            paper's β is 1 − density − gamma.
        gamma: Share of each task vector that is dropped as too large. In [0, 1]. Less where
            not enough would be left.
        lambda_: Scale of the merged task vector.
        rescale: What is kept: leave, or restore the L1 norm. ``"none"`` or ``"l1"``.
        normalize: Mean of the agreeing entries, not sum. Weights must then be at least 0.
        elect: Sign by the weighted sum, or by the number of models. ``"mass"`` or ``"count"``.
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: Davari & Belilovsky 2023, Model breadcrumbs, arXiv 2312.06795.
    """

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
    together, |τ| ≥ tall·|sum − τ| (its TALL mask).

    Args:
        base: What task vectors are taken from.
        experts: At least 2 models.
        tall: A model needs an entry where its own change is this share of the others'. At
            least 0. The paper chooses among 0.2 ... 0.6.
        agree: How many models must need an entry. At least 1. Other entries stay as in the
            base.
        lambda_: Scale of the merged task vector.
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: Wang et al. 2024, Localizing task information, arXiv 2405.07813.
    """

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
    """Drop entries of task vectors at random, add their weighted sum.

    Args:
        base: What task vectors are taken from.
        experts: Any number of models.
        weight: Coefficient of each task vector.
        density: Probability with which an entry is kept. In [0, 1]. 0 drops the expert.
        lambda_: Scale of the merged task vector.
        rescale: What is kept: divide by the density, restore the L1 norm, or leave.
            ``"density"`` or ``"l1"`` or ``"none"``. The density is the share that was kept,
            not the probability.
        normalize: Divide by the sum of the weights.
        seed: Of the random masks. In [0, 9.22337e+18]. They are keyed by (seed, expert's name,
            tensor's name).
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: Yu et al. 2024, Language models are super Mario, arXiv 2311.03099.
    """

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
    """Drop entries of task vectors at random, elect signs, sum what agrees.

    Args:
        base: What task vectors are taken from.
        experts: Any number of models.
        weight: Coefficient of each task vector.
        density: Probability with which an entry is kept. In [0, 1]. 0 drops the expert.
        lambda_: Scale of the merged task vector.
        rescale: What is kept: divide by the density, restore the L1 norm, or leave.
            ``"density"`` or ``"l1"`` or ``"none"``. The density is the share that was kept,
            not the probability.
        normalize: Mean of the agreeing entries, not sum. Weights must then be at least 0.
        elect: Sign by the weighted sum, or by the number of models. ``"mass"`` or ``"count"``.
        seed: Of the random masks. In [0, 9.22337e+18]. They are keyed by (seed, expert's name,
            tensor's name).
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: Yu et al. 2024, Language models are super Mario, arXiv 2311.03099.
    """

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
    """Drop mostly small entries of task vectors at random, elect signs, average what agrees.

    Args:
        base: What task vectors are taken from.
        experts: Any number of models.
        weight: Coefficient of each task vector.
        density: Mean probability with which an entry is kept. In [0, 1]. 0 drops the expert.
        epsilon: From density + epsilon for the largest entry of a row to density − epsilon for
            the smallest. In [0, 0.5]. A row is the weights of one output; a vector is one row.
            Where density ± epsilon would leave [0, 1], the smaller of density and 1 − density
            is taken instead, so that every pair is valid and the mean stays the density.
        lambda_: Scale of the merged task vector.
        rescale: What is kept: divide by the keep probability, restore the L1 norm, or leave.
            ``"density"`` or ``"l1"`` or ``"none"``. One more factor for all makes up for how
            many were kept.
        normalize: Mean of the agreeing entries, not sum. Weights must then be at least 0.
        elect: Sign by the weighted sum, or by the number of models. ``"mass"`` or ``"count"``.
        seed: Of the random masks. In [0, 9.22337e+18]. They are keyed by (seed, expert's name,
            tensor's name).
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: Deep et al. 2024, DELLA-Merging, arXiv 2406.11617.
    """

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
    """Drop mostly small entries of task vectors at random, add their weighted sum.

    Args:
        base: What task vectors are taken from.
        experts: Any number of models.
        weight: Coefficient of each task vector.
        density: Mean probability with which an entry is kept. In [0, 1]. 0 drops the expert.
        epsilon: From density + epsilon for the largest entry of a row to density − epsilon for
            the smallest. In [0, 0.5]. A row is the weights of one output; a vector is one row.
            Where density ± epsilon would leave [0, 1], the smaller of density and 1 − density
            is taken instead, so that every pair is valid and the mean stays the density.
        lambda_: Scale of the merged task vector.
        rescale: What is kept: divide by the keep probability, restore the L1 norm, or leave.
            ``"density"`` or ``"l1"`` or ``"none"``. One more factor for all makes up for how
            many were kept.
        normalize: Divide by the sum of the weights.
        seed: Of the random masks. In [0, 9.22337e+18]. They are keyed by (seed, expert's name,
            tensor's name).
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: Deep et al. 2024, DELLA-Merging, arXiv 2406.11617.
    """

def fisher(
    models: Sequence[Source],
    *,
    statistics: Sequence[Checkpoint],
    weight: PerModel = 1.0,
    exclude: Sequence[str] = (),
    name: str | None = None,
    config: str | None = None,
) -> Recipe:
    """Average in which each parameter counts by its Fisher information: Σ a·F·θ / Σ a·F.

    Tensors that the statistics lack are averaged with the weights alone.

    Args:
        models: Any number of models.
        statistics: ``mo.statistics.fisher(model, data)`` of each model.
        weight: Weight of each model beside its Fisher information. At least 0. Only
            proportions matter, so n − 1 shares are searched.
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be, or a model lacks statistics.

    Source: Matena & Raffel 2022, Merging models with Fisher-weighted averaging, arXiv
    2111.09832.
    """

def iso_c(
    base: Source,
    experts: Sequence[Source],
    *,
    lambda_: Setting = 1.0,
    isotropy: Setting = 1.0,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """Iso-C: the sum of the task vectors, all directions of each layer's matrices equally strong.

    All singular values of the sum are replaced by their mean; those that are zero, of which LoRAs
    have many, are left out. Embedding, head and whatever is no matrix get the mean of the task
    vectors, whatever the isotropy.

    Args:
        base: What task vectors are taken from.
        experts: Any number of models.
        lambda_: Scale of the merged task vector.
        isotropy: From the singular values of the sum to their mean. In [0, 1].
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: Marczak et al. 2025, No task left behind: isotropic model merging, arXiv
    2502.04959.
    """

def karcher(
    models: Sequence[Source],
    *,
    weight: PerModel = 1.0,
    max_iter: int = 10,
    tol: float = 1e-05,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """Karcher mean: the direction with the least squared angles to the models, in mean length.

    A tensor of zeros has no direction and counts only in the length; one that is opposite to the
    mean does not pull it. Directions that cancel leave no mean; then it is the weighted average.

    Args:
        models: Any number of models.
        weight: Of each model. At least 0. Only proportions matter, so n − 1 shares are
            searched.
        max_iter: Most steps. In [0, 100000].
        tol: Angle in radians below which steps end. In [0, 1].
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: Karcher 1977, Riemannian center of mass; of models: arXiv 2603.04972.
    """

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
    """Weighted average of models: Σ w·θ, divided by Σ w when normalised.

    Args:
        models: Any number of models.
        weight: Coefficient of each model.
        normalize: Divide by the sum of the weights. Free weights are then searched as n − 1
            shares: only proportions matter.
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: Wortsman et al. 2022, Model soups, arXiv 2203.05482.
    """

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

    Right angles give the base, no angle gives the average. A task vector of zeros counts as at
    right angles to the others. Obtuse angles lead away from the experts, as the formula says;
    experts that cancel give the base.

    Args:
        base: What task vectors are taken from.
        experts: At least 2 models.
        filter_wise: An angle for each row (vector along the last axis) instead of each tensor.
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: Jang et al. 2024, Model Stock, arXiv 2403.19522.
    """

def multislerp(
    models: Sequence[Source],
    *,
    base: Source | None = None,
    weight: PerModel = 1.0,
    normalize: bool = True,
    eps: float = 1e-08,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """Mean direction with mean length, of models or of their task vectors if there is a base.

    Directions that cancel leave no mean direction; then it is the weighted sum as it is.

    Args:
        models: Any number of models.
        base: What task vectors are taken from; without, the models count.
        weight: Of each model, in both means.
        normalize: Divide by the sum of the weights.
        eps: Directions cancel if the squared length of their mean is not larger. In [0, 1].
            Then the tensors are averaged linearly.
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: Goddard 2025, Multi-SLERP, goddard.blog/posts/multislerp-wow-what-a-cool-idea.
    """

def nearswap(
    base: Source,
    expert: Source,
    *,
    t: Setting = 0.0001,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """NearSwap: each element of the base moves towards the expert's by at most ``t``.

    Elements nearer than that become the expert's. That is published as interpolation with the
    weight min(1, t / |θ − θ₀|).

    Args:
        base: What task vectors are taken from.
        expert: The model that is merged into it.
        t: How far an element may move. At least 0. The unit is that of the weights.
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: alchemonaut 2024, huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001.
    """

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

    A tensor of zeros counts as at right angles to the other; opposite ones are interpolated
    linearly. Weights of both signs lead beyond one of the models; if they cancel, half of each is
    taken.

    Args:
        models: 2 models.
        base: What task vectors are taken from; without, the models count.
        weight: Of each model; the share of the second is the interpolation parameter. Only
            proportions matter, so of free weights one share is searched.
        row_wise: Without flatten: interpolate vectors along the first axis, not the last.
        flatten: Interpolate whole tensors, not each vector of them.
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: Shoemake 1985, Animating rotation with quaternion curves; NuSLERP of mergekit,
    2024.
    """

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

    The sources are models of one architecture, usually some of their layers, or merges of such,
    ``mo.recipes.passthrough([a.layers(0, 24), b.layers(8, 32)])``; they may overlap and repeat.
    Embedding, config and tokenizer are those of the first, final norm and head those of the last.

    Args:
        sources: Any number of models.
        scale: Factor of each model's tensors.
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: Kim et al. 2023, SOLAR 10.7B: depth up-scaling, arXiv 2312.15166.
    """

def ram(
    base: Source,
    experts: Sequence[Source],
    *,
    epsilon: Setting = 1e-05,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """RAM, for experts that change few entries: mean over those experts that change an entry.

    Args:
        base: What task vectors are taken from.
        experts: Any number of models.
        epsilon: Changes up to this size count as none. At least 0.
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: Yuan et al. 2026, Behavior knowledge merge in reinforced agentic models, arXiv
    2601.13572.
    """

def ramplus_tl(
    base: Source,
    experts: Sequence[Source],
    *,
    r: Setting = 0.1,
    alpha: Setting = 0.2,
    epsilon: Setting = 1e-05,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """RAM+, counted in each tensor: RAM with what only one expert changes scaled up.

    The factor is 1 + r·min(ρ, alpha), with ρ the number of entries that the expert changes
    together with others over the number that it changes alone. mergekit counts so, too; the paper
    counts in the whole model.

    Args:
        base: What task vectors are taken from.
        experts: Any number of models.
        r: How much lone changes grow with ρ. At least 0.
        alpha: Largest ρ that counts. At least 0.
        epsilon: Changes up to this size count as none. At least 0.
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: Yuan et al. 2026, Behavior knowledge merge in reinforced agentic models, arXiv
    2601.13572.
    """

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
    smallest; the base has no part in the average. The weights of a block are the experts' ranks
    divided by their sum; what is in no block (embedding, final norm, head) is averaged with equal
    weights. So the authors' code has it for two experts; that it is the sum over all for more is
    our reading.

    Args:
        base: What task vectors are taken from.
        experts: Any number of models.
        rank_over: Rank the blocks (embedding and head are averaged), or all tensors.
            ``"layer"`` or ``"tensor"``. Ranking all tensors is the authors' fine-grained
            variant.
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: Perin et al. 2024, RankMean, Findings of ACL, doi
    10.18653/v1/2024.findings-acl.104.
    """

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

    Least squares, (Σ G)⁻¹ Σ G·W: each layer takes the solution of a linear system with as many
    unknowns as it has inputs, in float64. Other tensors are averaged.

    Args:
        models: Any number of models.
        statistics: ``mo.statistics.gram(model, data)`` of each model.
        alpha: Factor of the off-diagonal elements of the Gram matrices. In [0, 1]. 1 trusts
            the data fully, 0 weighs each input alone.
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be, or a model lacks statistics.

    Source: Jin et al. 2023, Dataless knowledge fusion by merging weights of language models,
    arXiv 2212.09849.
    """

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
    is weighted by Σ τ²; entries against the sign of the sum are left out.

    Args:
        base: What task vectors are taken from.
        experts: Any number of models.
        select_topk: Share of the varying entries that is kept, those of largest variance. In
            [0, 1]. 0 gives the base.
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: Wan et al. 2024, FuseChat, arXiv 2408.07990.
    """

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
    """Spherical interpolation of two models, tensor by tensor; linear where nearly parallel.

    Args:
        a: Model 1.
        b: Model 2.
        t: 0 gives the first model, 1 the second. In [0, 1].
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: Shoemake 1985, Animating rotation with quaternion curves.
    """

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
    """Take whole task vectors, add their weighted sum.

    Args:
        base: What task vectors are taken from.
        experts: Any number of models.
        weight: Coefficient of each task vector.
        lambda_: Scale of the merged task vector.
        normalize: Divide by the sum of the weights.
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: Ilharco et al. 2023, Editing models with task arithmetic, arXiv 2212.04089.
    """

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
    """Trim task vectors to their largest entries, elect signs, average what agrees.

    Args:
        base: What task vectors are taken from.
        experts: Any number of models.
        weight: Coefficient of each task vector.
        density: Share of each task vector that is kept. In [0, 1].
        lambda_: Scale of the merged task vector.
        normalize: Mean of the agreeing entries, not sum. Weights must then be at least 0.
        elect: Sign by the weighted sum, or by the number of models. ``"mass"`` or ``"count"``.
        trim_over: Find the largest entries of each tensor, or of the whole model. ``"tensor"``
            or ``"model"``.
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: Yadav et al. 2023, TIES-Merging, arXiv 2306.01708.
    """

def tsv_m(
    base: Source,
    experts: Sequence[Source],
    *,
    weight: PerModel = 1.0,
    lambda_: Setting = 1.0,
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: Tokenizer = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """TSV-Merge: experts share the rank of each layer's matrices without disturbing each other.

    Of every task matrix the k largest singular values are kept, k being the rank divided by the
    number of experts, at least 1. Their left directions together are replaced by the nearest
    orthonormal ones, so are the right ones. Embedding, head and whatever is no matrix get the
    mean of the weighted task vectors.

    Args:
        base: What task vectors are taken from.
        experts: Any number of models.
        weight: Coefficient of each expert's singular values.
        lambda_: Scale of the merged task vector.
        exclude: Name filters of tensors that come unchanged from the base (from the first
            model for methods without one).
        name: Prefix of parameter names inside another recipe.
        tokenizer: Whose tokens the merged model has, where vocabularies differ: ``"base"``
            (the first model, for methods without one), ``"union"``, the name of a source or a
            :class:`mo.Vocabulary`.
        chat_template: ``"auto"``, the name of a source, or a template; the tokenizer's when
            omitted.
        config: Whose config counts, where configs give weights another meaning: ``"base"`` or
            the name of a source.

    Raises:
        RecipeError: If an argument is none of what it may be.

    Source: Gargiulo et al. 2025, Task singular vectors, arXiv 2412.00081.
    """
