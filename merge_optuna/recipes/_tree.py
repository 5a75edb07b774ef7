"""The recipe: a frozen tree that says what to merge and how."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from optuna.distributions import FloatDistribution
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    ValidationError,
)

from merge_optuna import methods
from merge_optuna._documents import load_all_yaml, load_json, load_yaml, read_text
from merge_optuna.checkpoints import BY_ID, Checkpoint, configured, is_name
from merge_optuna.errors import CheckpointError, RecipeError, shown
from merge_optuna.recipes import _space
from merge_optuna.recipes._alignment import Alignment
from merge_optuna.recipes._fisher_and_gram import check_number, check_origin
from merge_optuna.recipes._limits import check_extent, extent_of
from merge_optuna.recipes._params import check_params
from merge_optuna.recipes._structure import Structure, structure_of
from merge_optuna.recipes._tokenizer import (
    Tokenizer,
    aligned,
    chat_template,
    check_chat_template,
    check_tokenizer,
)
from merge_optuna.recipes._values import (
    ByName,
    Free,
    PerGroup,
    Value,
    as_floats,
    numbers_in,
    unwrapped,
    value_at,
)
from merge_optuna.recipes.groups import Layout, Per
from merge_optuna.recipes.route import Route

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import BaseTrial
    from torch import Tensor

FORMAT = 1
_DTYPES = ("float32", "bfloat16", "float16", "float64")

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


def _check_dtype(name: str | None) -> str | None:
    if name is not None and name not in _DTYPES:
        raise RecipeError(f"dtype must be one of {', '.join(_DTYPES)}, not {name!r}.")
    return name


class Recipe(BaseModel):
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
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

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
    dtype: Annotated[str | None, AfterValidator(_check_dtype)] = None
    individual: Annotated[
        methods.Individual | None,
        PlainSerializer(lambda value: None if value is None else value.rows()),
    ] = None
    path: Annotated[
        Route | None,
        BeforeValidator(lambda v: Route.from_data(v) if isinstance(v, str | Mapping) else v),
        PlainSerializer(lambda value: None if value is None else value.to_data()),
    ] = None

    def __init__(self, **data: Any):
        if isinstance(method := data.get("method"), str):
            data["individual"] = _individual(method, data.get("individual"))
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise unwrapped(error, "Not a recipe") from error
        _ = self.extent  # refuses one that is too large
        if self.individual is not None:
            self.individual.check(len(self.models))
        if (self.path is None) == (self.method == "path"):
            raise RecipeError("The method 'path' takes a path, and no other does.")
        completed = _complete(self)
        object.__setattr__(self, "parameters", completed)
        _check_texts(self)
        if self.tokenizer is not None or self.config is not None:
            views = _views(self)
            for field, value in _seen_through(self, views).items():
                object.__setattr__(self, field, value)

    # -- what it is made of ---------------------------------------------------------------

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
    def extent(self) -> tuple[int, int]:
        """How many recipes stand inside each other, and how many sources they have together."""
        return extent_of(self.sources)

    def leaves(self) -> tuple[Checkpoint, ...]:
        """Every checkpoint in the tree, once."""
        found: dict[Checkpoint, None] = {}
        for source in self.sources:
            inner = source.leaves() if isinstance(source, Recipe) else (source,)
            found |= dict.fromkeys(inner)
        return tuple(found)

    def owner(self, name: str) -> Checkpoint:
        """The leaf of a name, or a slice of it; for ``"base"`` the one that the frame is of."""
        if name != "base":
            return next(one for one in self.leaves() if name in (one.name, one.whole_name))
        first = self.sources[0 if self.path is None else self.path.embeddings_from]
        return first.owner(name) if isinstance(first, Recipe) else first

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Every checkpoint that is read, once: the leaves and the statistics."""
        found = dict.fromkeys((*self.leaves(), *self.statistics))
        for source in self.sources:
            if isinstance(source, Recipe):
                found |= dict.fromkeys(source.checkpoints())
        return tuple(found)

    @cached_property
    def structure(self) -> Structure:
        """How the sources make up the merged model: laid over each other, or stacked."""
        return structure_of(self)

    @cached_property
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
        check_origin(self)
        return self.structure.alignment

    @cached_property
    def layouts(self) -> tuple[Layout, ...]:
        """For each model the tensors, by its own names, that a value of it is about."""
        return self.structure.layouts

    def inputs_at(self, name: str) -> tuple[tuple[Checkpoint | Recipe, str], ...]:
        """The sources of one tensor, the base first, each with the tensor's name there."""
        base = [] if self.base is None else [(self.base, name)]
        return (*base, *((self.models[i], own) for i, own in self.structure.models_at(name)))

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
        unknown = [name for name in sources if name not in known]
        if unknown:
            raise RecipeError(
                f"No source is called {', '.join(unknown)}; they are called {', '.join(known)}."
            )

        def replaced(source: Checkpoint) -> Checkpoint:
            source = source.origin
            given = _given(source, sources)
            if not isinstance(given, Checkpoint):
                given = source.at(given)
            elif given is source and source.base is not None:
                base = replaced(source.base)
                given = source if base is source.base else source.on(base)
            given = given.recorded_like(source)
            if given != source:
                raise CheckpointError(
                    f"The given source {source.name!r} is {given.name!r} with digest "
                    f"{given.digest}, but {source.digest} was recorded. Pass the model that the "
                    "study was made with, under the same name."
                )
            return given

        return self._mapped(replaced)

    def recorded_like(self, other: Recipe) -> Recipe:
        """The same recipe as an earlier version would have recorded it, where ``other`` was.

        The digests of sources that ``other`` has under the same name take its form.
        """
        known = {source.name: source for source in other.checkpoints()}

        def recorded(source: Checkpoint) -> Checkpoint:
            origin = source.origin
            before = known.get(source.name)
            return origin if before is None else origin.recorded_like(before)

        made = self._mapped(recorded)
        return self if made == self else made

    def _mapped(self, change: Callable[[Checkpoint], Checkpoint]) -> Recipe:
        """The recipe with every checkpoint replaced, also those of recipes inside."""

        def mapped(source: Checkpoint | Recipe) -> Checkpoint | Recipe:
            return source._mapped(change) if isinstance(source, Recipe) else change(source)

        data = self._fields()
        data["base"] = None if self.base is None else mapped(self.base)
        data["models"] = tuple(mapped(model) for model in self.models)
        data["statistics"] = tuple(change(statistics) for statistics in self.statistics)
        return Recipe(**data)

    def called(self) -> list[str]:
        """Names of what is read, and of the checkpoints that adapters among them are put on."""
        names: dict[str, None] = {}
        for read in self.checkpoints():
            checkpoint: Checkpoint | None = read
            while checkpoint is not None:
                names |= dict.fromkeys((checkpoint.name, checkpoint.whole_name))
                checkpoint = checkpoint.base
        return list(names)

    @property
    def model_names(self) -> tuple[str, ...]:
        """How the merged models are called in parameter names and mask keys."""
        names = [source_name(model, i) for i, model in enumerate(self.models)]
        if self.method != "passthrough":
            return tuple(names)
        again: Counter[str] = Counter()  # layers may repeat
        own = []
        for name in names:
            again[name] += 1
            own.append(f"{name}#{again[name]}" if again[name] > 1 else name)
        return tuple(own)

    @property
    def nested(self) -> tuple[tuple[str, Recipe], ...]:
        """Recipes among the sources, with the prefix of their parameter names."""
        base = [(self.base.name or "base", self.base)] if isinstance(self.base, Recipe) else []
        named = zip(self.model_names, self.models, strict=True)
        return (*base, *((name, model) for name, model in named if isinstance(model, Recipe)))

    @cached_property
    def parts(self) -> Mapping[str, methods.Part]:
        """Where each merged tensor is in the flat model: all elements that are merged.

        The tensors come from input to output: by layer group, in each as the checkpoint has them.
        """
        layout, frame = self.alignment.layout, self.frame
        place = {label: i for i, label in enumerate(layout.order)}
        found, offset = {}, 0
        for name in sorted(layout.names, key=lambda name: place[layout.layers[name]]):
            shape = frame.shape(name)
            size = math.prod(shape)
            row = size // shape[0] if len(shape) > 1 and size else max(size, 1)
            found[name] = methods.Part(name, layout.layers[name], offset, size, row)
            offset += size
        return found

    @cached_property
    def flat_size(self) -> int:
        """Number of elements that are merged."""
        return sum(part.size for part in self.parts.values())

    def with_individual(self, individual: methods.Individual) -> Recipe:
        """The recipe of another individual of the same models; what is known of them is kept."""
        recipe = self.model_copy(update={"individual": individual})
        recipe.__dict__.pop("digest", None)
        return recipe

    def changed(self, parameters: Any, nested: Mapping[str, Recipe] | None = None) -> Recipe:
        """The recipe with other parameters, and nested recipes replaced by their prefix."""
        nested = nested or {}
        data = {**self._fields(), "parameters": parameters}
        if isinstance(self.base, Recipe):
            data["base"] = nested.get(self.base.name or "base", self.base)
        data["models"] = tuple(
            nested.get(name, model) if isinstance(model, Recipe) else model
            for name, model in zip(self.model_names, self.models, strict=True)
        )
        return Recipe(**data)

    def with_fields(self, **fields: Any) -> Recipe:
        """The recipe with other values of some of its fields, e.g. ``dtype="bfloat16"``."""
        return Recipe(**{**self._fields(), **fields})

    def values_at(self, name: str) -> dict[str, Any]:
        """The method's arguments for one merged tensor.

        Raises:
            RecipeError: If numbers are still free.
        """
        models = self.structure.models_at(name)
        values = {
            key: [value_at(value[i], own, self.layouts[i]) for i, own in models]
            if isinstance(value, tuple)
            else value_at(value, name, self.alignment.layout)
            for key, value in self.parameters
        }
        return values | self.structure.arguments_at(name)

    def statistics_at(self, name: str) -> list[Tensor | None]:
        """The statistics of each model for one merged tensor; None where a model has none."""
        return [one.tensor(name) if name in one.store.specs() else None for one in self.statistics]

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).model_fields}

    # -- as a value -----------------------------------------------------------------------

    def __str__(self) -> str:
        """A layer path as a path, ``A0-A1-B1×0.8``; all fields of other recipes."""
        return super().__str__() if self.path is None else str(self.path)

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits over everything but the places of the sources."""
        content = json.dumps(_without_refs(self.to_data()))
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    def to_data(self) -> dict[str, Any]:
        """The recipe as plain dicts, lists, numbers and strings."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Recipe:
        """Inverse of :meth:`to_data`.

        Raises:
            RecipeError: If ``data`` is no recipe.
        """
        if not isinstance(data, Mapping):
            raise RecipeError(f"Not a recipe, which has fields: {shown(data)}.")
        if not all(isinstance(key, str) for key in data):
            raise RecipeError(f"Not a recipe: its fields {shown(list(data))} are not all words.")
        check_extent(data)
        return cls(**data)

    def to_json(self) -> str:
        """The recipe as JSON."""
        return json.dumps({"merge_optuna": FORMAT, **self.to_data()})

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Inverse of :meth:`to_json`.

        Raises:
            RecipeError: If the text is no recipe.
        """
        if not isinstance(text, str):
            raise RecipeError(f"The JSON text is no text: {shown(text)}.")
        return cls.from_document(load_json(text, "The JSON text"), "The JSON text")

    def to_yaml(self, path: str | Path | None = None) -> str:
        """The recipe as YAML; also written to ``path`` if given."""
        text: str = yaml.safe_dump({"merge_optuna": FORMAT, **self.to_data()}, sort_keys=False)
        if path is not None:
            Path(path).write_text(text)
        return text

    @classmethod
    def from_yaml(cls, source: str | Path) -> Recipe:
        """Reads a recipe from a YAML file, or from YAML text.

        Raises:
            RecipeError: If the content is no recipe.
            FileNotFoundError: If a path is given and no file is there.
        """
        text, where = _text_of(source)
        return cls.from_document(load_yaml(text, where), where)

    @classmethod
    def from_mergekit(cls, source: str | Path, *, strict: bool = False) -> Recipe:
        """Reads a configuration of mergekit (0.1.5): a YAML file, or its text.

        Every tensor gets the numbers that mergekit gives it. Gradients become one value per layer;
        they leave the embedding, and what follows the layers, with their first value, as mergekit
        does. ``dtype`` (or ``out_dtype``) is that of the result; mergekit also computes in it,
        where we always compute in float32. Sources are named after their folders.

        Args:
            source: A file, or its content.
            strict: Whether a key that mergekit ignores, often a misspelled one, is an error. It
                is a warning otherwise, with the key that was probably meant.

        Raises:
            RecipeError: If it is not valid, or says what a recipe cannot; naming the key and its
                place in the file. Also if it belongs to another tool of mergekit, naming that.
            CheckpointError: If a model cannot be opened.
            CheckpointMismatch: If the models do not fit together.
            FileNotFoundError: If a path is given and no file is there.
        """
        recipe: Recipe = mergekit().read(*_text_of(source), strict=strict)
        return recipe

    def to_mergekit(self, path: str | Path | None = None) -> str:
        """The recipe as a configuration of mergekit (0.1.5); also written to ``path`` if given.

        mergekit gives the same merge from it, up to rounding and to the random masks of methods
        that drop at random; :meth:`from_mergekit` gives the same recipe, up to the places of the
        sources.

        Raises:
            RecipeError: If it says what mergekit cannot, e.g. free numbers.
        """
        text: str = mergekit().write(self)
        if path is not None:
            Path(path).write_text(text)
        return text

    @classmethod
    def read(cls, path: str | Path, *, strict: bool = False) -> Recipe:
        """Reads a recipe from a YAML file, ours or a configuration of mergekit.

        Args:
            path: The file.
            strict: As in :meth:`from_mergekit`.

        Raises:
            RecipeError: If it is neither.
            FileNotFoundError: If no file is there.
        """
        # Whoever reads it then says what is wrong with it.
        found = load_all_yaml(read_text(path), str(path), surprises=(), repeated=lambda _: None)
        if mergekit().is_theirs(found):
            return cls.from_mergekit(path, strict=strict)
        return cls.from_yaml(Path(path))

    @classmethod
    def from_document(cls, document: Any, where: str) -> Recipe:
        """The recipe of a document that is read already.

        Raises:
            RecipeError: If it is none.
        """
        if not isinstance(document, dict) or document.pop("merge_optuna", None) != FORMAT:
            raise RecipeError(
                f"{where} is not a recipe: it does not say 'merge_optuna: {FORMAT}'."
            )
        return cls.from_data(document)

    # -- as a space -----------------------------------------------------------------------

    def __call__(self, trial: BaseTrial) -> Recipe:
        """Same as :meth:`suggest`."""
        return self.suggest(trial)

    @cached_property
    def slots(self) -> tuple[_space.Slot, ...]:
        """Every free number with its parameter name, in order."""
        return tuple(_space.slots(self))

    def distributions(self) -> dict[str, FloatDistribution]:
        """The search space: Optuna distribution by parameter name; empty if nothing is free."""
        return {slot.name: slot.distribution for slot in self.slots}

    def start(self) -> dict[str, float]:
        """The parameters at which a search begins."""
        return {slot.name: slot.start for slot in self.slots}

    def suggest(self, trial: BaseTrial) -> Recipe:
        """Lets a trial choose the free numbers and returns the bound recipe."""
        return self.bind(
            {
                name: trial.suggest_float(name, d.low, d.high, log=d.log)
                for name, d in self.distributions().items()
            }
        )

    def bind(self, params: Mapping[str, float]) -> Recipe:
        """The recipe with the free numbers replaced by a trial's parameters.

        Raises:
            RecipeError: If a parameter is missing or outside its range.
        """
        check_params(self.distributions(), params)
        return _space.bind(self, params)

    def params_of(self, recipe: Recipe) -> dict[str, float]:
        """Inverse of :meth:`bind`: the parameters with which this space gives ``recipe``.

        Raises:
            RecipeError: If ``recipe`` is not of this space.
        """
        return _space.params_of(self.recorded_like(recipe), recipe)

    def free(
        self,
        *names: str,
        per: Per = "model",
        low: float | None = None,
        high: float | None = None,
    ) -> Recipe:
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
        return _space.freed(self, names, per, low, high)

    def sampler(self, *, seed: int | None = None, **overrides: Any) -> BaseSampler:
        """The sampler for this space: CMA-ES from its start, one dimension per free number.

        Args:
            seed: Of all random numbers; fixed in the study when omitted.
            overrides: Arguments of :class:`merge_optuna.samplers.CmaEsSampler`.

        Raises:
            RecipeError: If nothing is free.
        """
        from merge_optuna.samplers import CmaEsSampler

        if not self.slots:
            raise RecipeError("Nothing is free in this recipe. Use mo.free for some parameter.")
        arguments: dict[str, Any] = {"x0": self.start(), **overrides}
        return CmaEsSampler(self.distributions(), seed=seed, **arguments)


def mergekit() -> ModuleType:
    """Mergekit's files in and out: made of recipes, which read and write them through here."""
    from merge_optuna import mergekit

    return mergekit


def _text_of(source: str | Path) -> tuple[str, str]:
    """The text of a document that is given as such or by its file, and how errors call it."""
    if isinstance(source, str) and "\n" in source:
        return source, "The YAML text"
    return read_text(source), str(source)


def _individual(method: str, given: Any) -> methods.Individual | None:
    """The individual of a recipe, from what a file says of it."""
    make = methods.get(method).individual
    if make is None:
        if given is not None:
            raise RecipeError(f"{method} takes no individual.")
        return None
    if given is None:
        raise RecipeError(f"{method} needs an individual.")
    return make(given)


def _check_texts(recipe: Recipe) -> None:
    """Tokenizer and chat template are of existing sources, and of the whole."""
    names = [leaf.name for leaf in recipe.leaves()]
    if recipe.tokenizer is not None:
        check_tokenizer(recipe.tokenizer, names)
        if len(recipe.checkpoints()) > len(names):
            raise RecipeError(
                "tokenizer does not go with statistics, which belong to the models' own "
                "vocabularies. Write models with one vocabulary first and make statistics of them."
            )
    if recipe.chat_template is not None:
        check_chat_template(recipe.chat_template, names)
    wholes = [leaf.whole_name for leaf in recipe.leaves()]
    if recipe.config not in (None, "base", *names, *wholes):
        raise RecipeError(
            f"config must be 'base' or a source ({', '.join(names)}), not {recipe.config!r}."
        )
    for name, inner in recipe.nested:
        if any(text is not None for text in (inner.tokenizer, inner.chat_template, inner.config)):
            raise RecipeError(
                "tokenizer, chat_template and config belong to the outermost recipe, not to "
                f"{name!r}."
            )


def _views(recipe: Recipe) -> dict[Checkpoint, Checkpoint]:
    """Every leaf through the tokenizer and the config of the recipe, by what it is a view of."""
    views = {leaf.origin: leaf.origin for leaf in recipe.leaves()}
    if recipe.tokenizer is not None:
        views = aligned(recipe.tokenizer, recipe.leaves(), has_base=recipe.base is not None)
    by_id = recipe.tokenizer is not None and recipe.tokenizer.source == BY_ID
    if recipe.config is None and not by_id:
        return views
    return {
        origin: configured(
            view,
            view if recipe.config is None else views[recipe.owner(recipe.config).origin],
            stacked=recipe.path is not None or recipe.method == "passthrough",
            by_id=by_id,
        )
        for origin, view in views.items()
    }


def _seen_through(recipe: Recipe, views: Mapping[Checkpoint, Checkpoint]) -> dict[str, Any]:
    """Base and models of a recipe with every leaf replaced by its view."""

    def view(source: Checkpoint | Recipe) -> Checkpoint | Recipe:
        if isinstance(source, Recipe):
            return Recipe(**{**source._fields(), **_seen_through(source, views)})
        return views[source.origin]

    base = None if recipe.base is None else view(recipe.base)
    return {"base": base, "models": tuple(view(model) for model in recipe.models)}


def _given(
    source: Checkpoint, sources: Mapping[str, Checkpoint | str | Path]
) -> Checkpoint | str | Path:
    """What replaces a checkpoint; layers of one are found under its name too."""
    if source.name in sources or source.layer_range is None:
        return sources.get(source.name, source)
    whole = sources.get(source.whole_name, source)
    if whole is source or not isinstance(whole, Checkpoint):
        return whole
    return whole.layers(*source.layer_range, name=source.name)


def _complete(recipe: Recipe) -> tuple[tuple[str, Any], ...]:
    """Checks all parameters against the method's spec and fills in defaults, in spec order."""
    spec = methods.get(recipe.method)
    spec.check_sources(recipe.base, len(recipe.models))
    check_number(recipe)
    _check_names(recipe)
    if any(inner.dtype is not None for _, inner in recipe.nested):
        raise RecipeError("dtype is that of the whole merged model: give it to the outer recipe.")
    given = dict(recipe.parameters)
    for name in given:
        spec.parameter(name)
    if given.get("trim_over") == "model" and any(
        isinstance(d, (PerGroup, ByName)) or (isinstance(d, Free) and d.per != "model")
        for d in _checked(given.get("density", 1.0), spec.parameter("density"), len(recipe.models))
    ):
        raise RecipeError("trim_over='model' needs one density per model, not per group.")
    return tuple(
        (p.name, _checked(given.get(p.name, p.default), p, len(recipe.models)))
        for p in spec.parameters
    )


def _checked(value: Any, parameter: methods.Parameter, models: int) -> Any:
    if parameter.per_model:
        if not isinstance(value, tuple):
            value = (value,) * models
        if len(value) != models:
            raise RecipeError(
                f"{parameter.name} has {len(value)} values for {models} models. Give one value "
                "per model; for one per layer use mo.per_group([...])."
            )
        return tuple(_checked_one(v, parameter) for v in value)
    if isinstance(value, tuple):
        raise RecipeError(
            f"{parameter.name} is one value for all models. For one per layer use "
            "mo.per_group([...])."
        )
    return _checked_one(value, parameter)


def _checked_one(value: Any, parameter: methods.Parameter) -> Any:
    if not parameter.grouped and not isinstance(value, (bool, int, float, str)):
        raise RecipeError(f"{parameter.name} must be one plain value, not {value!r}.")
    for number in numbers_in(value):
        if isinstance(number, Free):
            parameter.check(float(number.low))
            parameter.check(float(number.high))
        else:
            parameter.check(number)
    return as_floats(value) if parameter.numeric else value


def _check_names(recipe: Recipe) -> None:
    """Names key parameters, masks and sources, so they must be unique."""
    if recipe.name is not None and not is_name(recipe.name):
        raise RecipeError(
            f"A recipe's name must be without '/', not {shown(recipe.name)}. It has up to 200 "
            "printable characters."
        )
    prefixes = [prefix for prefix, _ in recipe.nested]
    taken = {"share", *(p.name for p in recipe.spec.parameters)} & set(prefixes)
    if taken:
        raise RecipeError(f"A recipe inside another cannot be called {', '.join(sorted(taken))}.")
    read = [checkpoint.name for checkpoint in recipe.checkpoints()]
    several = _twice(prefixes) | _twice(recipe.model_names) | _twice(read)
    if several:
        raise RecipeError(
            f"Several models are called {', '.join(sorted(several))}. Give each its own name: "
            "mo.Checkpoint(folder, name=...) or name=... of a recipe."
        )


def _twice(names: Sequence[str]) -> set[str]:
    return {name for name, times in Counter(names).items() if times > 1}


def source_name(source: Checkpoint | Recipe, index: int) -> str:
    """How a merged model is called in parameter names and mask keys."""
    if isinstance(source, Checkpoint):
        return source.name
    return source.name or f"recipe{index}"


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


def _without_refs(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: _without_refs(v) for k, v in data.items() if k not in ("ref", "revision")}
    if isinstance(data, list):
        return [_without_refs(v) for v in data]
    return data
