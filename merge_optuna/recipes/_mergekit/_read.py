"""From mergekit's YAML to a recipe."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import yaml

from merge_optuna.checkpoints import BY_ID
from merge_optuna.errors import CheckpointMismatch, RecipeError
from merge_optuna.recipes._mergekit._merge import Input, Merge, check_keys
from merge_optuna.recipes._mergekit._methods import TRANSLATIONS
from merge_optuna.recipes._mergekit._node import Node
from merge_optuna.recipes._mergekit._same import float_dtypes, same_merge
from merge_optuna.recipes._mergekit._sources import Sources, reference
from merge_optuna.recipes._mergekit._texts import read_texts
from merge_optuna.recipes._tree import Recipe

_TOP = (
    "merge_method",
    "models",
    "slices",
    "modules",
    "base_model",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "name",
    "merge_optuna",
)


def read(text: str, file: str) -> Recipe:
    """Reads a recipe from mergekit's YAML.

    Args:
        text: The content.
        file: How errors call it.

    Raises:
        RecipeError: If it is not valid, or says what a recipe cannot; naming the key and its
            place.
        CheckpointError: If a model cannot be opened.
        CheckpointMismatch: If the models do not fit together.
    """
    try:
        documents = [d for d in yaml.safe_load_all(text) if d is not None]
    except yaml.YAMLError as error:
        raise RecipeError(f"{file} is not valid YAML: {error}") from error
    return _Documents([Node(document, file) for document in documents], file).recipe()


class _Documents:
    """The configurations of a file; a named one can be a model of another (mergekit-multi)."""

    def __init__(self, nodes: Sequence[Node], file: str) -> None:
        self._file = file
        self._nodes: dict[str | None, Node] = {}
        self._reading: list[str] = []
        self._recipes: dict[str, Recipe] = {}
        if not nodes:
            raise RecipeError(f"{file} is empty.")
        # What we have said beside mergekit's own words stands in the last one.
        self._said = nodes[-1].get("merge_optuna")
        self._sources = Sources(self, self._names())
        for node in nodes:
            found = node.get("name")
            name = None if found is None else found.text()
            if name in self._nodes:
                what = "without a name" if name is None else f"called {name!r}"
                raise node.error(f"there are several configurations {what}.")
            self._nodes[name] = node

    def recipe(self) -> Recipe:
        """The recipe of the file."""
        found = _belonging(self._last(), self._file)
        said = None if self._said is None else self._said.get("recipe")
        if said is None:
            return found
        exact = Recipe.from_data(said.mapping())
        if not same_merge(found, exact):
            raise said.error(
                "this is another merge than the rest of the file says, which was changed. Remove "
                "it: it only keeps the form of the recipe that the file was made from."
            )
        return exact

    def _names(self) -> dict[str, str]:
        """Names of checkpoints by where they are."""
        names = None if self._said is None else self._said.get("names")
        return {} if names is None else {key: node.text() for key, node in names.fields()}

    def _last(self) -> Recipe:
        """The configuration without a name, or the only one that is no model of another."""
        if None in self._nodes:
            return _document(self._nodes[None], self._sources)
        used = set().union(*(_words(node.value) for node in self._nodes.values()))
        ends = [name for name in self._nodes if name not in used]
        if len(ends) > 1:
            raise next(iter(self._nodes.values())).error(
                f"{', '.join(map(str, ends))} are no models of each other: leave out the name of "
                "the last."
            )
        return _document(self._nodes[ends[0] if ends else next(iter(self._nodes))], self._sources)

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def named(self, name: str) -> Recipe:
        """A configuration as a source of another.

        Raises:
            RecipeError: If it is made of itself.
        """
        if name in self._reading:
            raise self._nodes[name].error(f"{name!r} is made of itself.")
        if name not in self._recipes:
            for key in ("tokenizer_source", "tokenizer", "chat_template"):
                if (node := self._nodes[name].get(key)) is not None:
                    raise node.error("say it in the last configuration, for the whole.")
            self._reading.append(name)
            recipe = _document(self._nodes[name], self._sources)
            # What is in the middle is not rounded.
            self._recipes[name] = recipe.with_fields(name=name, dtype=None)
            self._reading.pop()
        return self._recipes[name]


def _belonging(recipe: Recipe, file: str) -> Recipe:
    """The recipe as mergekit does it where models do not belong together, with a warning.

    mergekit takes the config of the base and merges rows of embeddings as they are numbered.

    Raises:
        CheckpointMismatch: If they do not fit together in any way.
    """
    config = {"config": "base"}
    tokenizer = {} if recipe.tokenizer is not None else {"tokenizer": BY_ID}
    wrong: list[CheckpointMismatch] = []
    for fields in ({}, config, tokenizer, config | tokenizer):
        made = recipe.with_fields(**fields)
        try:
            _ = made.alignment
        except CheckpointMismatch as error:
            wrong.append(error)
            continue
        done = ", ".join(f"{key}={value!r}" for key, value in fields.items())
        for message in dict.fromkeys(map(str, wrong)):
            warnings.warn(f"{file}: {message} This recipe does as mergekit: {done}.", stacklevel=2)
        return made
    raise wrong[0]


def _words(value: Any) -> set[str]:
    """Every word in a configuration but its own name."""
    if isinstance(value, dict):
        inner = [_words(v) for key, v in value.items() if key != "name"]
    elif isinstance(value, list):
        inner = [_words(v) for v in value]
    else:
        return {value} if isinstance(value, str) else set()
    return set().union(*inner)


def _document(node: Node, sources: Sources) -> Recipe:
    check_keys(node, _TOP)
    name = node.get("merge_method")
    if name is None:
        raise node.error("no merge_method: this is not a configuration of mergekit.")
    if name.text() not in TRANSLATIONS:
        raise name.error(
            f"{name.value!r} is not supported. Supported are {', '.join(TRANSLATIONS)}."
        )
    if (modules := node.get("modules")) is not None:
        raise modules.error("modules is not supported: merge one of them with part=.")
    models, slices = node.get("models"), node.get("slices")
    if (models is None) == (slices is None):
        raise node.error("expected either models or slices.")
    if models is not None:
        merges = [_merge_of_models(node, models, name.text(), sources)]
    else:
        assert slices is not None
        merges = list(_merges_of_slices(node, slices, name.text(), sources))
    texts = read_texts(node, [leaf for merge in merges for leaf in merge.leaves()], sources)
    recipe = _stacked(merges)
    return recipe.with_fields(dtype=_dtype(node, recipe), **texts)


def _merge_of_models(node: Node, models: Node, method: str, sources: Sources) -> Merge:
    """The merge of whole models; mergekit adds the base if it is not among them."""
    inputs = []
    for entry in models.items():
        check_keys(entry, ("model", "parameters"))
        model = _needed(entry, "model")
        inputs.append(Input(reference(model), sources.open(model), entry.get("parameters"), entry))
    base = node.get("base_model")
    if base is not None and reference(base) not in [one.reference for one in inputs]:
        inputs.append(Input(reference(base), sources.open(base), None, base))
    return Merge(
        method=method,
        inputs=inputs,
        base=None if base is None else reference(base),
        settings=_levels(node),
        node=node,
        aligned=_is_aligned(node),
    )


def _merges_of_slices(node: Node, slices: Node, method: str, sources: Sources) -> Iterator[Merge]:
    """One merge per slice."""
    first = 0
    for entry in slices.items():
        check_keys(entry, ("sources", "base_model", "parameters"))
        inputs, lengths = [], set()
        for source in _needed(entry, "sources").items():
            check_keys(source, ("model", "layer_range", "parameters"))
            model = _needed(source, "model")
            start, stop = _layer_range(_needed(source, "layer_range"))
            lengths.add(stop - start)
            part = sources.open(model, (start, stop), _needed(source, "layer_range"))
            inputs.append(Input(reference(model), part, source.get("parameters"), source, start))
        if len(lengths) > 1:
            raise entry.error(f"the sources of a slice need equally many layers, not {lengths}.")
        base = entry.get("base_model") or node.get("base_model")
        yield Merge(
            method=method,
            inputs=inputs,
            base=None if base is None else reference(base),
            settings=(*_levels(entry), *_levels(node)),
            node=entry,
            aligned=_is_aligned(node),
            first_layer=first,
        )
        first += lengths.pop()


def _stacked(merges: Sequence[Merge]) -> Recipe:
    """The slices one after the other."""
    if merges[0].method == "passthrough":
        return _passthrough(merges)
    recipes = [merge.recipe() for merge in merges]
    return recipes[0] if len(recipes) == 1 else Recipe(method="passthrough", models=tuple(recipes))


def _passthrough(merges: Sequence[Merge]) -> Recipe:
    for merge in merges:
        merge.check()
    sources = tuple(merge.inputs[0].source for merge in merges)
    draft = Recipe(method="passthrough", models=sources)
    scales = [
        merge.value("scale", merge.inputs, [layout])
        for merge, layout in zip(merges, draft.layouts, strict=True)
    ]
    return draft.with_fields(parameters={"scale": tuple(scale[0] for scale in scales)})


def _is_aligned(node: Node) -> bool:
    return any(node.get(key) is not None for key in ("tokenizer_source", "tokenizer"))


def _needed(node: Node, key: str) -> Node:
    found = node.get(key)
    if found is None:
        raise node.error(f"no {key}.")
    return found


def _levels(node: Node) -> tuple[Node, ...]:
    found = node.get("parameters")
    return () if found is None else (found,)


def _layer_range(node: Node) -> tuple[int, int]:
    value = node.value
    if (
        not isinstance(value, (list, tuple))
        or len(value) != 2
        or not all(isinstance(v, int) and not isinstance(v, bool) for v in value)
    ):
        raise node.error(f"expected [first layer, layer behind the last], not {value!r}.")
    return value[0], value[1]


def _dtype(node: Node, recipe: Recipe) -> str | None:
    """The data type of the result, unless it is what the base has anyway."""
    given = node.get("out_dtype") or node.get("dtype")
    if given is None:
        return None
    name = given.text().removeprefix("torch.")
    found: Any = getattr(torch, name, None)
    if not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise given.error(f"expected float32, bfloat16 or float16, not {given.value!r}.")
    return None if float_dtypes(recipe.frame) == {found} else name
