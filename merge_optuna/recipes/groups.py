"""Layer groups, detected from parameter names alone.

``layer`` groups are what evolutionary model merge uses (ALGORITHMS: Akiba et al., parameter
space): the input embedding, each transformer block, and everything behind the blocks.
"""

from __future__ import annotations

import fnmatch
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from merge_optuna.errors import RecipeError, few

_NUMBERED = re.compile(r"^(?:(?P<stack>.*?)\.)?(?P<index>\d+)\.(?P<rest>.+)$")
_EMBED = re.compile(
    r"emb(?!ed_out)|wte|wpe|position|cls_token|mask_token|patch|stem|shared|token_type"
)
_ATTENTION = re.compile(
    r"attn|attention|input_layernorm|ln_1\b|layernorm_before|norm1\b|self_attn_layer_norm"
)
_MLP = re.compile(
    r"mlp|feed_?forward|ffn|intermediate|output|moe|expert|fc\d|DenseReluDense"
    r"|post_attention_layernorm|ln_2\b|layernorm_after|norm2\b|final_layer_norm"
)


@dataclass(frozen=True)
class Depth:
    """``points`` values spread evenly over the layers, interpolated linearly between them."""

    points: int

    def __post_init__(self) -> None:
        if self.points < 1:
            raise RecipeError(f"mo.depth(k) needs at least one point, not {self.points}.")

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
    if isinstance(per, int) and not isinstance(per, bool) and per >= 1:
        return per
    if isinstance(per, str) and (match := re.fullmatch(r"depth\((\d+)\)", per)):
        return Depth(int(match[1]))
    raise RecipeError(
        f"per must be 'model', 'layer', a number of layers, 'module', 'tensor' or mo.depth(k), "
        f"not {per!r}."
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
        grouping = self.grouping(per)
        return {grouping.labels[i] for name in self.names for i, _ in grouping.shares[name]}

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
        stacks = _stacks(self.names)
        if not stacks:
            return _modules_as_layers(self.names)
        labels = {}
        for name in self.names:
            match = _NUMBERED.match(name)
            if match and (match["stack"] or "") in stacks:
                labels[name] = stacks[match["stack"] or ""].format(int(match["index"]))
            else:
                labels[name] = "embed" if _EMBED.search(name) else "head"
        return labels

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Layer labels from input to output."""
        found = dict.fromkeys(self.layers.values())
        inner = [label for label in found if label not in ("embed", "head")]
        if _stacks(self.names):
            inner.sort(key=lambda label: ("decoder" in label, label))
        ends = [["embed"] if "embed" in found else [], ["head"] if "head" in found else []]
        return tuple(ends[0] + inner + ends[1])


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
        labels = {name: _module(name, layer) for name, layer in layout.layers.items()}
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
    """Runs of ``k`` layers share a label such as ``04-07``; embedding and head stay alone."""
    inner = [label for label in order if label not in ("embed", "head")]
    label_of = {label: label for label in order}
    for start in range(0, len(inner), k):
        run = inner[start : start + k]
        for label in run:
            label_of[label] = run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}"
    return label_of


def _module(name: str, layer: str) -> str:
    match = _NUMBERED.match(name)
    if layer in ("embed", "head") or match is None:
        return layer
    rest = match["rest"]
    if re.search(r"post_attention_layernorm", rest):
        return f"{layer}/mlp"
    if _ATTENTION.search(rest):
        return f"{layer}/attn"
    if _MLP.search(rest):
        return f"{layer}/mlp"
    return f"{layer}/{rest.split('.')[0]}" if "." in rest else layer


@lru_cache(maxsize=64)
def _stacks(names: tuple[str, ...]) -> dict[str, str]:
    """Format of the layer labels by the prefix of each stack of blocks.

    The stack with most tensors is the model's; others that end in the same word (the encoder and
    decoder of a sequence-to-sequence model) count as well, with that part in their labels.
    """
    members: dict[str, set[int]] = defaultdict(set)
    sizes: dict[str, int] = defaultdict(int)
    for name in names:
        if match := _NUMBERED.match(name):
            members[match["stack"] or ""].add(int(match["index"]))
            sizes[match["stack"] or ""] += 1
    stacks = [stack for stack in sorted(members) if len(members[stack]) > 1]
    if not stacks:
        return {}
    main = max(stacks, key=lambda stack: sizes[stack])
    twins = [s for s in stacks if s.split(".")[-1] == main.split(".")[-1]]
    formats = {}
    for stack in twins:
        width = max(2, len(str(max(members[stack]))))
        prefix = "" if len(twins) == 1 else ".".join(stack.split(".")[:-1]) + "."
        formats[stack] = prefix.replace("{", "").replace("}", "") + f"{{:0{width}}}"
    return formats


def _modules_as_layers(names: Sequence[str]) -> dict[str, str]:
    """For a model without numbered blocks: each module below the common prefix is a layer."""
    split = [name.split(".") for name in names]
    common = 0
    while all(len(parts) > common + 2 for parts in split) and (
        len({parts[common] for parts in split}) == 1
    ):
        common += 1
    return {name: parts[common] for name, parts in zip(names, split, strict=True)}
