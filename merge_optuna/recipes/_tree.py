"""The recipe: a frozen tree that says what to merge and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, ValidationError

from merge_optuna import methods
from merge_optuna.checkpoints import Checkpoint
from merge_optuna.errors import RecipeError, shown
from merge_optuna.recipes._alignment import Alignment
from merge_optuna.recipes._checks import (
    check_dtype,
    check_inner,
    check_names,
    complete,
    individual_of,
    joint_extent,
)
from merge_optuna.recipes._fisher_and_gram import check_number, check_origin
from merge_optuna.recipes._heads import under_one_name
from merge_optuna.recipes._numbers import Numbers
from merge_optuna.recipes._sources import names_of, numbered, replaced
from merge_optuna.recipes._space import SearchSpace
from merge_optuna.recipes._structure import Chain, Overlay, Stack, Structure, parts_of
from merge_optuna.recipes._tokenizer import Tokenizer, chat_template, check_texts, views
from merge_optuna.recipes._values import Value, form_of, unwrapped
from merge_optuna.recipes.groups import Layout
from merge_optuna.recipes.route import Route

if TYPE_CHECKING:
    from torch import Tensor

_Parameters = Annotated[
    tuple[tuple[str, Value | tuple[Value, ...]], ...],
    BeforeValidator(lambda v: tuple(v.items()) if isinstance(v, Mapping) else v),
    PlainSerializer(lambda v: dict(v)),
]


def _as_source(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if "method" in value:
        return Recipe(**value)
    if not isinstance(value.get("ref"), str) or set(value) - set(Checkpoint.model_fields):
        raise RecipeError(
            f"A source is a checkpoint (ref, name, digest) or a recipe, not {shown(dict(value))}."
        )
    if "base" in value:
        value = {**value, "base": _as_source(value["base"])}
    return Checkpoint(**value)


class Recipe(SearchSpace):
    """What to merge and how: a frozen, hashable value that round-trips through YAML and JSON.

    Made by the functions of ``mo.recipes``. Numbers may be free (:func:`mo.free`); then the
    recipe is a search space: ``recipe(trial)`` suggests them and returns the bound recipe.
    A recipe can stand wherever a checkpoint can.

    Attributes:
        method: A name in ``mo.methods.METHODS``.
        base: The model that task vectors are taken from, for methods that have one.
        models: The models that are merged.
        parameters: Pairs of name and value for every parameter of the method; one value per model
            where the method's spec says so.
        exclude: Name filters of tensors that are taken from the base unchanged.
        statistics: Of each model, for methods that need them; made by ``mo.statistics``.
        name: Prefix of the parameter names when it stands inside another recipe.
        tokenizer: Whose vocabulary the merged model has; the sources must share one when omitted.
            It says so for all sources, also those of recipes inside, which leave it out.
        chat_template: Of the written model: ``"auto"`` (the one most sources have), the name of a
            source, or a template; that of the tokenizer when omitted.
        config: Whose config counts where the sources differ in what gives weights their meaning,
            e.g. the base of rotary positions: ``"base"`` (of a method without one: the first
            model) or the name of a source; they must not differ when omitted.
        dtype: Data type of the float tensors of the merged model, e.g. ``"bfloat16"``; that of the
            base where it is None. Merging is computed in float32 whatever it is, and rounded once.
        individual: What evolution has made of the models (``splice`` and ``descent``).
        path: Through which of their layers a forward pass goes (``path``).
        module: Import path of the module that registered the method, for one that is not of
            merge_optuna; known from there, whatever is given.
    """

    method: str
    base: Annotated[Checkpoint | Recipe | None, BeforeValidator(_as_source)] = None
    models: tuple[Annotated[Checkpoint | Recipe, BeforeValidator(_as_source)], ...]
    parameters: _Parameters = ()
    exclude: tuple[str, ...] = ()
    statistics: tuple[Annotated[Checkpoint, BeforeValidator(_as_source)], ...] = ()
    name: str | None = None
    tokenizer: Tokenizer = None
    chat_template: str | None = None
    config: str | None = None
    dtype: Annotated[str | None, AfterValidator(check_dtype)] = None
    individual: Annotated[
        methods.Individual | None,
        PlainSerializer(lambda value: None if value is None else value.rows()),
    ] = None
    path: Annotated[
        Route | None,
        BeforeValidator(lambda v: Route.from_data(v) if isinstance(v, str | Mapping) else v),
        PlainSerializer(lambda value: None if value is None else value.to_data()),
    ] = None
    module: str | None = None

    def __init__(self, **data: Any):
        if isinstance(method := data.get("method"), str):
            spec = methods.get(method, data.get("module"))
            data["module"] = spec.module
            data["individual"] = individual_of(spec, data.get("individual"))
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise unwrapped(error, "Not a recipe") from error
        _check(self)
        completed = complete(self.spec, dict(self.parameters), len(self.models))
        _set(self, parameters=tuple(completed.items()))
        if self.tokenizer is not None or self.config is not None:
            seen = views(
                self.leaves(),
                self.tokenizer,
                None if self.config is None else self.owner(self.config),
                has_base=self.base is not None,
                stacked=self.spec.structure != "overlay",
            )
            _set(self, **self._placed(_seen_through(self.sources, seen)))

    @cached_property
    def spec(self) -> methods.Method:
        """The spec of the method."""
        return methods.get(self.method)

    @cached_property
    def values(self) -> dict[str, Any]:
        """Parameters by name."""
        return dict(self.parameters)

    @property
    def sources(self) -> tuple[Checkpoint | Recipe, ...]:
        """Base and models."""
        return (() if self.base is None else (self.base,)) + self.models

    @cached_property
    def seen(self) -> tuple[Checkpoint | Recipe, ...]:
        """Base and models as tensors are read: called alike also where only some have a head.

        Raises:
            RecipeError: If statistics or a tokenizer go by the names that tensors have.
        """
        if self.spec.structure != "overlay":
            return self.sources
        bound = bool(self.statistics) or self.tokenizer is not None
        seen = under_one_name(frame_of(self.sources[0]), self.leaves(), bound=bound)
        return tuple(_seen_through(self.sources, seen)) if seen else self.sources

    @cached_property
    def extent(self) -> tuple[int, int]:
        """How many recipes stand inside each other, and how many sources they have together."""
        return joint_extent(
            (0, 1) if isinstance(s, Checkpoint) else s.extent for s in self.sources
        )

    def leaves(self) -> tuple[Checkpoint, ...]:
        """Every checkpoint in the tree, once."""
        return tuple(dict.fromkeys(leaf for one in self.sources for leaf in leaves_of(one)))

    def owner(self, name: str) -> Checkpoint:
        """The leaf of a name, or a slice of it; for ``"base"`` the one that the frame is of."""
        if name != "base":
            return next(one for one in self.leaves() if name in (one.name, one.whole_name))
        first = self.sources[0 if self.path is None else self.path.embeddings_from]
        return first.owner(name) if isinstance(first, Recipe) else first

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Every checkpoint that is read, once: the leaves and the statistics."""
        found = dict.fromkeys((*self.leaves(), *self.statistics))
        for _, inner in self.nested:
            found |= dict.fromkeys(inner.checkpoints())
        return tuple(found)

    @cached_property
    def structure(self) -> Structure:
        """How the sources make up the merged model: laid over each other, or stacked."""
        frames = tuple(map(frame_of, self.seen))
        if self.spec.structure == "overlay":
            return Overlay(frames, len(self.models), self.exclude)
        if self.exclude:
            raise RecipeError(f"{self.method} leaves nothing out: exclude= is for merges.")
        if self.path is None:
            return Stack(frames)
        return Chain(frames, self.model_names, self.path, self.digest)

    @property
    def frame(self) -> Checkpoint:
        """What gives names, shapes and data types of the tensors, config and other files.

        The base, or the first model; for stacked layers a model made of them.
        """
        return self.structure.frame

    @cached_property
    def alignment(self) -> Alignment:
        """Which tensors are merged.

        Raises:
            CheckpointMismatch: If the sources do not fit together.
        """
        for statistics, model in zip(self.statistics, self.models, strict=False):
            check_origin(self.spec, statistics, model.name, leaves_of(model))
        return self.structure.alignment

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """For each model the tensors, by its own names, that a value of it is about."""
        return self.structure.layouts

    def inputs_at(self, name: str) -> tuple[tuple[Checkpoint | Recipe, str], ...]:
        """The sources of one tensor, the base first, each with the tensor's name there."""
        models = self.seen[-len(self.models) :]
        base = [] if self.base is None else [(self.seen[0], name)]
        return (*base, *((models[i], own) for i, own in self.structure.models_at(name)))

    def chat_template_text(self) -> str | None:
        """The chat template to be written; None for that of the tokenizer.

        Raises:
            RecipeError: If the source that should give it has none.
        """
        return self.chat_template and chat_template(self.chat_template, self.leaves())

    def with_sources(self, sources: Mapping[str, Checkpoint | str | Path]) -> Recipe:
        """The recipe with checkpoints replaced by name: moved ones, modules of another process.

        Args:
            sources: By name, the checkpoint or its new place (folder or name on the hub).

        Raises:
            CheckpointError: If the content of a replacement differs from what was recorded.
            RecipeError: If no source has one of the names.
        """
        known = self.called()
        if unknown := [name for name in sources if name not in known]:
            raise RecipeError(
                f"No source is called {', '.join(unknown)}; they are called {', '.join(known)}."
            )
        return self._mapped(lambda source: replaced(source.origin, sources))

    def recorded_like(self, other: Recipe) -> Recipe:
        """The same recipe as an earlier version would have recorded it, where ``other`` was.

        The digests of sources that ``other`` has under the same name take its form.
        """
        known = {source.name: source for source in other.checkpoints()}
        made = self._mapped(lambda s: s.origin.recorded_like(known.get(s.name, s.origin)))
        return self if made == self else made

    def _mapped(self, change: Callable[[Checkpoint], Checkpoint]) -> Recipe:
        """The recipe with every checkpoint replaced, also those of recipes inside."""

        def mapped(source: Checkpoint | Recipe) -> Checkpoint | Recipe:
            return source._mapped(change) if isinstance(source, Recipe) else change(source)

        made = self._placed([mapped(source) for source in self.sources])
        return self.with_fields(**made, statistics=tuple(map(change, self.statistics)))

    def _placed(self, sources: Sequence[Checkpoint | Recipe]) -> dict[str, Any]:
        """The fields with these sources in place of its own."""
        first = len(sources) - len(self.models)
        return {"base": sources[0] if first else None, "models": tuple(sources[first:])}

    def called(self) -> list[str]:
        """Names of what is read, and of the checkpoints that adapters among them are put on."""
        return names_of(self.checkpoints())

    @property
    def model_names(self) -> tuple[str, ...]:
        """How the merged models are called in parameter names and mask keys."""
        names = [model.name or f"recipe{i}" for i, model in enumerate(self.models)]
        return tuple(numbered(names) if self.spec.structure == "stack" else names)

    @property
    def _named(self) -> list[tuple[str, Checkpoint | Recipe]]:
        """The sources, with the prefix of the parameter names of those that are recipes."""
        base = [] if self.base is None else [self.base.name or "base"]
        return list(zip([*base, *self.model_names], self.sources, strict=True))

    @property
    def nested(self) -> tuple[tuple[str, Recipe], ...]:
        return tuple((name, one) for name, one in self._named if isinstance(one, Recipe))

    @cached_property
    def parts(self) -> Mapping[str, methods.Part]:
        """Where each merged tensor is in the flat model: all elements that are merged."""
        return parts_of(self.alignment.layout, self.frame)

    @cached_property
    def flat_size(self) -> int:
        """Number of elements that are merged."""
        return sum(part.size for part in self.parts.values())

    @cached_property
    def numbers(self) -> Numbers:
        layout = self.alignment.layout
        return Numbers(self.spec, self.values, layout, self.layouts, self.model_names)

    def params_of(self, recipe: Recipe) -> dict[str, float]:
        """Inverse of :meth:`bind`: the parameters with which this space gives ``recipe``.

        Raises:
            RecipeError: If ``recipe`` is not of this space.
        """
        mine = self.recorded_like(recipe)
        if _outline(recipe) != _outline(mine):
            raise RecipeError(
                f"The recipe is {_outline(recipe)}, but the space is {_outline(mine)}."
            )
        params = mine.numbers.params_of(recipe.values)
        for (prefix, inner), (_, other) in zip(mine.nested, recipe.nested, strict=True):
            params |= {f"{prefix}/{name}": x for name, x in inner.params_of(other).items()}
        return params

    def with_individual(self, individual: methods.Individual) -> Recipe:
        """The recipe of another individual of the same models; what is known of them is kept."""
        recipe = self.model_copy(update={"individual": individual})
        recipe.__dict__.pop("digest", None)
        return recipe

    def changed(self, parameters: Any, nested: Mapping[str, Recipe] | None = None) -> Recipe:
        sources = [
            (nested or {}).get(name, one) if isinstance(one, Recipe) else one
            for name, one in self._named
        ]
        return self.with_fields(parameters=parameters, **self._placed(sources))

    def with_fields(self, **fields: Any) -> Recipe:
        """The recipe with other values of some of its fields, e.g. ``dtype="bfloat16"``."""
        own = {name: getattr(self, name) for name in type(self).model_fields}
        return Recipe(**{**own, **fields})

    def values_at(self, name: str) -> dict[str, Any]:
        """The method's arguments for one merged tensor.

        Raises:
            RecipeError: If numbers are still free.
        """
        models = self.structure.models_at(name)
        values = {
            key: [form_of(value[i]).at(own, self.layouts[i]) for i, own in models]
            if isinstance(value, tuple)
            else form_of(value).at(name, self.alignment.layout)
            for key, value in self.parameters
        }
        return values | self.structure.arguments_at(name)

    def statistics_at(self, name: str) -> list[Tensor | None]:
        """The statistics of each model for one merged tensor; None where a model has none."""
        return [one.tensor(name) if name in one.store.specs() else None for one in self.statistics]

    def __str__(self) -> str:
        """A layer path as a path, ``A0-A1-B1×0.8``; all fields of other recipes."""
        return super().__str__() if self.path is None else str(self.path)


def check_sources(
    taker: str, base: Checkpoint | Recipe | None, models: Sequence[Checkpoint | Recipe]
) -> None:
    """Checks that somebody who takes models was given models.

    Raises:
        RecipeError: If not, or one instead of a list.
    """
    if isinstance(models, (Checkpoint, Recipe)):
        raise RecipeError(f"{taker} takes a list of models: [{models.name}], not one model.")
    if isinstance(models, str | Path) or not isinstance(models, Sequence):
        raise RecipeError(
            f"{taker} takes a list of models, [mo.Checkpoint(folder), ...], not {models!r}."
        )
    for source in (base, *models):
        if source is not None and not isinstance(source, (Checkpoint, Recipe)):
            raise RecipeError(
                f"{taker} expected a mo.Checkpoint or a recipe, not {source!r}. "
                "Wrap a folder: mo.Checkpoint(folder)."
            )


def frame_of(source: Checkpoint | Recipe) -> Checkpoint:
    """The frame of a source."""
    return source if isinstance(source, Checkpoint) else source.frame


def leaves_of(source: Checkpoint | Recipe) -> tuple[Checkpoint, ...]:
    """Every checkpoint in a source."""
    return (source,) if isinstance(source, Checkpoint) else source.leaves()


def _set(recipe: Recipe, **fields: Any) -> None:
    """Sets fields of a frozen value, before anybody has it."""
    for name, value in fields.items():
        object.__setattr__(recipe, name, value)


def _check(recipe: Recipe) -> None:
    """Checks that the fields go with each other."""
    _ = recipe.extent  # refuses one that is too large
    spec, leaves, read = recipe.spec, recipe.leaves(), recipe.checkpoints()
    if recipe.individual is not None:
        recipe.individual.check(len(recipe.models))
    if (recipe.path is None) == (spec.structure == "route"):
        raise RecipeError("The method 'path' takes a path, and no other does.")
    spec.check_sources(recipe.base, len(recipe.models))
    check_number(spec, len(recipe.statistics), len(recipe.models))
    prefixes = [prefix for prefix, _ in recipe.nested]
    check_names(recipe.name, spec, prefixes, recipe.model_names, [one.name for one in read])
    check_texts(recipe.tokenizer, recipe.chat_template, recipe.config, leaves)
    if recipe.tokenizer is not None and len(read) > len(leaves):
        raise RecipeError(
            "tokenizer does not go with statistics, which belong to the models' own "
            "vocabularies. Write models with one vocabulary first and make statistics of them."
        )
    for prefix, inner in recipe.nested:
        check_inner(prefix, inner.dtype, inner.tokenizer, inner.chat_template, inner.config)


def _outline(recipe: Recipe) -> str:
    """What a search space and the recipes of it have in common."""
    sources = [
        f"{source.name} ({source.digest})" if isinstance(source, Checkpoint) else source.method
        for source in recipe.sources
    ]
    without = f" without {', '.join(recipe.exclude)}" if recipe.exclude else ""
    return f"{recipe.method} of {', '.join(sources)}{without}"


def _seen_through(
    sources: Sequence[Checkpoint | Recipe], views: Mapping[Checkpoint, Checkpoint]
) -> list[Checkpoint | Recipe]:
    """Sources with every leaf replaced by its view."""
    return [
        one.with_fields(**one._placed(_seen_through(one.sources, views)))
        if isinstance(one, Recipe)
        else views[one.origin]
        for one in sources
    ]
