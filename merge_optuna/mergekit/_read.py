"""From mergekit's YAML to a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from merge_optuna._documents import MERGEKIT, load_all_yaml
from merge_optuna.checkpoints import BY_ID, Checkpoint
from merge_optuna.errors import CheckpointMismatch, RecipeError
from merge_optuna.mergekit._merge import Input, Merge, check_keys
from merge_optuna.mergekit._methods import TRANSLATIONS
from merge_optuna.mergekit._modules import joined
from merge_optuna.mergekit._node import Node, pass_over, refuse, warn
from merge_optuna.mergekit._same import float_dtypes, same_merge
from merge_optuna.mergekit._settings import whole_number
from merge_optuna.mergekit._sources import Reference, Sources, reference
from merge_optuna.mergekit._texts import read_texts
from merge_optuna.mergekit._tools import check_tool
from merge_optuna.recipes import Recipe

Say = Callable[[str], None]

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
_TEXTS = (("tokenizer_source", "tokenizer"), ("chat_template",))
_WHOLE = "default"


def read(text: str, file: str, *, strict: bool = False) -> Recipe:
    """Reads a recipe from mergekit's YAML.

    Args:
        text: The content.
        file: How errors call it.
        strict: Whether what mergekit passes over is an error, not a warning.

    Raises:
        RecipeError: If it is not valid, or says what a recipe cannot; naming the key and its
            place.
        CheckpointError: If a model cannot be opened.
        CheckpointMismatch: If the models do not fit together.
    """
    nodes = _nodes(text, file, refuse if strict else warn)
    return _Documents(nodes, file, {}).recipe(warn)


def read_back(text: str, opened: Mapping[Reference, Checkpoint]) -> Recipe:
    """Reads what was written of a recipe, whose checkpoints are open; says nothing of it.

    Args:
        text: The content.
        opened: The checkpoints by how the text calls them.
    """
    file = "to_mergekit"
    return _Documents(_nodes(text, file, pass_over), file, opened).recipe(pass_over)


def _nodes(text: str, file: str, passed_over: Say) -> list[Node]:
    documents = load_all_yaml(text, file, surprises=MERGEKIT, repeated=passed_over)
    return [Node(d, file, passed_over=passed_over) for d in documents if d is not None]


class _Documents:
    """The configurations of a file; a named one can be a model of another (mergekit-multi)."""

    def __init__(
        self, nodes: Sequence[Node], file: str, opened: Mapping[Reference, Checkpoint]
    ) -> None:
        self._file = file
        self._nodes: dict[str | None, Node] = {}
        self._reading: list[str] = []
        self._recipes: dict[str, Recipe] = {}
        if not nodes:
            raise RecipeError(f"{file} is empty.")
        # What we have said beside mergekit's own words stands in the last one.
        self._said = nodes[-1].get("merge_optuna")
        self._sources = Sources(self, self._names(), opened)
        for node in nodes:
            found = node.get("name")
            name = None if found is None else found.text()
            if name in self._nodes:
                what = "without a name" if name is None else f"called {name!r}"
                raise node.error(f"there are several configurations {what}.")
            self._nodes[name] = node

        self._end = self._last()

    def recipe(self, doubt: Say) -> Recipe:
        """The recipe of the file; ``doubt`` is told where models do not belong together."""
        found = _belonging(_document(self._end, self._end, self._sources), self._file, doubt)
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

    def _last(self) -> Node:
        """The configuration without a name, or the only one that is no model of another."""
        if None in self._nodes:
            return self._nodes[None]
        used = set().union(*(_words(node.value) for node in self._nodes.values()))
        ends = [name for name in self._nodes if name not in used]
        if len(ends) > 1:
            raise next(iter(self._nodes.values())).error(
                f"{', '.join(map(str, ends))} are no models of each other: leave out the name of "
                "the last."
            )
        return self._nodes[ends[0] if ends else next(iter(self._nodes))]

    def __contains__(self, name: object) -> bool:
        return name in self._nodes

    def __getitem__(self, name: str) -> Recipe:
        """A configuration as a source of another.

        Raises:
            RecipeError: If it is made of itself.
        """
        if name in self._reading:
            raise self._nodes[name].error(f"{name!r} is made of itself.")
        if name not in self._recipes:
            self._reading.append(name)
            recipe = _document(self._nodes[name], self._end, self._sources)
            # What is in the middle is not rounded.
            self._recipes[name] = recipe.with_fields(name=name, dtype=None)
            self._reading.pop()
        return self._recipes[name]


def _belonging(recipe: Recipe, file: str, doubt: Say) -> Recipe:
    """The recipe as mergekit does it where models do not belong together, which is said.

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
            doubt(f"{file}: {message} This recipe does as mergekit: {done}.")
        return made
    raise wrong[0]


def _pass_over_texts(node: Node, end: Node) -> None:
    """Tokenizer and chat template of a configuration in the middle: the last one says them.

    Rows for tokens that only some models have are made once, when all models are read.

    Raises:
        RecipeError: If the last configuration does not say them for the whole.
    """
    for keys in _TEXTS if node is not end else ():
        for inner in filter(None, map(node.get, keys)):
            if not any(map(end.get, keys)):
                raise inner.error("say it in the last configuration, for the whole.")
            warn(f"{inner.place} has no effect: the last configuration says it for the whole.")


def _words(value: Any) -> set[str]:
    """Every word in a configuration but its own name."""
    if isinstance(value, dict):
        inner = [_words(v) for key, v in value.items() if key != "name"]
    elif isinstance(value, list):
        inner = [_words(v) for v in value]
    else:
        return {value} if isinstance(value, str) else set()
    return set().union(*inner)


def _document(node: Node, end: Node, sources: Sources) -> Recipe:
    """The recipe of a configuration; ``end`` is the last one."""
    check_tool(node)
    name = node.get("merge_method")
    if name is None:
        raise node.error("no merge_method: this is not a configuration of mergekit.")
    if name.text() not in TRANSLATIONS:
        raise name.error(
            f"{name.value!r} is not supported. Supported are {', '.join(TRANSLATIONS)}."
        )
    check_keys(node, _TOP)
    merges = {
        module: _Part(node, body, sources, _is_aligned(end)).merges()
        for module, body in _modules(node).items()
    }
    leaves = [leaf for several in merges.values() for one in several for leaf in one.leaves()]
    texts = read_texts(end, leaves, sources) if node is end else {}
    _pass_over_texts(node, end)
    recipes = {module: _stacked(several) for module, several in merges.items()}
    recipe = recipes.get(_WHOLE) or joined(recipes, node)
    return recipe.with_fields(dtype=_dtype(node, recipe), **texts)


def _is_aligned(end: Node) -> bool:
    return any(end.get(key) is not None for key in ("tokenizer_source", "tokenizer"))


@dataclass(frozen=True)
class _Part:
    """What is merged of a model, all of it or a module.

    Attributes:
        node: The configuration.
        body: Where the models or slices stand.
        sources: The models that it can name.
        aligned: Whether the models have different vocabularies, made equal in the end.
    """

    node: Node
    body: Node
    sources: Sources
    aligned: bool

    def merges(self) -> list[Merge]:
        """One merge, or one per slice."""
        models, slices = self.body.get("models"), self.body.get("slices")
        if models is not None:
            return [self._of_models(models)]
        return [] if slices is None else list(self._of_slices(slices))

    def _of_models(self, models: Node) -> Merge:
        """The merge of whole models; mergekit adds the base if it is not among them."""
        inputs = []
        for entry in models.items():
            check_keys(entry, ("model", "parameters"))
            inputs.append(self._input(entry.needed("model"), entry, entry.get("parameters")))
        base = self.node.get("base_model")
        if base is not None and reference(base) not in [one.reference for one in inputs]:
            inputs.append(self._input(base, base))
        return self._merge(self.body, inputs, base)

    def _of_slices(self, slices: Node) -> Iterator[Merge]:
        """One merge per slice."""
        first = 0
        for entry in slices.items():
            check_keys(entry, ("sources", "base_model", "parameters", "residual_weight"))
            inputs, lengths = [], set()
            for source in entry.needed("sources").items():
                check_keys(source, ("model", "layer_range", "parameters"))
                model, own = source.needed("model"), source.get("parameters")
                layers = source.needed("layer_range")
                start, stop = _layer_range(layers)
                lengths.add(stop - start)
                inputs.append(self._input(model, source, own, (start, stop), layers))
            if len(lengths) > 1:
                raise entry.error(
                    f"the sources of a slice need equally many layers, not {lengths}."
                )
            base = entry.get("base_model") or self.node.get("base_model")
            yield self._merge(entry, inputs, base, first)
            first += lengths.pop()

    def _input(
        self,
        model: Node,
        place: Node,
        settings: Node | None = None,
        layers: tuple[int, int] | None = None,
        said: Node | None = None,
    ) -> Input:
        source = self.sources.open(model, layers, said)
        return Input(reference(model), source, settings, place, layers[0] if layers else 0)

    def _merge(
        self, place: Node, inputs: Sequence[Input], base: Node | None, first: int = 0
    ) -> Merge:
        """A merge with the parameters that stand at its place and around, the nearest first."""
        around = [self.body] if self.body is self.node else [self.body, self.node]
        levels = around if place is self.body else [place, *around]
        return Merge(
            method=self.node.needed("merge_method").text(),
            inputs=inputs,
            base=None if base is None else reference(base),
            settings=tuple(own for one in levels if (own := one.get("parameters")) is not None),
            node=place,
            aligned=self.aligned,
            first_layer=first,
        )


def _modules(node: Node) -> dict[str, Node]:
    """Where the models or slices of each module stand; mergekit calls the only one default.

    Raises:
        RecipeError: If there are none, or more than one list of them.
    """
    if len([key for key in ("models", "slices", "modules") if node.mapping().get(key)]) != 1:
        raise node.error("expected one of models, slices and modules.")
    if (modules := node.get("modules")) is None:
        return {_WHOLE: node}
    found = dict(modules.fields())
    if _WHOLE in found and len(found) > 1:
        raise modules.error(f"{_WHOLE!r} is the whole model: it cannot stand beside others.")
    for body in found.values():
        check_keys(body, ("models", "slices", "parameters"))
        if bool(body.mapping().get("models")) == bool(body.mapping().get("slices")):
            raise body.error("expected either models or slices.")
    return found


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


def _layer_range(node: Node) -> tuple[int, int]:
    if not isinstance(node.value, list) or len(node.value) != 2:
        raise node.error(f"expected [first layer, layer behind the last], not {node.value!r}.")
    first, behind = map(whole_number, node.items())
    return first, behind


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
