"""What a language model says of runs of tokens: the likelihood of the last ones of each."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators._arguments import logits_in
from merge_optuna.evaluators._batches import in_batches
from merge_optuna.evaluators._beginnings import (
    Beginning,
    Window,
    beginning,
    continued,
    forward,
    is_encoder_decoder,
    leaves_out,
    padded,
)
from merge_optuna.evaluators._inputs import TokenizerOf, longest
from merge_optuna.evaluators._prompts import Prompt
from merge_optuna.evaluators._protocol import Ids
from merge_optuna.evaluators._serving import Model

_NEEDED = "of shape (batch, tokens, vocabulary). Merge models with a language head."
FLOATS_AT_ONCE = 1 << 22  # 16 MB in float32: what a processor's cache can nearly hold


class Reader(NamedTuple):
    """How a model reads.

    Attributes:
        tokenizer: Of the model.
        limit: The most tokens that it takes; None for any number.
        encodes: Whether it is an encoder and a decoder, not a decoder alone.
    """

    tokenizer: Any
    limit: int | None
    encodes: bool

    def check_fit(self, tokens: int, what: str, where: str) -> None:
        """Compares a number of tokens with the limit.

        Raises:
            EvaluationError: If it is larger.
        """
        if self.limit is not None and tokens > self.limit:
            raise EvaluationError(
                f"{where}: {what} of {tokens:,} tokens, but at most {self.limit:,} are read at "
                "once (max_length=, the tokenizer's model_max_length, or the positions of the "
                "model). Shorten it, pass fewer examples=, or leave the row out."
            )


class LanguageBatch(NamedTuple):
    """Ids of examples, and the windows of each."""

    ids: Ids
    windows: list[list[Window]]


class LanguageBatches:
    """Examples as windows in batches, prepared once for models that read alike.

    Args:
        windows: Makes the windows of all examples.
        tokenizer: The one that is given, or the models' own.
        max_length: The most tokens of a window; None for what the model can take.
        size: The most examples of a batch.
    """

    def __init__(
        self,
        windows: Callable[[Reader], list[list[Window]]],
        tokenizer: TokenizerOf,
        max_length: int | None,
        size: int,
    ) -> None:
        self._windows, self.size = windows, size
        self._tokenizer, self._max_length = tokenizer, max_length
        self._order: list[Ids] | None = None
        self._ready: tuple[Hashable, list[LanguageBatch]] = None, []

    def key(self, model: Model) -> Hashable:
        """Models with equal keys get equal batches."""
        limit = longest(model, None, self._max_length)
        return self._tokenizer.key(model), limit, is_encoder_decoder(model)

    def of(self, model: Model) -> list[LanguageBatch]:
        """The batches; their order is fixed by the first tokenizer and the same for all models."""
        key = self.key(model)
        if self._ready[0] != key:
            tokenizer = self._tokenizer.of(model)
            limit = longest(model, tokenizer, self._max_length)
            windows = self._windows(Reader(tokenizer, limit, is_encoder_decoder(model)))
            _check_vocabulary(model, tokenizer, windows)
            if self._order is None:
                lengths = np.array([sum(len(one.tokens) for one in some) for some in windows])
                self._order = in_batches(lengths, self.size)
            found = [LanguageBatch(ids, [windows[i] for i in ids]) for ids in self._order]
            self._ready = key, found
        return self._ready[1]


def answered(
    reader: Reader, prompt: Prompt, asked: str, answer: str, where: str, *, ends: bool
) -> Window:
    """An answer after its prompt.

    Args:
        reader: How the model reads.
        prompt: What stands before.
        asked: The text of the row.
        answer: What is scored.
        where: How messages call the row.
        ends: Whether a decoder after an encoder has to say as well where the answer ends: the
            special tokens that its tokenizer puts around it.

    Raises:
        EvaluationError: If there is nothing to score, or it is too long.
    """
    if reader.encodes:
        before = prompt.source(reader.tokenizer, asked)
        after: list[int] = reader.tokenizer(
            text_target=answer, add_special_tokens=ends, verbose=False
        )["input_ids"]
        window = Window(after, len(after), before)
        reader.check_fit(len(before), "a prompt", where)
    else:
        before, after = prompt.pair(reader.tokenizer, asked, answer)
        window = Window([*before, *after], len(after))
    if not answer or not after:
        raise EvaluationError(f"{where}: an answer is empty. Leave such rows out.")
    if not before:
        raise EvaluationError(
            f"{where}: the prompt is empty, and the tokenizer has no token to begin with. Give "
            "every row a prompt."
        )
    reader.check_fit(len(window.tokens), "a prompt with its answer", where)
    return window


def _check_vocabulary(model: Model, tokenizer: Any, windows: Sequence[Sequence[Window]]) -> None:
    rows = getattr(getattr(model, "config", None), "vocab_size", None)
    most = max(max((*one.tokens, *one.source)) for some in windows for one in some)
    if rows is not None and most >= rows:
        raise EvaluationError(
            f"{type(tokenizer).__name__} makes token {most}, but {type(model).__name__} has a "
            f"vocabulary of {rows}. Pass the model's own tokenizer as tokenizer=."
        )


def nats(model: nn.Module, groups: Sequence[Sequence[Window]]) -> NDArray[np.float64]:
    """The negative log-likelihood of the scored tokens of each window, shape (all windows,).

    Args:
        model: The model.
        groups: The windows, those together of which a decoder need read the beginning only once;
            see :func:`beginning`.
    """
    windows = [window for group in groups for window in group]
    counts = [window.scored for window in windows]
    targets = [token for window in windows for token in window.tokens[-window.scored :]]
    # Not around the loop of an evaluator, which would leave it on while a generator waits.
    with torch.inference_mode():
        logits = scored_logits(model, windows, beginning(model, groups))
        per_token = _token_nats(logits, torch.tensor(targets, device=logits.device))
    ends = np.cumsum(counts)[:-1]
    return np.array([part.sum() for part in np.split(per_token.double().cpu().numpy(), ends)])


def scored_logits(
    model: nn.Module, windows: Sequence[Window], after: Beginning | None = None
) -> Tensor:
    """The logits from which the scored tokens of all windows are predicted, in their order.

    They are not computed at other positions where the model can leave them out.

    Args:
        model: The model.
        windows: The windows.
        after: What a decoder has read of each of them already, if anything.

    Returns:
        Shape (number of scored tokens, vocabulary), in the data type of the model.
    """
    if is_encoder_decoder(model):
        return _answered(model, windows)
    done = after.lengths if after else [0] * len(windows)
    rows = [window.tokens[read:-1] for window, read in zip(windows, done, strict=True)]
    inputs, mask = padded(rows)
    arguments, kept = continued(inputs, mask, after), _before_scored(windows, rows)
    if leaves_out(type(model)):
        output = forward(model, {**arguments, "logits_to_keep": kept}, after)
        return logits_in(output, model, _NEEDED, ndim=(2,))
    logits = logits_in(forward(model, arguments, after), model, _NEEDED, ndim=(3,))
    return logits[kept.to(logits.device)]


def _before_scored(windows: Sequence[Window], rows: Sequence[Sequence[int]]) -> Tensor:
    """At which tokens of padded rows a scored one comes next, shape (rows, longest)."""
    ends = torch.tensor([len(row) for row in rows])[:, None]
    starts = ends - torch.tensor([window.scored for window in windows])[:, None]
    positions = torch.arange(int(ends.max()))
    return (positions >= starts) & (positions < ends)


def _answered(model: nn.Module, windows: Sequence[Window]) -> Tensor:
    source, source_mask = padded([window.source for window in windows])
    labels, mask = padded([window.tokens for window in windows], model)
    arguments = {
        "input_ids": source,
        "attention_mask": source_mask,
        "decoder_input_ids": _shifted(model, labels),
        "decoder_attention_mask": mask,
    }
    logits = logits_in(forward(model, arguments), model, _NEEDED, ndim=(3,))
    return logits[mask.to(logits.device).bool()]


def _shifted(model: nn.Module, labels: Tensor) -> Tensor:
    """What a decoder is given to predict labels, as the model's own loss does it."""
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if shift is None:
        raise EvaluationError(
            f"{type(model).__name__} does not say how its decoder begins: it has no "
            "prepare_decoder_input_ids_from_labels(). Merge models with a language head."
        )
    shifted: Tensor = shift(labels)
    return shifted


def _token_nats(logits: Tensor, targets: Tensor) -> Tensor:
    """−log p of each target in float32, shape (n,); the logits of a few at once become so."""
    rows = max(1, FLOATS_AT_ONCE // logits.shape[1])
    parts = [slice(start, start + rows) for start in range(0, len(targets), rows)]
    return torch.cat(
        [cross_entropy(logits[p].float(), targets[p], reduction="none") for p in parts]
    )
