"""The blocks of a model – its numbered layers – found from the names of its tensors."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import lru_cache

NUMBERED = re.compile(r"^(?:(?P<stack>.*?)\.)?(?P<index>[0-9]{1,9})\.(?P<rest>.+)$")
"""A tensor of a block: the prefix of its stack, its number, its name within the block."""

ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)

_EMBED = re.compile(
    r"emb(?!ed_out)|wte|wpe|position|cls_token|mask_token|patch|stem|shared|token_type|project_in"
    r"|\bconv\d?\b|feature_extractor|feature_projection|pre_layr?norm|projector|merger"
)
_USUAL = re.compile(r"(?:^|\.)(?:layers?|blocks?|h)$")


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
