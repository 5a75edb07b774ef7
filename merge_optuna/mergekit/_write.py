"""From a recipe to mergekit's YAML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.errors import RecipeError
from merge_optuna.mergekit._layers import Source, count_layers
from merge_optuna.mergekit._methods import (
    OUR_WORDS,
    REQUIRED,
    TRANSLATIONS,
    Translation,
    our_name,
)
from merge_optuna.mergekit._phrases import setting
from merge_optuna.mergekit._read import read_back
from merge_optuna.mergekit._same import float_dtypes, same_merge, stacked
from merge_optuna.mergekit._settings import seen_from
from merge_optuna.mergekit._sources import Reference, reference_of
from merge_optuna.mergekit._texts import texts
from merge_optuna.recipes import Recipe, Value
from merge_optuna.recipes.groups import Layout


def write(recipe: Recipe) -> str:
    """Mergekit's YAML for the merge of a recipe.

    mergekit passes over the key ``merge_optuna``. There stand names of checkpoints that are not
    those of their folders; and the recipe itself, if it says the same in another form than what
    is read from the YAML.

    Raises:
        RecipeError: If mergekit cannot do it.
    """
    if recipe.slots:
        raise RecipeError(
            f"{len(recipe.slots)} numbers are free, which mergekit does not know. Bind them "
            "first: recipe.suggest(trial), recipe.bind(params) or mo.recipe_of(study)."
        )
    if recipe.config not in (None, "base", recipe.owner("base").name):
        raise RecipeError(
            f"mergekit takes the config of the base, not that of {recipe.config!r}. Make that the "
            "base, or write the merge here: mo.write(recipe, folder)."
        )
    made = _documents(stacked(recipe))
    opened = _opened(recipe)
    said: dict[str, Any] = _if_any("names", _names(opened))
    made[-1] |= _if_any("merge_optuna", said)
    text = _dump(made)
    found = read_back(text, opened)
    if found.digest != recipe.digest:
        if not same_merge(found, recipe):
            raise RecipeError("mergekit has no words for this recipe: it would merge otherwise.")
        made[-1]["merge_optuna"] = said | {"recipe": recipe.to_data()}
        text = _dump(made)
    return text


def _opened(recipe: Recipe) -> dict[Reference, Checkpoint]:
    """The checkpoints of a recipe by how mergekit calls them."""
    named = [leaf.origin for leaf in recipe.leaves()]
    bases = [leaf.base for leaf in named if leaf.base is not None]
    return {reference_of(one): one.all_layers for one in (*named, *bases)}


def _names(opened: Mapping[Reference, Checkpoint]) -> dict[str, str]:
    """Names by place, where they are not those of the folders."""
    return {str(place): one.name for place, one in opened.items() if one.name != place.short}


def _documents(recipe: Recipe) -> list[dict[str, Any]]:
    """The configurations that give the merge of a recipe, those it is made of first.

    Raises:
        RecipeError: If mergekit cannot do it.
    """
    found: list[dict[str, Any]] = []
    written: dict[str, Recipe] = {}
    for name, inner in _inner(recipe):
        if written.setdefault(name, inner) != inner:
            raise RecipeError(f"Two recipes are called {name!r}. Give each its own name=.")
        if written[name] is inner:
            found.append({"name": name, **_configuration(inner)})
    return [*found, _configuration(recipe)]


def _inner(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """The recipes that are models of others; those that are stacked become slices instead."""
    for name, inner in recipe.nested:
        yield from _inner(inner)
        if recipe.spec.structure != "stack":
            yield name, inner


@dataclass(frozen=True)
class _Piece:
    """What mergekit merges layer by layer with one list of models.

    Attributes:
        recipe: Whose parameters count.
        models: Which of its models, by number.
        first_layer: Number in the result of the first of its layers.
    """

    recipe: Recipe
    models: tuple[int, ...]
    first_layer: int

    @property
    def translation(self) -> Translation:
        return TRANSLATIONS[self.recipe.method]

    @property
    def base(self) -> Source | None:
        """What mergekit is told to be the base: it also takes the config from there."""
        if self.recipe.base is not None or self.recipe.spec.base is None:
            return self.recipe.base
        return self.recipe.models[self.models[0]]

    def shared(self) -> dict[str, Any]:
        """The parameters that all models have in common."""
        layout = self.recipe.alignment.layout
        return dict(self._settings(None, layout, self.first_layer))

    def of_model(self, i: int) -> dict[str, Any]:
        """The parameters of one model."""
        first, _ = _range(self.recipe.models[i]) or (0, 0)
        return dict(self._settings(i, self.recipe.layouts[i], first))

    def _settings(
        self, model: int | None, layout: Layout, first_layer: int
    ) -> Iterator[tuple[str, Any]]:
        for name, default in self.translation.parameters.items():
            parameter = self.recipe.spec.parameter(our_name(name))
            if parameter.per_model != (model is not None):
                continue
            value = self.recipe.values[parameter.name]
            if model is not None:
                value = value[model]
            given = _in_their_words(name, value)
            if default is REQUIRED or given != default:
                seen = seen_from(layout, first_layer)
                yield name, setting(given, layout, seen, parameter)


def _configuration(recipe: Recipe) -> dict[str, Any]:
    pieces = _pieces(recipe)
    for piece in pieces:
        _check(piece.recipe)
    method = pieces[0].recipe.method
    made: dict[str, Any] = {"merge_method": method}
    base = pieces[0].base
    if base is not None:
        made["base_model"] = _name(base, pieces[0].recipe)
    models = [pieces[0].recipe.models[i] for i in pieces[0].models]
    if len(pieces) == 1 and all(_range(model) is None for model in models):
        made |= _models(pieces[0])
    else:
        made["slices"] = [_slice(piece) for piece in pieces]
    return made | _dtypes(recipe) | texts(recipe)


def _pieces(recipe: Recipe) -> list[_Piece]:
    """A merge is one piece; stacked layers are one each."""
    if recipe.spec.structure != "stack":
        return [_Piece(recipe, tuple(range(len(recipe.models))), 0)]
    pieces, first = [], 0
    for i, model in enumerate(recipe.models):
        if isinstance(model, Recipe):
            if recipe.values["scale"][i] != 1 or model.spec.structure == "stack":
                raise RecipeError(
                    f"mergekit cannot stack {recipe.model_names[i]!r}, a recipe that is scaled or "
                    "stacked itself. Write it to a folder first."
                )
            pieces.append(_Piece(model, tuple(range(len(model.models))), first))
        else:
            pieces.append(_Piece(recipe, (i,), first))
        first += count_layers(model)
    used = {piece.recipe.method for piece in pieces}
    if len(used) > 1:
        raise RecipeError(
            f"mergekit merges all slices by one method, not by {' and '.join(sorted(used))}. "
            "Write the merged slices to folders first."
        )
    return pieces


def _models(piece: _Piece) -> dict[str, Any]:
    return {"models": [{"model": name} | own for name, _, own in _sources(piece)]} | _shared(piece)


def _slice(piece: _Piece) -> dict[str, Any]:
    layers = (0, count_layers(piece.recipe.models[piece.models[0]]))
    sources = [
        {"model": name, "layer_range": list(_range(source) or layers)} | own
        for name, source, own in _sources(piece)
    ]
    base = {} if piece.base is None else {"base_model": _name(piece.base, piece.recipe)}
    return {"sources": sources} | base | _shared(piece)


def _sources(piece: _Piece) -> Iterator[tuple[Any, Source, dict[str, Any]]]:
    """How mergekit calls each source, the source, and its own parameters."""
    recipe = piece.recipe
    if recipe.base is not None:
        yield _name(recipe.base, recipe), recipe.base, {}
    for i in piece.models:
        own = _if_any("parameters", piece.of_model(i))
        yield _name(recipe.models[i], recipe), recipe.models[i], own


def _shared(piece: _Piece) -> dict[str, Any]:
    return _if_any("parameters", piece.shared() | _extra(piece))


def _extra(piece: _Piece) -> dict[str, Any]:
    """What only we read, where it is not as by default; mergekit passes over it."""
    recipe = piece.recipe
    return {
        name: recipe.values[name]
        for name in piece.translation.extra
        if recipe.values[name] != recipe.spec.parameter(name).default
    }


def _if_any(key: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: dict(values)} if values else {}


def _dtypes(recipe: Recipe) -> dict[str, str]:
    """Mergekit shall compute as we do, and round once."""
    own = float_dtypes(recipe.frame)
    if recipe.dtype is None and len(own) > 1:
        names = ", ".join(sorted(str(d).removeprefix("torch.") for d in own))
        raise RecipeError(
            f"mergekit writes all tensors in one data type, but they have {names}. Give the "
            "recipe a dtype: recipe.with_fields(dtype=...)."
        )
    final = recipe.dtype or str(own.pop()).removeprefix("torch.")
    if final in ("float32", "float64"):
        return {"dtype": final}
    return {"dtype": "float32", "out_dtype": final}


def _check(recipe: Recipe) -> None:
    """Refuses what mergekit cannot do.

    Raises:
        RecipeError: Saying what.
    """
    if recipe.method not in TRANSLATIONS:
        raise RecipeError(
            f"mergekit has no method {recipe.method!r}. It and merge_optuna both have "
            f"{', '.join(TRANSLATIONS)}."
        )
    for name, value in TRANSLATIONS[recipe.method].ours.items():
        given = recipe.values[name]
        if any(one != value for one in (given if isinstance(given, tuple) else (given,))):
            raise RecipeError(
                f"mergekit cannot do {name}={given!r} in {recipe.method}, only {value!r}."
            )
    if recipe.seen != recipe.sources:
        raise RecipeError("mergekit cannot merge a model that has a head with one that has none.")
    left_out = [n for n, why in recipe.alignment.copied.items() if why != "not a float tensor"]
    if left_out:
        raise RecipeError(
            f"mergekit merges all tensors, but the recipe leaves out {len(left_out)}, among them "
            f"{left_out[0]}."
        )
    models = [_name(source, recipe) for source in recipe.sources]
    if recipe.spec.structure != "stack" and len({str(m) for m in models}) < len(models):
        raise RecipeError("mergekit cannot merge a model with itself.")


def _in_their_words(name: str, value: Value) -> Any:
    words = {ours: theirs for theirs, ours in OUR_WORDS.get(name, {}).items()}
    if not words:
        return value
    if value not in words:
        raise RecipeError(
            f"mergekit cannot do {our_name(name)}={value!r}, only {' or '.join(map(repr, words))}."
        )
    return words[value]


def _name(source: Source, recipe: Recipe) -> Any:
    """How mergekit is told where a source is: another configuration, or a place."""
    if isinstance(source, Checkpoint):
        return reference_of(source.origin).written()
    return next(name for name, inner in recipe.nested if inner is source)


def _range(source: Source) -> tuple[int, int] | None:
    return source.layer_range if isinstance(source, Checkpoint) else None


class _Dumper(yaml.SafeDumper):
    """Lists of numbers on one line."""

    def represent_sequence(
        self, tag: str, sequence: Iterable[Any], flow_style: bool | None = None
    ) -> yaml.SequenceNode:
        short = all(isinstance(value, (int, float)) for value in sequence)
        return super().represent_sequence(tag, sequence, flow_style=short or flow_style)


def _dump(made: Sequence[Mapping[str, Any]]) -> str:
    """The configurations as YAML."""
    text: str = yaml.dump_all(made, Dumper=_Dumper, sort_keys=False, width=99)
    return text
