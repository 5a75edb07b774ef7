"""Layer groups, detected from parameter names alone.

``layer`` groups are what evolutionary model merge uses (ALGORITHMS: Akiba et al., parameter
space): the input embedding, each transformer block, and everything behind the blocks.
"""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from merge_optuna._whole import whole
from merge_optuna.checkpoints import (
    ATTENTION,
    NUMBERED,
    block_of,
    find_stacks,
    is_embedding,
)
from merge_optuna.errors import RecipeError, few, shown

MOST_GROUPS = 10_000
"""Of layers, far above any model: what is above is a mistake, and would fill the memory."""

# Which stacks of blocks come first in a model of several, and which last.
_EARLIER = re.compile(r"encoder|vis|image|audio|speech")
_LATER = re.compile(r"decoder|up_block|single_")

_NORM = re.compile(r"norm|\bln|scale|lambda", re.IGNORECASE)
_MLP = re.compile(
    r"mlp|feed_?forward|ffn|\bff\b|pre_ff_|intermediate|output|moe|expert|fc_?(\d|in|out)"
    r"|DenseReluDense"
)
# Norms and scales at the first and at the second branch of a block.
_FIRST = re.compile(
    r"input_layernorm|ln_?1\b|layernorm_before|norm_?1\b|^layer_norm\b|^sa_layer_norm|scale_?1\b"
    r"|lambda_1"
)
_SECOND = re.compile(
    r"post_attention_layernorm|ln_?2\b|layernorm_after|norm_?2\b|final_layer_norm|scale_?2\b"
    r"|lambda_2"
)

_SEVERAL = re.compile(r"(.*\.)?\d+-\d+|d\d+")  # labels of a number of layers, and of depth(k)


@dataclass(frozen=True)
class Depth:
    """``points`` values spread evenly over the layers, interpolated linearly between them."""

    points: int

    def __post_init__(self) -> None:
        points = whole(self.points)
        if points is None or not 1 <= points <= MOST_GROUPS:
            raise RecipeError(
                f"mo.depth(k) needs at least one point, not {shown(self.points)}: a whole number "
                f"up to {MOST_GROUPS:,}."
            )
        object.__setattr__(self, "points", points)

    def __str__(self) -> str:
        return f"depth({self.points})"


Per = str | int | Depth


def depth(points: int) -> Depth:
    """Granularity for :func:`mo.free`: ``points`` values interpolated over the layers.

    The embedding has the value of the first layer, the head that of the last.
    """
    return Depth(points)


def parse_per(per: object) -> Per:
    """Returns a granularity from its written form, e.g. ``"layer"``, ``4``, ``"depth(5)"``.

    Raises:
        RecipeError: If it is none.
    """
    if isinstance(per, Depth) or per in ("model", "layer", "module", "tensor"):
        return per
    if (layers := whole(per)) is not None and 1 <= layers <= MOST_GROUPS:
        return layers
    if isinstance(per, str) and (match := re.fullmatch(r"depth\(([0-9]{1,9})\)", per)):
        return Depth(int(match[1]))
    raise RecipeError(
        f"per must be 'model', 'layer', a number of layers, 'module', 'tensor' or mo.depth(k), "
        f"not {shown(per)}."
    )


@dataclass(frozen=True)
class Grouping:
    """Which values a tensor takes part in.

    Attributes:
        labels: One per value, in order.
        shares: For each tensor name pairs (index of a label, coefficient); one pair with
            coefficient 1 unless values are interpolated.
    """

    labels: tuple[str, ...]
    shares: dict[str, tuple[tuple[int, float], ...]]


@dataclass(frozen=True)
class Layout:
    """The tensors that are merged, by name, and their groups.

    Attributes:
        names: Names of the tensors.
        whole: The layout that these are a part of; the part has the groups of the whole.
    """

    names: tuple[str, ...]
    whole: Layout | None = None
    _made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def grouping(self, per: Per) -> Grouping:
        """Groups the tensors by ``per``."""
        if self.whole is not None:
            return self.whole.grouping(per)
        if per not in self._made:
            self._made[per] = _grouping(self, per)
        found: Grouping = self._made[per]
        return found

    def used(self, per: Per) -> set[str]:
        """The labels of the groups that some of the tensors belong to."""
        if ("used", per) not in self._made:
            grouping = self.grouping(per)
            labels = {grouping.labels[i] for n in self.names for i, _ in grouping.shares[n]}
            self._made["used", per] = labels
        found: set[str] = self._made["used", per]
        return found

    def parts(self, patterns: tuple[str, ...]) -> tuple[Layout, ...]:
        """For each name filter the tensors for which it is the first that matches.

        Raises:
            RecipeError: If there are none for a filter other than ``"*"``.
        """
        if patterns not in self._made:
            self._made[patterns] = tuple(self._parts(patterns))
        found: tuple[Layout, ...] = self._made[patterns]
        return found

    def _parts(self, patterns: Sequence[str]) -> Iterator[Layout]:
        left = list(self.names)
        for pattern in patterns:
            own = tuple(name for name in left if matches(pattern, name))
            if not own and pattern != "*":
                raise RecipeError(
                    f"The filter {pattern!r} matches no merged tensor that an earlier filter "
                    f"leaves. The tensors are {few(self.names)}."
                )
            left = [name for name in left if not matches(pattern, name)]
            yield Layout(own, self)

    @cached_property
    def layers(self) -> dict[str, str]:
        """Layer label by tensor name: ``embed``, ``00``, ``01``, ..., ``head``."""
        found, stacks = find_stacks(self.names), _stacks(self.names)
        if not stacks:
            return _modules_as_layers(self.names)
        labels = {}
        for name in self.names:
            if (block := block_of(name, found)) is not None:
                labels[name] = stacks[block[0]].label(block[1])
            else:
                labels[name] = "embed" if is_embedding(name) else "head"
        return labels

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Layer labels from input to output."""
        found = dict.fromkeys(self.layers.values())
        inner = [label for label in found if label not in ("embed", "head")]
        if _stacks(self.names):
            inner.sort(key=lambda label: (_turn(label), label))
        ends = [["embed"] if "embed" in found else [], ["head"] if "head" in found else []]
        return tuple(ends[0] + inner + ends[1])

    def located(self, path: str) -> tuple[str, str]:
        """The layer that the path of a number is about, and what else is in it.

        Args:
            path: The end of a parameter's name, e.g. ``/07/mlp``.

        Returns:
            Label of the layer, of a tensor that of its own, of several layers and of a point of
            :func:`depth` their label; empty if it is none of them. The rest, e.g. ``/mlp``.
        """
        words = path.split("/")[1:]
        for i, word in enumerate(words):
            if word in self.layers:
                return self.layers[word], _path(words[:i])
            if word in self.order or _SEVERAL.fullmatch(word):
                return word, _path(words[:i] + words[i + 1 :])
        return "", path


def _path(words: Sequence[str]) -> str:
    return "".join(f"/{word}" for word in words)


def matches(pattern: str, name: str) -> bool:
    """Whether a name filter matches a tensor name."""
    if any(c in pattern for c in "*?["):
        return fnmatch.fnmatchcase(name, pattern)
    return pattern in name


def _grouping(layout: Layout, per: Per) -> Grouping:
    if per == "model":
        return Grouping(("",), dict.fromkeys(layout.names, ((0, 1.0),)))
    if per == "tensor":
        return _partition(layout.names, {name: name for name in layout.names}, layout.names)
    if isinstance(per, Depth):
        return _interpolated(layout, per.points)
    if isinstance(per, int):
        label_of = _consecutive(layout.order, per)
        labels = {name: label_of[layer] for name, layer in layout.layers.items()}
        return _partition(layout.names, labels, tuple(dict.fromkeys(label_of.values())))
    if per == "module":
        labels = _modules(layout.layers)
        rank = {layer: i for i, layer in enumerate(layout.order)}
        order = sorted(set(labels.values()), key=lambda label: (rank[label.split("/")[0]], label))
        return _partition(layout.names, labels, tuple(order))
    return _partition(layout.names, layout.layers, layout.order)


def _partition(names: Sequence[str], label_of: dict[str, str], labels: Sequence[str]) -> Grouping:
    index = {label: i for i, label in enumerate(labels)}
    return Grouping(tuple(labels), {name: ((index[label_of[name]], 1.0),) for name in names})


def _interpolated(layout: Layout, points: int) -> Grouping:
    inner = [label for label in layout.order if label not in ("embed", "head")]
    place = {label: i / max(1, len(inner) - 1) for i, label in enumerate(inner)}
    place |= {"embed": 0.0, "head": 1.0}
    shares = {}
    for name, layer in layout.layers.items():
        position = place[layer] * (points - 1)
        left = min(int(position), max(0, points - 2))
        right = position - left
        pairs = ((left, 1.0 - right), (left + 1, right))
        shares[name] = tuple((i, share) for i, share in pairs if share > 0)
    width = len(str(points - 1))
    return Grouping(tuple(f"d{i:0{width}}" for i in range(points)), shares)


def _consecutive(order: Sequence[str], k: int) -> dict[str, str]:
    """Runs of ``k`` layers of a stack share a label such as ``04-07``, ``encoder.04-07``.

    Embedding and head stay alone.
    """
    inner = [label for label in order if label not in ("embed", "head")]
    label_of = {label: label for label in order}
    for _, stack in itertools.groupby(inner, key=lambda label: label.rpartition(".")[0]):
        layers = list(stack)
        for start in range(0, len(layers), k):
            run = layers[start : start + k]
            last = run[-1].rpartition(".")[2]
            for label in run:
                label_of[label] = run[0] if len(run) == 1 else f"{run[0]}-{last}"
    return label_of


def _modules(layers: Mapping[str, str]) -> dict[str, str]:
    """Label of the module by tensor name: that of the layer with ``/attn``, ``/mlp`` or so."""
    labels = dict(layers)
    blocks: dict[str, dict[str, str]] = defaultdict(dict)
    for name, layer in layers.items():
        if layer not in ("embed", "head") and (match := NUMBERED.match(name)):
            blocks[layer][name] = match["rest"]
    for layer, rests in blocks.items():
        kinds = _kinds(list(rests.values()))
        labels |= {name: f"{layer}/{kinds[rest]}" for name, rest in rests.items() if kinds[rest]}
    return labels


def _kinds(rests: Sequence[str]) -> dict[str, str]:
    """``attn``, ``mlp``, or another part of a block, by the rest of a tensor's name in it.

    Norms and scales go with the branch at which they stand. Empty for a tensor of the block
    itself.
    """
    norms = [rest for rest in rests if _NORM.search(rest)]
    weights = {rest: _word(rest) or _part(rest) for rest in rests if rest not in norms}
    mixers = sorted(set(weights.values()) - {"", "mlp"})
    first = mixers[0] if len(mixers) == 1 else "attn"
    # Gemma 2 has norms before and after both branches, Llama one before each.
    post_is_first = any("feedforward_layernorm" in rest for rest in norms)
    kinds = dict(weights)
    for rest in norms:
        if "post_attention_layernorm" in rest:
            kinds[rest] = first if post_is_first else "mlp"
        else:
            by_place = first if _FIRST.search(rest) else "mlp" if _SECOND.search(rest) else ""
            kinds[rest] = _word(rest) or _siblings(rest, weights) or by_place or _part(rest)
    return kinds


def _word(rest: str) -> str:
    return "attn" if ATTENTION.search(rest) else "mlp" if _MLP.search(rest) else ""


def _part(rest: str) -> str:
    return rest.split(".")[0] if "." in rest else ""


def _siblings(rest: str, weights: Mapping[str, str]) -> str:
    """The kind of the weights in the module that a norm is in, if they have the same."""
    inside = "".join(f"{part}." for part in rest.split(".")[:-2])
    kinds = {kind for other, kind in weights.items() if other.startswith(inside)}
    return kinds.pop() if len(kinds) == 1 else ""


@dataclass(frozen=True)
class _Stack:
    """A stack of blocks.

    Attributes:
        title: Before the number in labels, e.g. ``decoder.``; empty if there is one stack.
        width: Digits of the number.
    """

    title: str
    width: int

    def label(self, index: int) -> str:
        return f"{self.title}{index:0{self.width}}"


@lru_cache(maxsize=64)
def _stacks(names: tuple[str, ...]) -> dict[str, _Stack]:
    """The stacks of blocks by the prefix of their names."""
    found = find_stacks(names)
    return {
        stack: _Stack(_title(stack, list(found)), max(2, len(str(max(indices)))))
        for stack, indices in found.items()
    }


def _title(stack: str, stacks: Sequence[str]) -> str:
    """What tells a stack from the others, e.g. ``decoder.`` of ``model.decoder.layers``."""
    if len(stacks) == 1:
        return ""
    paths = [other.split(".") for other in stacks]
    levels = zip(*paths, strict=False)
    common = sum(1 for _ in itertools.takewhile(lambda parts: len(set(parts)) == 1, levels))
    path = stack.split(".")[common:]
    others = [other[common:] for other in paths if ".".join(other) != stack]
    length = next(
        (n for n in range(1, len(path)) if all(o[:n] != path[:n] for o in others)), len(path)
    )
    return ".".join(path[:length] or [stack]) + "."


def _turn(label: str) -> int:
    """Where a stack comes in a model of several: encoders and towers, the model, decoders."""
    return 2 if _LATER.search(label) else 0 if _EARLIER.search(label) else 1


def _modules_as_layers(names: Sequence[str]) -> dict[str, str]:
    """For a model without numbered blocks: each module below the common prefix is a layer."""
    split = [name.split(".") for name in names]
    common = 0
    while all(len(parts) > common + 2 for parts in split) and (
        len({parts[common] for parts in split}) == 1
    ):
        common += 1
    return {name: parts[common] for name, parts in zip(names, split, strict=True)}
