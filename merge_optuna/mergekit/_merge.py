"""One list of models that mergekit merges, as a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from merge_optuna import methods
from merge_optuna.checkpoints import BY_ID, Checkpoint
from merge_optuna.errors import RecipeError
from merge_optuna.mergekit._methods import (
    KNOWN,
    OUR_WORDS,
    REQUIRED,
    TRANSLATIONS,
    Translation,
    our_name,
)
from merge_optuna.mergekit._node import Node, warn
from merge_optuna.mergekit._settings import (
    Condition,
    conditions,
    seen_from,
    truth,
    value_of,
)
from merge_optuna.mergekit._sources import Reference
from merge_optuna.recipes import Recipe, Value, leaves_of
from merge_optuna.recipes.groups import Layout


@dataclass(frozen=True)
class Input:
    """A model that is merged, or some layers of one.

    Attributes:
        reference: How the file calls it.
        source: What that is.
        settings: Its own parameters, if any.
        node: Where it stands.
        first_layer: Number in the model of the first of its layers.
    """

    reference: Reference
    source: Checkpoint | Recipe
    settings: Node | None
    node: Node
    first_layer: int = 0


@dataclass(frozen=True)
class Merge:
    """What mergekit merges layer by layer with one list of models: ``models``, or a slice.

    Attributes:
        method: Name of the method.
        inputs: The models, the base among them.
        base: Which of them is the base.
        settings: Parameters of all models, those that take precedence first.
        node: Where it stands.
        aligned: Whether the models have different vocabularies, made equal in the end.
        first_layer: Number in the result of the first of its layers.
    """

    method: str
    inputs: Sequence[Input]
    base: Reference | None
    settings: tuple[Node, ...]
    node: Node
    aligned: bool
    first_layer: int = 0

    @property
    def translation(self) -> Translation:
        found = TRANSLATIONS[self.method]
        given = [said for level in self.settings if (said := level.get("rescale")) is not None]
        return found.rescaled if found.rescaled and given and truth(given[0]) else found

    @property
    def spec(self) -> methods.Method:
        return methods.get(self.translation.method or self.method)

    def leaves(self) -> Iterator[Checkpoint]:
        """The checkpoints that are merged."""
        for one in self.inputs:
            yield from leaves_of(one.source)

    def recipe(self) -> Recipe:
        """The merge as a recipe."""
        self.check()
        base, models = self._roles()
        if base is not None and not models and self.translation.base_alone:
            return Recipe(method="passthrough", models=(base.source,))
        fields = {
            "method": self.spec.name,
            "base": None if base is None else base.source,
            "models": tuple(model.source for model in models),
        }
        try:
            # what differs besides is said of the whole
            tokenizer = "base" if self.aligned else BY_ID
            draft = Recipe(**fields, tokenizer=tokenizer, config="base")
        except RecipeError as error:
            raise self.node.error(str(error)) from error
        parameters: dict[str, Any] = dict(self.translation.ours)
        for name in self.translation.extra:
            given = [level.get(name) for level in self.settings]
            if found := [node.value for node in given if node is not None]:
                parameters[name] = found[0]
        for name in self.translation.parameters:
            values = self.value(name, models, draft.layouts)
            per_model = self.spec.parameter(our_name(name)).per_model
            parameters[our_name(name)] = values if per_model else values[0]
        return Recipe(**fields, parameters=parameters)

    def check(self) -> None:
        """Refuses what no recipe can be made of.

        Raises:
            RecipeError: Naming the place.
        """
        references = [one.reference for one in self.inputs]
        for one in self.inputs:
            if references.count(one.reference) > 1:
                raise one.node.error(f"{one.reference} is merged with itself.")
        if self.method == "passthrough" and len(self.inputs) > 1:
            raise self.node.error(f"passthrough takes one model here, not {len(self.inputs)}.")
        _check_parameters(self)

    def _roles(self) -> tuple[Input | None, list[Input]]:
        """The base and the models, as our method takes them."""
        base = [one for one in self.inputs if one.reference == self.base]
        others = [one for one in self.inputs if one.reference != self.base]
        if not base and (self.spec.base or self.translation.base_first):
            raise self.node.error(f"{self.method} needs a base_model that is one of its models.")
        if self.spec.base is False:
            return None, base + others
        return (base[0] if base else None), others

    def value(
        self, name: str, models: Sequence[Input], layouts: Sequence[Layout]
    ) -> tuple[Value, ...]:
        """A parameter of each model; if it is one for all of them, that alone.

        Args:
            name: As mergekit calls the parameter.
            models: What our method merges.
            layouts: The tensors that a value of each is about.
        """
        if not self.spec.parameter(our_name(name)).per_model:
            return (self._resolved(name, self.settings, self.node, self.first_layer, layouts[0]),)
        return tuple(
            self._resolved(
                name,
                self.settings if model.settings is None else (model.settings, *self.settings),
                model.node,
                model.first_layer,
                layout,
            )
            for model, layout in zip(models, layouts, strict=True)
        )

    def _resolved(
        self, name: str, levels: Sequence[Node], place: Node, first_layer: int, layout: Layout
    ) -> Value:
        parameter = self.spec.parameter(our_name(name))
        default = self.translation.parameters[name]
        words = OUR_WORDS.get(name, {})
        given = [setting for level in levels if (setting := level.get(name)) is not None]
        chain = [c for setting in given for c in conditions(setting, parameter, words)]
        if default is not REQUIRED:
            chain.append(Condition("*", (words.get(default, default),), place))
        elif not chain:
            raise place.error(f"{self.method} needs a {name} here, or for all models.")
        return value_of(chain, layout, seen_from(layout, first_layer), parameter)


def _check_parameters(merge: Merge) -> None:
    """Says which parameters have no effect where they stand."""
    for level in merge.settings:
        _check_level(merge, level, of_one_model=False)
    for one in merge.inputs:
        if one.settings is None:
            continue
        if one.settings.value and merge.spec.base is not False and one.reference == merge.base:
            one.settings.has_no_effect(f"{one.reference} is the base, which has no parameters")
        else:
            _check_level(merge, one.settings, of_one_model=True)


def _check_level(merge: Merge, level: Node, *, of_one_model: bool) -> None:
    translation, spec = merge.translation, merge.spec
    for name, node in level.fields():
        if name in translation.parameters:
            if of_one_model and not spec.parameter(our_name(name)).per_model:
                node.has_no_effect("mergekit reads it for all models only")
        elif name == "rescale" and translation.rescaled is not None and not of_one_model:
            continue  # it is false, see Merge.translation
        elif name in translation.memory:
            warn(f"{node.place} has no effect: it changes nothing in {merge.method}.")
        elif name in KNOWN:
            node.has_no_effect(f"it changes nothing in {merge.method}")
        elif name not in translation.extra or of_one_model:
            level.ignores(name, translation.parameters)


def check_keys(node: Node, known: Sequence[str]) -> None:
    """Says which keys nothing reads, and which stand where nothing reads them."""
    for key, inner in node.fields():
        if key in KNOWN:
            inner.has_no_effect("mergekit reads it under 'parameters' only")
        elif key == "revision":
            inner.has_no_effect("mergekit reads it in a model's name only, 'name@revision'")
        elif key not in known:
            node.ignores(key, known)
