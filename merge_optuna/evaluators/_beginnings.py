"""Runs of tokens that begin alike: what a decoder has read once, it need not read again."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from merge_optuna.evaluators._arguments import Arguments, place_of, placed, running
from merge_optuna.evaluators._serving import Model

_TOKENS_OF_A_CALL = 32  # so many more tokens cost about as much as running the model once more


class Window(NamedTuple):
    """A run of tokens, the last ones of which are scored."""

    tokens: list[int]  # what a decoder predicts, after what it is given before
    scored: int  # how many at the end count, for a decoder at most all but the first
    source: Sequence[int] = ()  # what an encoder reads


@dataclass(frozen=True)
class Beginning:
    """What a decoder has read of each row.

    Attributes:
        cache: Its keys and values, a ``transformers.DynamicCache``.
        mask: Which places in it are tokens, shape (rows, places).
        lengths: Tokens of each row.
    """

    cache: Any
    mask: Tensor
    lengths: list[int]

    def rows(self, index: Sequence[int]) -> Beginning:
        """Some rows, each as often as it is named; the cache itself is changed."""
        chosen = torch.tensor(index)
        self.cache.batch_select_indices(chosen)
        return Beginning(self.cache, self.mask[chosen], [self.lengths[i] for i in index])


def beginning(model: nn.Module, groups: Sequence[Sequence[Window]]) -> Beginning | None:
    """What the windows have in common, read once: all of them, then those of each group.

    None where a model cannot go on from there, or where it would not be cheaper.
    """
    if not _goes_on(model):
        return None
    common, own = _plan(groups)
    after = None
    if common:
        after = _read(model, [groups[0][0].tokens[:common]], None)
        after = after.rows([0] * len(groups))
    if any(own):
        firsts = zip(groups, own, strict=True)
        rows = [group[0].tokens[common : common + more] for group, more in firsts]
        after = _read(model, rows, after)
    windows = [number for number, group in enumerate(groups) for _ in group]
    return after and after.rows(windows)


def continued(inputs: Tensor, mask: Tensor, after: Beginning | None) -> dict[str, Tensor]:
    """What a decoder is called with to read on, with the positions that the tokens then have."""
    if after is None:
        return {"input_ids": inputs, "attention_mask": mask}
    positions = torch.tensor(after.lengths)[:, None] + torch.arange(inputs.shape[1])
    whole = torch.cat([after.mask, mask], 1)
    return {"input_ids": inputs, "attention_mask": whole, "position_ids": positions}


def forward(
    model: nn.Module, arguments: Mapping[str, Tensor], after: Beginning | None = None
) -> Any:
    """What the model returns; it keeps keys and values only to go on from a beginning.

    Raises:
        EvaluationError: If it does not take these arguments.
    """
    called = placed(Arguments((), dict(arguments)), *place_of(model))
    settings: dict[str, Any] = {}
    if after is not None:
        settings = {"past_key_values": after.cache, "use_cache": True}
    elif "use_cache" in _parameters(type(model)):
        settings = {"use_cache": False}
    with running(model, called):
        return model(**called.kwargs, **settings)


def padded(rows: Sequence[Sequence[int]], model: nn.Module | None = None) -> tuple[Tensor, Tensor]:
    """Tokens and mask, shape (rows, longest), padded on the right, where decoders never look."""
    padding = getattr(getattr(model, "config", None), "pad_token_id", None) or 0
    width = max(map(len, rows))
    tokens = [[*row, *[padding] * (width - len(row))] for row in rows]
    mask = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
    return torch.tensor(tokens), mask.long()


def is_encoder_decoder(model: Model) -> bool:
    """Whether a model reads with an encoder what its decoder answers."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def leaves_out(architecture: type[nn.Module]) -> bool:
    """Whether a model can compute logits at the positions of a mask only."""
    # Older versions and models of somebody's own take numbers of positions instead.
    room = sys.modules[architecture.__module__]
    return "logits_to_keep" in _parameters(architecture) and hasattr(room, "slice_logits_to_keep")


def _goes_on(model: nn.Module) -> bool:
    """Whether a decoder can be told the positions of tokens, and attends to all that it kept."""
    from transformers import DynamicCache, PreTrainedModel
    from transformers.cache_utils import DynamicLayer

    if not isinstance(model, PreTrainedModel) or is_encoder_decoder(model):
        return False
    # A model that also sees counts the positions of texts in its own way.
    text_alone = model.config.get_text_config() is model.config
    takes = {"position_ids", "past_key_values"} <= set(_parameters(type(model)))
    if not text_alone or not takes or not leaves_out(type(model)):
        return False
    return all(type(one) is DynamicLayer for one in DynamicCache(config=model.config).layers)


def _parameters(architecture: type[nn.Module]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(architecture.forward).parameters


def _read(model: nn.Module, rows: Sequence[Sequence[int]], after: Beginning | None) -> Beginning:
    from transformers import DynamicCache

    inputs, mask = padded(rows)
    if after is None:
        cache = DynamicCache(config=model.config)
        after = Beginning(cache, mask[:, :0], [0] * len(rows))
    last = {"logits_to_keep": torch.zeros(inputs.shape, dtype=torch.bool)}
    forward(model, {**continued(inputs, mask, after), **last}, after)
    lengths = [done + len(row) for done, row in zip(after.lengths, rows, strict=True)]
    return Beginning(after.cache, torch.cat([after.mask, mask], 1), lengths)


def _plan(groups: Sequence[Sequence[Window]]) -> tuple[int, list[int]]:
    """How many tokens to read once for all windows, and how many more once for each group."""
    # The last token before what is scored is read by each window: its logits are needed.
    heads = [
        _common([one.tokens[: len(one.tokens) - one.scored - 1] for one in group])
        for group in groups
    ]
    common, own = len(_common(heads)), [len(head) for head in heads]
    none = [0] * len(groups)
    plans = [(0, none), (common, none), (common, [n - common for n in own])]
    if min(own):
        plans.append((0, own))
    return min(plans, key=lambda plan: _cost(groups, *plan))


def _common(runs: Sequence[list[int]]) -> list[int]:
    """The beginning that all runs have in common."""
    first, last = min(runs), max(runs)
    alike = zip(first, last, strict=False)
    end = next((i for i, (a, b) in enumerate(alike) if a != b), min(len(first), len(last)))
    return first[:end]


def _cost(groups: Sequence[Sequence[Window]], common: int, own: list[int]) -> int:
    """Tokens that are run, padding among them."""
    left = [
        len(one.tokens) - 1 - common - more
        for group, more in zip(groups, own, strict=True)
        for one in group
    ]
    calls = bool(common) + any(own)
    read = common + len(groups) * max(own) + len(left) * max(left)
    return read + calls * _TOKENS_OF_A_CALL
