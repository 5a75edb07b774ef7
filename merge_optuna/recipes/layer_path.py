"""Layer paths: through which layers of which models a forward pass goes, and how strongly.

Akiba et al.: Evolutionary Optimization of Model Merging Recipes, arXiv 2403.13187, §3.2 (merging
in the data flow space).
"""

from __future__ import annotations

import itertools
import math
import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.errors import RecipeError
from merge_optuna.recipes._structure import frame_of
from merge_optuna.recipes._tree import Recipe, check_sources, merge

ScaleTarget = Literal["branch", "stream"]

_HOP = re.compile(
    r"(?P<model>[A-Z])(?:(?P<layer>\d+)(?:[×*](?P<scale>[^\s-]+))?|\[(?P<from>\d+):(?P<to>\d+)\])"
)
_SEPARATOR = re.compile(r"\s*-\s*|\s+")


class Hop(NamedTuple):
    """One layer on a path.

    Attributes:
        model: Number of the model.
        layer: Number of the layer in that model.
        scale: What is scaled by it says the path's ``target``; above 0.
    """

    model: int
    layer: int
    scale: float = 1.0


@dataclass(frozen=True)
class LayerPath:
    """A path through the layers of some models of one architecture.

    Attributes:
        hops: The layers in the order in which they are executed; they may repeat.
        target: What scale w of a hop is about: ``"stream"``, the whole input of its layer, or
            ``"branch"``, what the layer before adds at its end (of the first hop, the embedding).
    """

    hops: tuple[Hop, ...]
    target: ScaleTarget = "branch"

    def __post_init__(self) -> None:
        if not self.hops:
            raise RecipeError("The path is empty: it needs at least one layer, e.g. 'A0'.")
        if self.target not in get_args(ScaleTarget):
            raise RecipeError(f"scale_target must be 'branch' or 'stream', not {self.target!r}.")
        for hop in self.hops:
            if not 0 < hop.scale < math.inf:
                raise RecipeError(
                    f"The scale of layer {_text(hop)} must be a number above 0, not {hop.scale}."
                )

    @classmethod
    def parse(cls, text: str, target: ScaleTarget = "branch") -> Self:
        """The path of a text: ``A0-A1-B1×0.8-A2``, or with ranges, ``A[0:16] B[8:24]``.

        A letter is a model, A the first; ``*`` is as good as ``×``; a range ends before its second
        number.

        Raises:
            RecipeError: If the text is no path.
        """
        hops: list[Hop] = []
        for word in filter(None, _SEPARATOR.split(text.strip())):
            found = _HOP.fullmatch(word)
            if found is None:
                raise RecipeError(
                    f"{word!r} in the path {text!r} is no layer (A0, B7×0.8) and no range of "
                    "layers (A[0:16])."
                )
            model = string.ascii_uppercase.index(found["model"])
            if found["layer"] is None:
                layers = range(int(found["from"]), int(found["to"]))
                if not layers:
                    raise RecipeError(f"The range {word!r} of the path is empty.")
                hops += [Hop(model, layer) for layer in layers]
            else:
                hops.append(Hop(model, int(found["layer"]), _number(found["scale"], word)))
        return cls(tuple(hops), target)

    def __str__(self) -> str:
        """``A0-A1-B1×0.8-A2``; what :meth:`parse` reads, to the last digit."""
        return "-".join(map(_text, self.hops))

    @property
    def factors(self) -> list[tuple[float, float]]:
        """For a pre-norm model: what each hop's attention and feed-forward branch is scaled by.

        With these the network is the one with scales, up to the ε of its norms: a norm undoes a
        factor of its whole input, so instead of h the pass may carry h / s. For ``"stream"`` s is
        the product of the scales so far, and both branches are divided by it. For ``"branch"`` it
        is the scale of the first hop, which is that of the embedding.
        """
        scales = [hop.scale for hop in self.hops]
        if self.target == "stream":
            return [(1 / s, 1 / s) for s in itertools.accumulate(scales, lambda a, b: a * b)]
        first = scales[0]
        return [(1 / first, after / first) for after in (*scales[1:], 1.0)]


def path(
    text: str | LayerPath,
    models: Sequence[Checkpoint | Recipe],
    *,
    scale_target: ScaleTarget = "branch",
    embeddings_from: int = 0,
    head_from: int = 0,
    name: str | None = None,
) -> Recipe:
    """A model whose forward pass goes through chosen layers of several models, with scales.

    What is written is an ordinary model of the same architecture, with as many layers as the path
    has hops: the scales are folded into the projections that end a layer's attention and its
    feed-forward part. Paths without scales are "Frankenmerges", for every architecture with one
    stack of layers; with scales there are those of :data:`SCALED`.

    Args:
        text: ``"A0-A1-B1×0.8-A2"``, or with ranges, ``"A[0:16] B[8:24]"``; letters are the models
            in their order. Or a :class:`LayerPath`, which has a target of its own.
        models: Of one architecture and width; their depths may differ.
        scale_target: What a scale is about; see :class:`LayerPath`.
        embeddings_from: Number of the model whose embedding, config and tokenizer it has.
        head_from: Number of the model whose final norm and head it has.
        name: Prefix of parameter names inside another recipe.

    Raises:
        RecipeError: If the text is no path, there is no such model or layer, or the architecture
            is none that can be scaled.
        CheckpointMismatch: If the layers do not fit together.

    Example:
        >>> mo.recipes.path("A[0:16] B[8:24]", [a, b])
    """
    check_sources("path", None, models)
    way = text if isinstance(text, LayerPath) else LayerPath.parse(text, scale_target)
    check_numbers((embeddings_from, head_from, *(hop.model for hop in way.hops)), models)
    whole = [_checkpoint(model) for model in models]
    parts, scales = _pieces(way, whole)
    embedding = _embedding_scale(way, whole[embeddings_from])
    if way.hops[0].model != embeddings_from or embedding != 1:
        parts, scales = [whole[embeddings_from].layers(0, 0), *parts], [embedding, *scales]
    if way.hops[-1].model != head_from:
        parts, scales = [*parts, whole[head_from].layers(0, 0)], [*scales, 1.0]
    return merge("passthrough", None, parts, {"scale": scales}, name=name)


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

    def factors(self, way: LayerPath) -> list[dict[str, float]]:
        """For each hop, what the modules of its layer are multiplied by.

        Pre-norm: these are the factors of :attr:`LayerPath.factors`. Post-norm: a norm follows
        each sum, so nothing is carried on. LN(w h + A(w h)) is LN(h + A(w h) / w): the attention
        reads w h, and its result is divided.
        """
        if not self.reads:
            return [
                {self.attention: attention, self.feed_forward: feed_forward}
                for attention, feed_forward in way.factors
            ]
        scales = [hop.scale for hop in way.hops]
        if way.target == "stream":
            return [{**dict.fromkeys(self.reads, w), self.attention: 1 / w} for w in scales]
        # The name of the attention's projection also has that of the other one in it.
        return [{self.attention: 1.0, self.feed_forward: after} for after in (*scales[1:], 1.0)]

    def embedding_factor(self, way: LayerPath) -> float:
        """What the end of the embedding is multiplied by; 1 for pre-norm models."""
        return way.hops[0].scale if self.embedding and way.target == "branch" else 1.0


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


def _pieces(way: LayerPath, whole: Sequence[Checkpoint]) -> tuple[list[Checkpoint], list[Any]]:
    """The pieces of models that a path is made of, and the scale of the tensors of each."""
    if all(hop.scale == 1 for hop in way.hops):
        parts = [whole[model].layers(first, last + 1) for model, first, last in _runs(way.hops)]
        return parts, [1.0] * len(parts)
    kind = (whole[0].config or {}).get("model_type")
    if kind not in SCALED:
        raise RecipeError(
            f"The layers of {whole[0].name!r}, a {kind}, cannot have scales; those of "
            f"{', '.join(SCALED)} can. Leave the scales out."
        )
    singles = [whole[hop.model].layers(hop.layer, hop.layer + 1) for hop in way.hops]
    return singles, [_by_name(factors) for factors in SCALED[kind].factors(way)]


def _embedding_scale(way: LayerPath, model: Checkpoint) -> dict[str, float] | float:
    """Of the tensors in front of the layers."""
    branches = SCALED.get((model.config or {}).get("model_type", ""))
    if branches is None or branches.embedding is None:
        return 1.0
    return _by_name({branches.embedding: branches.embedding_factor(way)})


def _by_name(factors: dict[str, float]) -> dict[str, float] | float:
    return {**factors, "*": 1.0} if any(value != 1 for value in factors.values()) else 1.0


# -- hops ---------------------------------------------------------------------------------


def check_numbers(numbers: Iterable[int], models: Sequence[Any]) -> None:
    """Checks that there are the models that a path wants.

    Raises:
        RecipeError: If not.
    """
    for number in numbers:
        if not 0 <= number < len(models):
            raise RecipeError(
                f"The path wants model {string.ascii_uppercase[number % 26]}, number {number}; "
                f"there are {len(models)}, the first is A."
            )


def _runs(hops: Sequence[Hop]) -> list[tuple[int, int, int]]:
    """Model, first and last layer of every run of consecutive layers."""
    runs: list[tuple[int, int, int]] = []
    for hop in hops:
        if runs and runs[-1][0] == hop.model and runs[-1][2] + 1 == hop.layer:
            runs[-1] = (hop.model, runs[-1][1], hop.layer)
        else:
            runs.append((hop.model, hop.layer, hop.layer))
    return runs


def _checkpoint(model: Checkpoint | Recipe) -> Checkpoint:
    if isinstance(model, Checkpoint):
        return model
    raise RecipeError(
        f"A path goes through the layers of checkpoints, and {frame_of(model).name!r} is of a "
        "recipe. Write that to a folder first: mo.write(recipe, folder)."
    )


def _text(hop: Hop) -> str:
    scale = "" if hop.scale == 1 else f"×{np.format_float_positional(hop.scale, trim='-')}"
    return f"{string.ascii_uppercase[hop.model]}{hop.layer}{scale}"


def _number(text: str | None, word: str) -> float:
    try:
        return 1.0 if text is None else float(text)
    except ValueError:
        raise RecipeError(f"{text!r} in {word!r} is no number to scale by.") from None
