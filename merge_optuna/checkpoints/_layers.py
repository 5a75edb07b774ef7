"""The blocks of a model – its numbered layers: found by name, some of them, several stacked.

Nothing is read or copied.
"""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from merge_optuna.checkpoints._files import Spec
from merge_optuna.checkpoints._store import DerivedStore, RenamedStore, Store
from merge_optuna.errors import CheckpointError, CheckpointMismatch, few

NUMBERED = re.compile(r"^(?:(?P<stack>.*?)\.)?(?P<index>[0-9]{1,9})\.(?P<rest>.+)$")
"""A tensor of a block: the prefix of its stack, its number, its name within the block."""

ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)

_EMBED = re.compile(
    r"emb(?!ed_out)|wte|wpe|position|cls_token|mask_token|patch|stem|shared|token_type|project_in"
    r"|\bconv\d?\b|feature_extractor|feature_projection|pre_layr?norm|projector|merger"
)
_USUAL = re.compile(r"(?:^|\.)(?:layers?|blocks?|h)$")
_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


@lru_cache(maxsize=64)
def find_stacks(names: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """The numbers of the blocks by the prefix of each stack of blocks.

    The stack with most tensors is the model's. Others that have attention too (encoder and
    decoder, the towers of a vision-language model) or that end in the same word count as well. A
    single block counts where there are no others and its prefix ends as is usual.
    """
    members: dict[str, set[int]] = defaultdict(set)
    sizes: dict[str, int] = defaultdict(int)
    attentive = set()
    for name in names:
        if match := NUMBERED.match(name):
            stack = match["stack"] or ""
            members[stack].add(int(match["index"]))
            sizes[stack] += 1
            if ATTENTION.search(match["rest"]):
                attentive.add(stack)
    found = [stack for stack in sorted(members) if len(members[stack]) > 1]
    found = found or [stack for stack in sorted(members) if _USUAL.search(stack)]
    if not found:
        return {}
    last_word = max(found, key=lambda stack: sizes[stack]).split(".")[-1]
    counted = [s for s in found if s in attentive or s.split(".")[-1] == last_word]
    return {stack: tuple(sorted(members[stack])) for stack in counted}


def block_of(name: str, found: dict[str, tuple[int, ...]]) -> tuple[str, int] | None:
    """Stack and number of the block that a tensor belongs to; None for what is in no block."""
    match = NUMBERED.match(name)
    if match is None or (match["stack"] or "") not in found:
        return None
    return match["stack"] or "", int(match["index"])


def renumbered(name: str, index: int) -> str:
    """The name of the same tensor in another block."""
    match = NUMBERED.match(name)
    assert match is not None
    return f"{name[: match.start('index')]}{index}{name[match.end('index') :]}"


def is_embedding(name: str) -> bool:
    """Whether a tensor that is in no block stands before the blocks, not behind them."""
    return _EMBED.search(name) is not None


class LayerStore(RenamedStore):
    """A checkpoint with some of its blocks, numbered from 0, and everything outside them.

    Args:
        whole: The checkpoint.
        start: The first block that is kept.
        stop: The first that is not; ``start`` for no block at all.

    Raises:
        CheckpointError: If it does not have such blocks.
    """

    def __init__(self, whole: Store, start: int, stop: int) -> None:
        stack, count = _the_stack(whole.specs())
        if not 0 <= start <= stop <= count:
            raise CheckpointError(
                f"There are no layers {start} to {stop} (exclusive) in a model that has {count}, "
                f"0 to {count - 1}."
            )
        self.has_layers = start < stop
        names: dict[str, str] = {}
        for name in whole.specs():
            block = block_of(name, {stack: ()})
            if block is None:
                names[name] = name
            elif start <= block[1] < stop:
                names[renumbered(name, block[1] - start)] = name
        said = whole.config
        config = None if said is None else _config_of_range(said, count, start, stop)
        super().__init__(whole, names, config)


class StackStore(DerivedStore):
    """The blocks of several checkpoints one after the other.

    What stands before the blocks is that of the first, what stands behind them that of the last.

    Attributes:
        origins: For each tensor which checkpoint it is from, and its name there.

    Args:
        parts: The checkpoints.
        names: How errors call them.
        dtype: Of all float tensors; that which each has when omitted.

    Raises:
        CheckpointError: If all of them are without blocks.
        CheckpointMismatch: If they are no parts of one model.
    """

    def __init__(
        self, parts: Sequence[Store], names: Sequence[str], dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(*parts)
        self._dtype = dtype
        self.origins: dict[str, tuple[int, str]] = {}
        if all(isinstance(part, LayerStore) and not part.has_layers for part in parts):
            raise CheckpointError(f"There is no layer in {', '.join(names)}: a model needs one.")
        if len(parts) == 1:
            self.origins = {name: (0, name) for name in parts[0].specs()}
            self.config = parts[0].config
            return
        _check_fit(parts, names)
        counts: list[int] = []
        for i, part in enumerate(parts):
            stacks, count = _stacks(part.specs())
            for name in part.specs():
                block = block_of(name, stacks)
                if block is not None:
                    self.origins[renumbered(name, block[1] + sum(counts))] = (i, name)
                elif i == (0 if is_embedding(name) else len(parts) - 1):
                    self.origins[name] = (i, name)
            counts.append(count)
        configs = [part.config for part in parts if part.config is not None]
        self.config = _config_of_stack(configs, counts) if len(configs) == len(parts) else None

    def _made(self, specs: list[Mapping[str, Spec]]) -> dict[str, Spec]:
        found = {name: specs[i][own] for name, (i, own) in self.origins.items()}
        return {name: (self._final(dtype), shape) for name, (dtype, shape) in found.items()}

    def tensor(self, name: str) -> Tensor:
        i, own = self.origins[name]
        tensor = self.parts[i].tensor(own)
        return tensor.to(self._final(tensor.dtype))

    def _final(self, dtype: torch.dtype) -> torch.dtype:
        return self._dtype if self._dtype is not None and dtype.is_floating_point else dtype


def depth_of(store: Store) -> int:
    """How many blocks a checkpoint has.

    Raises:
        CheckpointError: If they are not one stack.
    """
    return _the_stack(store.specs())[1]


def _the_stack(names: Iterable[str]) -> tuple[str, int]:
    """Prefix of the only stack of blocks, and how many blocks it has."""
    found = find_stacks(tuple(names))
    if len(found) != 1:
        stacks = f"several stacks of layers, {', '.join(found)}" if found else "no numbered layers"
        raise CheckpointError(f"Layers can be chosen from one stack of them; this has {stacks}.")
    [(stack, indices)] = found.items()
    if indices != tuple(range(len(indices))):
        raise CheckpointError(f"The layers of {stack} are not numbered from 0 on: {indices}.")
    return stack, len(indices)


def _stacks(names: Iterable[str]) -> tuple[dict[str, tuple[int, ...]], int]:
    """The stack of blocks, if there are any, as a pattern of names, and their number."""
    if not find_stacks(tuple(names)):
        return {}, 0
    stack, count = _the_stack(names)
    return {stack: ()}, count


def _check_fit(parts: Sequence[Store], names: Sequence[str]) -> None:
    """Whether the parts can stand in one model, as far as names and shapes tell."""
    first, last = parts[0], parts[-1]
    differing = sorted(_behind(first) ^ _behind(last))
    if differing:
        raise CheckpointMismatch(
            f"{names[0]!r} and {names[-1]!r} do not both have {few(differing)}, so the config of "
            f"the first does not fit the head of the last. Is one of them tied to its embedding?"
        )
    inside: dict[str, set[tuple[int, ...]]] = {}
    for part, name in zip(parts, names, strict=True):
        for tensor, shapes in _shapes(part).items():
            if tensor in inside and not shapes & inside[tensor]:
                raise CheckpointMismatch(
                    f"The layers of {name!r} do not fit on those of {names[0]!r}: {tensor} "
                    f"{sorted(shapes)} != {sorted(inside[tensor])}."
                )
            inside.setdefault(tensor, shapes)
    for part, name in zip(parts[1:], names[1:], strict=True):
        mine, theirs = ((p.config or {}).get("model_type") for p in (first, part))
        if mine != theirs:
            raise CheckpointMismatch(
                f"{name!r} is a {theirs}, {names[0]!r} a {mine}: their layers cannot be stacked."
            )


def _behind(part: Store) -> set[str]:
    """The tensors behind the blocks."""
    found = find_stacks(tuple(part.specs()))
    return {n for n in part.specs() if block_of(n, found) is None and not is_embedding(n)}


def _shapes(part: Store) -> dict[str, set[tuple[int, ...]]]:
    """The shapes that each tensor has within the blocks."""
    stacks, _ = _stacks(part.specs())
    found: dict[str, set[tuple[int, ...]]] = {}
    for name, (_, shape) in part.specs().items():
        if block_of(name, stacks) is not None:
            found.setdefault(renumbered(name, 0), set()).add(shape)
    return found


# -- configs ------------------------------------------------------------------------------


def _config_of_range(config: dict[str, Any], count: int, start: int, stop: int) -> dict[str, Any]:
    """The config with the number of layers and what it says of each layer."""

    def kept(key: str, value: list[Any]) -> list[Any]:
        if len(value) == count:
            return value[start:stop]
        return [i - start for i in value if start <= i < stop]

    made = copy.deepcopy(config)
    _rewrite(_level(made, count), count, stop - start, kept)
    return made


def _config_of_stack(configs: Sequence[dict[str, Any]], counts: Sequence[int]) -> dict[str, Any]:
    """The config of the first with the layers of all."""
    levels = [_level(config, count) for config, count in zip(configs, counts, strict=True)]

    def joined(key: str, value: list[Any]) -> list[Any]:
        lists = [level.get(key, []) for level in levels]
        if len(value) == counts[0]:
            return [entry for one in lists for entry in one]
        shifts = [sum(counts[:i]) for i in range(len(counts))]
        return [i + shift for one, shift in zip(lists, shifts, strict=True) for i in one]

    made = copy.deepcopy(configs[0])
    _rewrite(_level(made, counts[0]), counts[0], sum(counts), joined)
    return made


def _rewrite(
    level: dict[str, Any], count: int, new: int, rewritten: Callable[[str, list[Any]], list[Any]]
) -> None:
    """Sets the number of layers, and every list with an entry per layer or of layer numbers."""
    for key, value in level.items():
        if key in _COUNTS and value == count:
            level[key] = new
        elif isinstance(value, list) and "layer" in key:
            numbers = all(isinstance(entry, int) for entry in value)
            if len(value) == count or numbers:
                level[key] = rewritten(key, value)


def _level(config: dict[str, Any], count: int) -> dict[str, Any]:
    """The part of a config that says how many blocks there are: itself, or that of the text."""
    for level in (config, *(v for v in config.values() if isinstance(v, dict))):
        if any(level.get(key) == count for key in _COUNTS):
            return level
    raise CheckpointError(
        f"config.json does not say that there are {count} layers ({', '.join(_COUNTS)}), so it "
        "cannot be made to say another number."
    )
