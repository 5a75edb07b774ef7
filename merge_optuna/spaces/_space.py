"""What every space is: from a trial to a recipe."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import yaml

from merge_optuna import _optuna_compat as compat
from merge_optuna._documents import load_yaml
from merge_optuna.errors import NotImported, RecipeError, few, shown
from merge_optuna.recipes import Recipe
from merge_optuna.spaces._layouts import renewed

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

    from merge_optuna.checkpoints import Checkpoint

FORMAT = 1
KINDS = {
    "affine_swarm": "merge_optuna.spaces.affine_swarm:AffineSwarm",
    "particle_swarm": "merge_optuna.spaces.particle_swarm:ParticleSwarm",
    "split_slerp": "merge_optuna.spaces.split_slerp:SplitSlerp",
    "differential_crossover": "merge_optuna.spaces.differential_crossover:DifferentialCrossover",
    "layer_path": "merge_optuna.spaces.layer_path:LayerPath",
}
"""Where every space of the package is, by the name that it is stored under."""


class Space(ABC):
    """Any search space of ``mo.spaces``; a callable from a trial to a recipe.

    Attributes:
        kind: How a :class:`Declaration` calls it: a name in ``KINDS``, or ``"module:Class"``, from
            which any process can import it.
        parts: The recipes of its declaration; the first is ``recipe``, others are attributes of
            that name and may be None.
        options: The options of its declaration, attributes too, with the types of their values.
        recipe: What its recipes have in common: the models and what is merged of them.
    """

    kind: ClassVar[str]
    parts: ClassVar[tuple[str, ...]] = ("models",)
    options: ClassVar[Mapping[str, tuple[type, ...]]] = {}
    recipe: Recipe

    @abstractmethod
    def __call__(self, trial: Trial) -> Recipe:
        """Lets a trial choose and returns the recipe."""

    @abstractmethod
    def rebuild(self, study: Study, trial: FrozenTrial) -> Recipe:
        """The recipe of a trial, from the database alone.

        Raises:
            StudyError: If what it descends from is missing.
        """

    @abstractmethod
    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of every parameter that a trial may have."""

    @abstractmethod
    def sampler(
        self, *, seed: int | None = None, objectives: int = 1, **overrides: Any
    ) -> BaseSampler:
        """The sampler for this space.

        Args:
            seed: Of all random numbers; fixed in the study when omitted.
            objectives: How many the study has.
            overrides: Further arguments of the sampler.
        """

    def declaration(self) -> Declaration:
        """What makes the space what it is."""
        others = {name: getattr(self, name) for name in self.parts[1:]}
        recipes = {name: recipe for name, recipe in others.items() if recipe is not None}
        options = {name: getattr(self, name) for name in self.options}
        return Declaration(self.kind, {self.parts[0]: self.recipe, **recipes}, options)

    @classmethod
    @abstractmethod
    def declared(cls, recipes: Mapping[str, Recipe], options: Mapping[str, Any]) -> Self:
        """The space of a :class:`Declaration`."""

    @property
    def frame(self) -> Checkpoint:
        """See :attr:`Recipe.frame`."""
        return self.recipe.frame

    @property
    def template(self) -> Recipe | Checkpoint:
        """A model that is made as all of the space are, for checks before a search."""
        return self.frame

    def fine_tuned_from(self) -> Checkpoint | Recipe | None:
        """The model that the others were fine-tuned from, where the space says it."""
        return None

    def untuned(self) -> Recipe | None:
        """What the space makes of its models without a search, as a baseline.

        None if that is their uniform average, or one of them.
        """
        return None

    def leaves(self) -> tuple[Checkpoint, ...]:
        """Every checkpoint that models are made of, once."""
        return self.recipe.leaves()

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Every checkpoint that is read, once."""
        return self.recipe.checkpoints()

    def to_yaml(self) -> str:
        """The space as YAML."""
        return self.declaration().to_yaml()

    @property
    def digest(self) -> str:
        """32 hexadecimal digits over everything but the places of the sources."""
        return self.declaration().digest


def own_sampler(space: Recipe | Space, objectives: int) -> BaseSampler:
    """The sampler that a space makes, with seed 0.

    A space of one's own that has one objective need not know of ``objectives``.
    """
    several: dict[str, Any] = {"objectives": objectives} if objectives > 1 else {}
    return space.sampler(seed=0, **several)


class ParameterSpace(Space):
    """A space whose recipes follow from a trial's own parameters, all of which it has."""

    @abstractmethod
    def bind(self, params: Mapping[str, Any]) -> Recipe:
        """The recipe of a trial's parameters.

        Raises:
            InfeasibleRecipe: If they say nothing that can be merged.
            RecipeError: If one is missing or outside its range.
        """

    def __call__(self, trial: Trial) -> Recipe:
        """See :meth:`Space.__call__`."""
        distributions = self.distributions().items()
        return self.bind({name: compat.suggest(trial, name, one) for name, one in distributions})

    def rebuild(self, study: Study, trial: FrozenTrial) -> Recipe:
        """See :meth:`Space.rebuild`."""
        return self.bind(trial.params)


@dataclass(frozen=True)
class Declaration:
    """A space as it is stored; no checkpoint is opened.

    Attributes:
        kind: See :class:`Space`.
        recipes: What it is made of, by a name.
        options: Plain numbers and words.
    """

    kind: str
    recipes: Mapping[str, Recipe]
    options: Mapping[str, Any]

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """From the content of a document.

        Raises:
            RecipeError: If it is none.
        """
        options = dict(data)
        kind, recipes = options.pop("space", None), options.pop("recipes", None)
        if not isinstance(kind, str) or not isinstance(recipes, Mapping):
            raise RecipeError(f"Not a space, which has a name and recipes: {shown(dict(data))}.")
        if kind == "layer_path":
            options = renewed(options)
        return cls(kind, {name: Recipe.from_data(one) for name, one in recipes.items()}, options)

    def open(self, sources: Mapping[str, Checkpoint | str | Path] | None = None) -> Space:
        """The space itself.

        Args:
            sources: Checkpoints by name that replace the stored ones; see
                :meth:`Recipe.with_sources`.

        Raises:
            RecipeError: If there is no such space, it has other recipes or options, or no source
                is called like one of the given.
        """
        space = _space(self.kind)
        self._check(space)
        given = dict(sources or {})
        recipes = {}
        for name, recipe in self.recipes.items():
            known = recipe.called()
            own = {n: source for n, source in given.items() if n in known}
            recipes[name] = recipe.with_sources(own) if own else recipe
        unknown = set(given).difference(*(recipe.called() for recipe in self.recipes.values()))
        if unknown:
            raise RecipeError(f"No source is called {', '.join(sorted(unknown))}.")
        return space.declared(recipes, self.options)

    def recorded_like(self, other: Declaration) -> Declaration:
        """See :meth:`Recipe.recorded_like`."""
        recipes = {
            name: recipe.recorded_like(other.recipes[name]) if name in other.recipes else recipe
            for name, recipe in self.recipes.items()
        }
        return replace(self, recipes=recipes)

    def _check(self, space: type[Space]) -> None:
        """Checks that what a file says is what the space takes."""
        found, known = list(map(shown, self.recipes)), space.parts
        if known[0] not in self.recipes or set(self.recipes) - set(known):
            raise RecipeError(
                f"The space {self.kind} is made of the recipes {', '.join(known)}, not of "
                f"{few(found) or 'none'}. Restore the file."
            )
        wrong = [
            f"{shown(name)}: {shown(self.options.get(name))}"
            for name in {**space.options, **self.options}
            if name not in self.options
            or type(self.options[name]) not in space.options.get(name, ())
        ]
        if wrong:
            raise RecipeError(
                f"The space {self.kind} has the options {', '.join(space.options) or 'none'}, and "
                f"not {few(wrong)}. Restore the file."
            )

    def to_yaml(self) -> str:
        """As a document."""
        recipes = {name: recipe.to_data() for name, recipe in self.recipes.items()}
        document = {"merge_optuna": FORMAT, "space": self.kind, **self.options, "recipes": recipes}
        text: str = yaml.safe_dump(document, sort_keys=False)
        return text

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits over everything but the places of the sources."""
        digests = {name: recipe.digest for name, recipe in self.recipes.items()}
        content = json.dumps([self.kind, dict(self.options), digests], sort_keys=True)
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def _space(kind: str) -> type[Space]:
    place = KINDS.get(kind, kind)
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", place):
        raise RecipeError(f"Unknown space {shown(kind)}. Spaces: {', '.join(KINDS)}.")
    module, _, name = place.partition(":")
    if kind in KINDS:
        importlib.import_module(module)
    # Nothing else is imported just because a database, which may be anybody's, says so.
    found = getattr(sys.modules.get(module), name, None)
    if found is None:
        raise NotImported(
            f"The space {kind} is not known: there is no {name} in a module {module} that has "
            f"been imported. Do it first: import {module} in Python, or merge-optuna --import "
            f"{module} on the command line."
        )
    if not (isinstance(found, type) and issubclass(found, Space)):
        raise RecipeError(f"{kind} is no space: it is not a class derived from mo.spaces.Space.")
    return found


def read(text: str) -> Declaration | Recipe:
    """What a study was made with: a space, or a recipe with free numbers.

    Raises:
        RecipeError: If the text is neither.
    """
    if not isinstance(text, str):
        raise RecipeError(f"The stored space is no text: {shown(text)}. Restore the database.")
    document = load_yaml(text, "The stored space")
    if not isinstance(document, dict) or "space" not in document:
        return Recipe.from_document(document, "The stored space")
    return Declaration.from_data({k: v for k, v in document.items() if k != "merge_optuna"})
