"""What a search has to beat: the merges that need none, of the models that it merges."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.errors import InfeasibleRecipe, StudyError, few
from merge_optuna.recipes import Recipe, frame_of, leaves_of
from merge_optuna.spaces import Space

BASE, SOURCE, AVERAGE, UNTUNED = "base", "source", "uniform average", "untuned operator"
ARITHMETIC, SOUP, ENSEMBLE = "task arithmetic", "greedy soup", "ensemble"
PATH = "greedy path"
KINDS = BASE, SOURCE, AVERAGE, UNTUNED, ARITHMETIC, SOUP, ENSEMBLE, PATH
"""The kinds of baselines, in the order in which they are scored."""
ASKED_FOR = (PATH,)
"""Those that cost as much as a small search, and are scored only where they are named."""
LAMBDAS = tuple(i / 10 for i in range(1, 11))
"""Scaling coefficients of task arithmetic (Ilharco et al. 2023, arXiv 2212.04089)."""
_DRAWS = 10


@dataclass(frozen=True)
class Candidate:
    """A recipe that is to be scored as a baseline.

    Attributes:
        kind: One of ``KINDS``.
        name: Unique within a study.
        make: The recipe; it may be that there is none, which is an error then and not before.
        tuned: Whether the dev data choose it, or one like it.
    """

    kind: str
    name: str
    make: Callable[[], Recipe]
    tuned: bool = False


@dataclass(frozen=True)
class Family:
    """Who is merged in a search.

    Attributes:
        recipe: One recipe of the search, without free numbers: what is excluded, the tokenizer,
            the config and the data type are its.
        base: What task vectors are taken from, if there is one such model.
        experts: The unmerged models but the base, each as a whole.
    """

    recipe: Recipe
    base: Checkpoint | Recipe | None
    experts: tuple[Checkpoint, ...]

    @classmethod
    def of(cls, recipe: Recipe, base: Checkpoint | Recipe | None = None) -> Family:
        """The models of a recipe.

        Args:
            recipe: Without free numbers.
            base: The base, if the recipe does not say it.
        """
        base = base or _base_of(recipe)
        own = () if base is None else _wholes(base)
        models = dict.fromkeys(one for model in recipe.models for one in _wholes(model))
        base = base.origin if isinstance(base, Checkpoint) else base
        return cls(recipe, base, tuple(model for model in models if model not in own))

    @property
    def digests(self) -> list[str]:
        """What it is made of, so that another family is known as such."""
        models = () if self.base is None else (self.base,)
        return [self.recipe.digest, *(model.digest for model in (*models, *self.experts))]

    @property
    def is_alike(self) -> bool:
        """Whether the merges of the search have the names and shapes of the unmerged models."""
        return self.recipe.spec.structure == "overlay"

    def merge(self, method: str, models: Sequence[Checkpoint | Recipe], **fields: Any) -> Recipe:
        """A merge that leaves out and keeps what those of the search do."""
        one = self.recipe
        kept = {"tokenizer": one.tokenizer, "config": one.config, "dtype": one.dtype}
        made = Recipe(
            method=method, models=tuple(models), exclude=one.exclude, **{**kept, **fields}
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is left out has been said of the search
            _ = made.alignment
        return made

    def source(self, model: Checkpoint | Recipe) -> Recipe:
        """A model as it is; with what is left out of merges as merges have it, if it must be."""
        dtype = self.recipe.dtype
        if isinstance(model, Recipe):
            return model.with_fields(dtype=dtype)
        alone = Recipe(method="linear", models=(model,), dtype=dtype)
        return self.average([model]) if self._must_share(model) else alone

    def average(self, models: Sequence[Checkpoint]) -> Recipe:
        """The uniform average; what is left out of merges comes from where theirs comes from."""
        one = self.recipe
        if not (one.exclude or any(map(self._must_share, models))):
            return self.merge("linear", models)
        first = self._first
        others = [model for model in models if model != first]
        weight = (float(first in models), *(1.0 for _ in others))
        return self.merge("linear", [first, *others], parameters={"weight": weight})

    def arithmetic(self, lambda_: float) -> Recipe:
        """θ_0 + λ Σ τ_i."""
        numbers = {"lambda_": lambda_}
        return self.merge("task_arithmetic", self.experts, base=self.base, parameters=numbers)

    @property
    def _first(self) -> Checkpoint | Recipe:
        """What tensors come from that are not merged."""
        return self.experts[0] if self.base is None else self.base

    def _must_share(self, model: Checkpoint) -> bool:
        """Whether a model can be scored only with what all merges of the search share."""
        if not self.is_alike:
            return False
        one = self.recipe
        shares = one.tokenizer is not None or one.config is not None
        left_out = "task head" in one.alignment.copied.values()
        return shares or left_out or _shapes(model) != _shapes(frame_of(self._first))


def family_of(space: Recipe | Space) -> Family:
    """Who is merged in a declared space."""
    if isinstance(space, Space):
        return Family.of(space.recipe, space.fine_tuned_from())
    return Family.of(space.bind(space.start()))


def drawn(recipe: Callable[[optuna.Trial], Recipe], directions: Sequence[Any]) -> Family | None:
    """Who is merged in a space that is a function, by the first recipe that it gives."""
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(directions=directions, sampler=sampler)
    for _ in range(_DRAWS):
        with contextlib.suppress(InfeasibleRecipe, optuna.TrialPruned):
            return Family.of(recipe(study.ask()))
    return None


def candidates(space: Any, family: Family) -> Iterator[Candidate]:
    """The baselines whose recipes are known before anything is scored, in order."""
    base, experts = family.base, family.experts
    yield from unmerged(family)
    if len(experts) > 1:
        yield Candidate(AVERAGE, AVERAGE, partial(family.average, experts))
    if (untuned := _untuned(space)) is not None:
        yield Candidate(UNTUNED, f"{untuned.method}, untuned", lambda: untuned)
    if base is not None and experts and family.is_alike:
        for lambda_ in LAMBDAS:
            name = f"{ARITHMETIC}, λ = {lambda_:g}"
            yield Candidate(ARITHMETIC, name, partial(family.arithmetic, lambda_), tuned=True)


def unmerged(family: Family) -> Iterator[Candidate]:
    """The models as they are, the base first if there is one."""
    if family.base is not None:
        yield Candidate(BASE, BASE, partial(family.source, family.base))
    for expert in family.experts:
        yield Candidate(SOURCE, source_name(expert), partial(family.source, expert))


def source_name(model: Checkpoint) -> str:
    """How an unmerged model is called among the baselines."""
    return f"{SOURCE} {model.name}"


def check_kinds(kinds: bool | Sequence[str]) -> tuple[str, ...]:
    """The kinds of baselines that somebody wants.

    Raises:
        StudyError: If there is no such kind.
    """
    if isinstance(kinds, bool):
        return tuple(kind for kind in KINDS if kinds and kind not in ASKED_FOR)
    given = [kinds] if isinstance(kinds, str) else [*kinds]
    if unknown := [kind for kind in given if kind not in KINDS]:
        raise StudyError(
            f"There are no baselines {few(list(map(repr, unknown)))}. baselines= is True, False "
            f"or a list of these: {', '.join(KINDS)}."
        )
    return tuple(kind for kind in KINDS if kind in given)


def _untuned(space: Any) -> Recipe | None:
    """The method of the search where nobody has searched; None if no such thing is known."""
    if isinstance(space, Recipe):
        return space.bind(space.start())
    return space.untuned() if isinstance(space, Space) else None


def _base_of(recipe: Recipe) -> Checkpoint | Recipe | None:
    """The one model that the task vectors of a recipe are taken from."""
    if recipe.base is not None:
        return recipe.base
    found = dict.fromkeys(_base_of(inner) for _, inner in recipe.nested)
    found.pop(None, None)
    return next(iter(found)) if len(found) == 1 else None


def _wholes(source: Checkpoint | Recipe) -> list[Checkpoint]:
    """The unmerged models in a source, as they lie on disk."""
    return [leaf.origin.all_layers for leaf in leaves_of(source)]


def _shapes(model: Checkpoint) -> dict[str, tuple[int, ...]]:
    return {name: tuple(model.shape(name)) for name in model.names()}
