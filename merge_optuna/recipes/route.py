"""Layer paths: through which layers of which models a forward pass goes, and how strongly.

Akiba et al.: Evolutionary Optimization of Model Merging Recipes, arXiv 2403.13187, §3.2 (merging
in the data flow space).
"""

from __future__ import annotations

import itertools
import math
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np

from merge_optuna._whole import whole
from merge_optuna.checkpoints import Checkpoint
from merge_optuna.errors import CheckpointMismatch, RecipeError, few, shown
from merge_optuna.recipes._belonging import check_configs, check_vocabularies

ScaleTarget = Literal["branch", "stream"]

_HOP = re.compile(
    r"(?P<model>[A-Z])(?:(?P<layer>[0-9]{1,6})(?:[×*](?P<scale>\S+))?"
    r"|\[(?P<from>[0-9]{1,6}):(?P<to>[0-9]{1,6})\])"
)
MOST_HOPS = 4096
_MODELS = range(len(string.ascii_uppercase))
_LAYERS = range(10**6)
_MOST_CHARACTERS = 2_000_000  # of a path of so many hops
_OPTIONS: dict[str, Any] = {"scale_target": "branch", "embeddings_from": 0, "head_from": 0}
_SEPARATOR = re.compile(r"\s*(?<![eE×*])-\s*|\s+")  # a scale may be 1e-5


class Hop(NamedTuple):
    """One layer on a path.

    Attributes:
        model: Number of the model.
        layer: Number of the layer in that model.
        scale: What is scaled by it says the path's ``scale_target``; above 0.
    """

    model: int
    layer: int
    scale: float = 1.0


@dataclass(frozen=True)
class Route:
    """A path through the layers of some models of one architecture.

    Attributes:
        hops: The layers in the order in which they are executed; they may repeat.
        scale_target: What scale w of a hop is about: ``"stream"``, the whole input of its layer,
            or ``"branch"``, what the layer before adds at its end (of the first hop, the
            embedding).
        embeddings_from: Number of the model that embedding, config and tokenizer are of.
        head_from: Number of the model that the final norm and the head are of.
    """

    hops: tuple[Hop, ...]
    scale_target: ScaleTarget = "branch"
    embeddings_from: int = 0
    head_from: int = 0

    def __post_init__(self) -> None:
        if not self.hops:
            raise RecipeError("The path is empty: it needs at least one layer, e.g. 'A0'.")
        _check_length(len(self.hops))
        if self.scale_target not in get_args(ScaleTarget):
            raise RecipeError(
                f"scale_target must be 'branch' or 'stream', not {self.scale_target!r}."
            )
        object.__setattr__(self, "hops", tuple(map(_checked, self.hops)))
        for name in ("embeddings_from", "head_from"):
            if (number := whole(getattr(self, name))) is not None:  # else see :meth:`check`
                object.__setattr__(self, name, number)
        for hop in self.hops:
            if not 0 < hop.scale < math.inf:
                raise RecipeError(
                    f"The scale of layer {_text(hop)} must be a number above 0, not {hop.scale}."
                )

    @classmethod
    def parse(cls, text: str, scale_target: ScaleTarget = "branch", **ends: int) -> Self:
        """The path of a text: ``A0-A1-B1×0.8-A2``, or with ranges, ``A[0:16] B[8:24]``.

        A letter is a model, A the first; ``*`` is as good as ``×``; a range ends before its second
        number.

        Args:
            text: The hops.
            scale_target: See the class.
            ends: ``embeddings_from`` and ``head_from``, see the class.

        Raises:
            RecipeError: If the text is no path.
        """
        if not isinstance(text, str):
            raise RecipeError(f"{shown(text)} is no path, e.g. 'A[0:16] B[8:24]'.")
        if len(text) > _MOST_CHARACTERS:
            raise RecipeError(
                f"A path may have {MOST_HOPS:,} layers, and this is a text of {len(text):,} "
                "characters."
            )
        hops: list[Hop] = []
        for word in filter(None, _SEPARATOR.split(text.strip())):
            found = _HOP.fullmatch(word)
            if found is None:
                raise RecipeError(
                    f"{shown(word)} in the path {shown(text)} is no layer (A0, B7×0.8) and no "
                    "range of layers (A[0:16], without a scale)."
                )
            model = string.ascii_uppercase.index(found["model"])
            if found["layer"] is None:
                layers = range(int(found["from"]), int(found["to"]))
                if not layers:
                    raise RecipeError(f"The range {word!r} of the path is empty.")
                _check_length(len(hops) + len(layers))
                hops += [Hop(model, layer) for layer in layers]
            else:
                hops.append(Hop(model, int(found["layer"]), _number(found["scale"], word)))
        return cls(tuple(hops), scale_target, **ends)

    @classmethod
    def from_data(cls, data: str | Mapping[str, Any]) -> Self:
        """Inverse of :meth:`to_data`.

        Raises:
            RecipeError: If it is none.
        """
        options = {"hops": data} if isinstance(data, str) else dict(data)
        if not isinstance(text := options.pop("hops", None), str) or options.keys() - _OPTIONS:
            raise RecipeError(f"Not a layer path: {data}. Expected hops, {', '.join(_OPTIONS)}.")
        return cls.parse(text, **options)

    def to_data(self) -> str | dict[str, Any]:
        """As a text, or as a text and the options that differ from their defaults."""
        text = str(self).replace("×", "*")
        values = {name: getattr(self, name) for name in _OPTIONS}
        options = {name: value for name, value in values.items() if value != _OPTIONS[name]}
        return {"hops": text, **options} if options else text

    def through(self, hops: Sequence[Hop]) -> Self:
        """The path through other layers, everything else the same."""
        return replace(self, hops=tuple(hops))

    @property
    def is_scaled(self) -> bool:
        """Whether any scale is another than 1."""
        return any(hop.scale != 1 for hop in self.hops)

    @property
    def models(self) -> tuple[int, ...]:
        """Numbers of the models: of the embedding, of each hop, of the head."""
        return (self.embeddings_from, *(hop.model for hop in self.hops), self.head_from)

    def check(self, models: Sequence[str], depths: Sequence[int]) -> None:
        """Checks that there are the models and layers that it goes through.

        Args:
            models: Their names.
            depths: How many layers each has.

        Raises:
            RecipeError: If not.
        """
        for number in self.models:
            if whole(number) is None or not 0 <= number < len(models):
                known = ", ".join(f"{i} ({string.ascii_uppercase[i]})" for i in range(len(models)))
                raise RecipeError(f"The path wants model {number!r}; there are {known}.")
        for hop in self.hops:
            if not hop.layer < depths[hop.model]:
                raise RecipeError(
                    f"The path {self} wants layer {hop.layer} of {models[hop.model]!r}, which has "
                    f"{depths[hop.model]}, 0 to {depths[hop.model] - 1}."
                )

    def __str__(self) -> str:
        """``A0-A1-B1×0.8-A2``; what :meth:`parse` reads, to the last digit."""
        return format(self)

    def __format__(self, digits: str) -> str:
        """The same, with scales in few digits: ``f"{path:.2f}"``."""
        return "-".join(_text(hop, digits) for hop in self.hops)

    @property
    def factors(self) -> list[tuple[float, float]]:
        """For a pre-norm model: what each hop's attention and feed-forward branch is scaled by.

        With these the network is the one with scales, up to the ε of its norms: a norm undoes a
        factor of its whole input, so instead of h the pass may carry h / s. For ``"stream"`` s is
        the product of the scales so far, and both branches are divided by it. For ``"branch"`` it
        is the scale of the first hop, which is that of the embedding.
        """
        scales = [hop.scale for hop in self.hops]
        if self.scale_target == "stream":
            return [(1 / s, 1 / s) for s in itertools.accumulate(scales, lambda a, b: a * b)]
        first = scales[0]
        return [(1 / first, after / first) for after in (*scales[1:], 1.0)]


# -- scales -------------------------------------------------------------------------------


class Branches(NamedTuple):
    """The modules of an architecture that scales are folded into, by a part of their name.

    Attributes:
        attention: The projection that ends the attention.
        feed_forward: The projection that ends the layer.
        reads: The weights of what reads the input of a layer, if no norm comes before it
            (post-norm).
        embedding: What ends the embedding there.
    """

    attention: str
    feed_forward: str
    reads: tuple[str, ...] = ()
    embedding: str | None = None

    def factors(self, way: Route) -> list[dict[str, float]]:
        """For each hop, what the modules of its layer are multiplied by.

        Pre-norm: these are the factors of :attr:`Route.factors`. Post-norm: a norm follows
        each sum, so nothing is carried on. LN(w h + A(w h)) is LN(h + A(w h) / w): the attention
        reads w h, and its result is divided.
        """
        if not self.reads:
            return [
                {self.attention: attention, self.feed_forward: feed_forward}
                for attention, feed_forward in way.factors
            ]
        scales = [hop.scale for hop in way.hops]
        if way.scale_target == "stream":
            return [{**dict.fromkeys(self.reads, w), self.attention: 1 / w} for w in scales]
        # The name of the attention's projection also has that of the other one in it.
        return [{self.attention: 1.0, self.feed_forward: after} for after in (*scales[1:], 1.0)]

    def embedding_factor(self, way: Route) -> float:
        """What the end of the embedding is multiplied by; 1 for pre-norm models."""
        return way.hops[0].scale if self.embedding and way.scale_target == "branch" else 1.0


_LLAMA = Branches("self_attn.o_proj", "mlp.down_proj")
_BERT = Branches(
    "attention.output.dense",
    "output.dense",
    tuple(f"attention.self.{name}.weight" for name in ("query", "key", "value")),
    "embeddings.LayerNorm",
)
SCALED = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), _LLAMA),
    "gpt2": Branches("attn.c_proj", "mlp.c_proj"),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta"), _BERT),
}
"""The architectures whose paths can have scales, by their ``model_type``."""


# -- pieces -------------------------------------------------------------------------------


class Piece(NamedTuple):
    """Consecutive layers of one model on a path.

    Attributes:
        model: Number of the model.
        start: The first layer.
        stop: The one behind the last; ``start`` for what is outside of the layers.
        factors: What modules are multiplied by, by a part of the names of their tensors.
    """

    model: int
    start: int
    stop: int
    factors: Mapping[str, float]

    def factor(self, name: str) -> float:
        """What a tensor is multiplied by."""
        return next((f for part, f in self.factors.items() if part in name), 1.0)


def pieces(way: Route, models: Sequence[Checkpoint]) -> list[Piece]:
    """What a path is made of, the pieces for embedding and head included.

    Raises:
        RecipeError: If there is a scale, and the architecture is none that can be scaled.
    """
    kind = (models[0].config or {}).get("model_type")
    if way.is_scaled and kind not in SCALED:
        raise RecipeError(
            f"The layers of {models[0].name!r}, a {kind}, cannot have scales; those of "
            f"{', '.join(SCALED)} can. Leave the scales out."
        )
    found = _scaled(way, SCALED[str(kind)]) if way.is_scaled else _runs(way.hops)
    if found[0].model != way.embeddings_from:
        found = [Piece(way.embeddings_from, 0, 0, {}), *found]
    if found[-1].model != way.head_from:
        found = [*found, Piece(way.head_from, 0, 0, {})]
    return found


def check_fit(way: Route, models: Sequence[Checkpoint]) -> None:
    """Checks that a path can go through layers of all the models, and end in its head.

    Raises:
        CheckpointMismatch: Naming what differs.
    """
    check_layers(models)
    ends = models[way.embeddings_from], models[way.head_from]
    for key in ("vocab_size", "id2label"):
        one, other = ((end.config or {}).get(key) for end in ends)
        if one != other and None not in (one, other):
            raise CheckpointMismatch(
                f"The embedding is that of {ends[0].name!r} and the head that of "
                f"{ends[1].name!r}, whose {key} are {one} and {other}. Take both from one of "
                "them: embeddings_from= and head_from=."
            )
    check_vocabularies(ends[0], ends[1:], ends[0].names())


def check_layers(models: Sequence[Checkpoint]) -> None:
    """Checks that layers of models can be on one path: it has the config of one of them.

    Raises:
        CheckpointMismatch: Naming what differs.
    """
    first, *others = models
    check_configs(first, others, stacked=True)
    for model in others:
        shapes = _of_first_layer(model).items() ^ _of_first_layer(first).items()
        if shapes:
            differing = sorted({name for name, _ in shapes})
            raise CheckpointMismatch(
                f"The layers of {model.name!r} and {first.name!r} cannot be on one path: their "
                f"shapes differ in {few(differing)}."
            )


def _of_first_layer(model: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a layer."""
    one, none = model.layers(0, 1), model.layers(0, 0)
    return {n: one.shape(n) for n in one.names() if n not in none.store.specs()}


def _scaled(way: Route, branches: Branches) -> list[Piece]:
    """Every hop, with its factors."""
    found = [
        Piece(hop.model, hop.layer, hop.layer + 1, factors)
        for hop, factors in zip(way.hops, branches.factors(way), strict=True)
    ]
    if branches.embedding is None:
        return found
    embedding = {branches.embedding: branches.embedding_factor(way)}
    if found[0].model != way.embeddings_from:
        return [Piece(way.embeddings_from, 0, 0, embedding), *found]
    return [found[0]._replace(factors={**embedding, **found[0].factors}), *found[1:]]


def _runs(hops: Sequence[Hop]) -> list[Piece]:
    """Every run of consecutive layers."""
    runs: list[Piece] = []
    for hop in hops:
        if runs and (runs[-1].model, runs[-1].stop) == hop[:2]:
            runs[-1] = runs[-1]._replace(stop=hop.layer + 1)
        else:
            runs.append(Piece(hop.model, hop.layer, hop.layer + 1, {}))
    return runs


def _check_length(hops: int) -> None:
    if hops > MOST_HOPS:
        raise RecipeError(f"A path may have {MOST_HOPS:,} layers, this one has {hops:,}.")


def _checked(hop: Hop) -> Hop:
    """A hop whose numbers are such that its text can be read back."""
    if isinstance(hop, Hop):
        is_scale = isinstance(hop.scale, Real) and not isinstance(hop.scale, bool)
        if is_scale and whole(hop.model) in _MODELS and whole(hop.layer) in _LAYERS:
            return Hop(int(hop.model), int(hop.layer), hop.scale)
    raise RecipeError(
        f"{shown(hop)} is no layer of a path: mo.recipes.Hop(model, layer, scale), of models from "
        "0 to 25."
    )


def _text(hop: Hop, digits: str = "") -> str:
    number = np.format_float_positional(hop.scale, trim="-")  # Python's has exponents
    scale = "" if hop.scale == 1 else f"×{format(hop.scale, digits) if digits else number}"
    return f"{string.ascii_uppercase[hop.model]}{hop.layer}{scale}"


def _number(text: str | None, word: str) -> float:
    try:
        return 1.0 if text is None else float(text)
    except ValueError:
        raise RecipeError(f"{text!r} in {word!r} is no number to scale by.") from None
