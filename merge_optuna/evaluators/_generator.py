"""How models write: token ids of prompts in, token ids of replies out.

What generates stands behind :class:`Generator`: evaluators ask for replies, not for an engine.
This one runs static batches; ``_generators`` says which others there are.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators._arguments import Arguments, place_of, placed, running
from merge_optuna.evaluators._beginnings import Beginning, Window, beginning, is_encoder_decoder
from merge_optuna.evaluators._sampling import Sampling
from merge_optuna.evaluators._serving import Model

# What of a model's generation config says which tokens there are, not how to choose among them.
_SPECIAL = ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id")


class Request(NamedTuple):
    """A prompt that a reply is asked for."""

    example: int  # whose number the random draws are keyed by
    prompt: Sequence[int]  # token ids
    most: int  # tokens of the reply
    features: Mapping[str, Tensor] = {}  # of its images, as a processor gives them


class Reply(NamedTuple):
    """What a model has written."""

    ids: list[int]  # without the token that ends it
    finite: bool  # whether all logits were numbers


class Generator(Protocol):
    """What generates: it runs a live model, or asks the engine that serves one.

    Attributes:
        at_once: How many requests it should be asked for together, where there are so many.
    """

    @property
    def at_once(self) -> int: ...

    def __call__(self, model: Any, tokenizer: Any, requests: Sequence[Request]) -> list[Reply]:
        """The replies to some requests, in their order; the same whatever stands beside them.

        Raises:
            EvaluationError: If the model cannot generate.
        """


class BatchGenerator:
    """transformers' ``generate`` on a padded batch, with a cache of keys and values.

    Decoders read prompts padded on the left, encoders on the right; the padding is masked, and any
    token will do for it. How all prompts of a batch begin, e.g. with examples, is read once. A
    reply ends with its most tokens, with an end token of the model's generation config or of the
    tokenizer, or with a stop text. Only special tokens are taken from the generation config (end,
    beginning, start of the decoder): whatever else the folder of a model says, e.g. of sampling,
    beams, penalties or lengths, would change scores unseen.

    Args:
        stop: Texts that end a reply, also where they span tokens.
        sampling: How to draw; None for the likeliest tokens.
    """

    at_once = 1  # a batch alone, of texts of about the same length

    def __init__(self, stop: Sequence[str] = (), sampling: Sampling | None = None) -> None:
        self._stop, self._sampling = tuple(stop), sampling

    def __call__(
        self, model: nn.Module, tokenizer: Any, requests: Sequence[Request]
    ) -> list[Reply]:
        """See :meth:`Generator.__call__`."""
        # Near the end of the context there is room for fewer tokens. Rows that had to go on with
        # the others of the batch would be driven beyond the positions that the model has.
        order = sorted(range(len(requests)), key=lambda i: requests[i].most)
        replies: dict[int, Reply] = {}
        for _, group in groupby(order, key=lambda i: requests[i].most):
            rows = list(group)
            found = self._together(model, tokenizer, [requests[i] for i in rows])
            replies.update(zip(rows, found, strict=True))
        return [replies[i] for i in range(len(requests))]

    def _together(
        self, model: nn.Module, tokenizer: Any, requests: Sequence[Request]
    ) -> list[Reply]:
        """The replies to requests of the same ``most``."""
        from transformers import LogitsProcessorList, StoppingCriteriaList

        writer, ends = _writer(model, tokenizer, requests[0].most)
        with torch.no_grad():
            after = beginning(model, [[Window([*one.prompt], 0)] for one in requests])
        cache = {} if after is None else {"past_key_values": after.cache}
        arguments = placed(_padded(model, requests, after), *place_of(model))
        examples = [request.example for request in requests]
        drawn = [] if self._sampling is None else self._sampling.processors(examples)
        watch, stop = _Watch(), StopTexts(tokenizer, self._stop)
        with running(model, arguments):
            output = writer.generate(
                **arguments.kwargs,
                **cache,
                generation_config=writer.generation_config,
                logits_processor=LogitsProcessorList([watch, *drawn]),
                stopping_criteria=StoppingCriteriaList([stop] if self._stop else []),
            )
        # Before its reply a decoder gives the prompt back, one behind an encoder a start token.
        start = 1 if is_encoder_decoder(model) else arguments.kwargs["input_ids"].shape[1]
        written, bad = output[:, start:].tolist(), watch.first_bad()
        return [
            reply_of(ids[: stop.ended.get(row)], ends, bad[row]) for row, ids in enumerate(written)
        ]


def refuse_images(requests: Sequence[Request], what: str) -> None:
    """Checks that prompts are nothing but tokens.

    Raises:
        EvaluationError: If there are images.
    """
    if any(request.features for request in requests):
        raise EvaluationError(
            f"{what} is given token ids, but these prompts have images. Let mo.Engine run the "
            'model with generator="batch".'
        )


def reply_of(ids: list[int], ends: Collection[int], first_bad: int) -> Reply:
    """What stands before the first end token, and whether the steps up to there were fine."""
    length = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    steps = min(length + 1, len(ids))  # an end token is a step, too
    return Reply(ids[:length], first_bad >= steps)


def check_generates(model: nn.Module) -> None:
    """Checks that transformers can generate with a model.

    Raises:
        EvaluationError: If not.
    """
    can_generate = getattr(model, "can_generate", None)
    if can_generate is None or not can_generate():
        raise EvaluationError(
            f"{type(model).__name__} does not generate text. Use models that transformers can "
            "generate with, e.g. of a class ...ForCausalLM."
        )


def _writer(model: nn.Module, tokenizer: Any, most: int) -> tuple[Any, set[int]]:
    """The model with a generation config of our own, and the tokens that end a reply."""
    from transformers import GenerationConfig

    check_generates(model)
    own: Any = model.generation_config or GenerationConfig()
    ends = end_tokens(model, tokenizer)
    # A shell of its own, so that nothing of the live model is changed: generate() would fill what
    # a config leaves open from the model's.
    shell: Any = copy.copy(model)
    shell.generation_config = GenerationConfig(
        max_new_tokens=most,
        do_sample=False,
        eos_token_id=sorted(ends) or None,
        pad_token_id=_padding(model),
        **{name: getattr(own, name) for name in _SPECIAL},
    )
    return shell, ends


def end_tokens(model: Model, tokenizer: Any) -> set[int]:
    """The tokens that end a reply: those of the model's generation config and the tokenizer's."""
    sources = getattr(model, "generation_config", None), tokenizer
    return {token for one in sources for token in _ids(getattr(one, "eos_token_id", None))}


def _ids(token: int | Sequence[int] | None) -> Sequence[int]:
    return [token] if isinstance(token, int) else token or ()


def _padding(model: nn.Module) -> int:
    # -1 stands for "none" in old configs of Llama
    return max(getattr(getattr(model, "config", None), "pad_token_id", None) or 0, 0)


def _padded(
    model: nn.Module, requests: Sequence[Request], after: Beginning | None = None
) -> Arguments:
    """What ``generate`` is called with: the padding stands behind what was read before."""
    common = 0 if after is None else after.lengths[0]
    width = max(len(request.prompt) for request in requests) - common
    right = is_encoder_decoder(model)

    def padded(rows: Sequence[Tensor], value: int) -> Tensor:
        """Rows of shape (1, length, ...) as one tensor of shape (b, width, ...)."""
        gaps = [(row.new_full((1, width - row.shape[1], *row.shape[2:]), value)) for row in rows]
        pairs = zip(rows, gaps, strict=True)
        return torch.cat([torch.cat(pair if right else pair[::-1], 1) for pair in pairs])

    prompts = [torch.tensor([request.prompt]) for request in requests]
    read = torch.cat([prompt[:, :common] for prompt in prompts])
    left = [prompt[:, common:] for prompt in prompts]
    mask = padded([torch.ones_like(row) for row in left], 0)
    found = {
        "input_ids": torch.cat([read, padded(left, _padding(model))], 1),
        "attention_mask": torch.cat([torch.ones_like(read), mask], 1),
    }
    for name, first in requests[0].features.items():
        parts = [request.features[name] for request in requests]
        if tuple(first.shape) == (1, len(requests[0].prompt)):  # of each token
            found[name] = padded(parts, 0)
            continue
        if len({part.shape[1:] for part in parts}) > 1:
            raise EvaluationError(
                f"The processor makes {name} of different shapes, {first.shape[1:]} and others, "
                "which cannot stand in one batch. Pass batch_size=1."
            )
        found[name] = torch.cat(parts)
    return Arguments((), found)


class _Watch:
    """Notes the first step at which the logits of a row are no numbers."""

    def __init__(self) -> None:
        self._fine: list[Tensor] = []  # on the device: nothing waits for it

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._fine.append(scores.amax(-1).isfinite())
        return scores

    def first_bad(self) -> list[int]:
        """The step, from 0; the number of steps where all are fine."""
        fine = torch.stack([*self._fine, torch.zeros_like(self._fine[0])])
        return fine.int().argmin(0).tolist()


class StopTexts:
    """Ends rows whose last tokens hold a stop text, and knows after how many tokens."""

    def __init__(self, tokenizer: Any, texts: Sequence[str]) -> None:
        self.ended: dict[int, int] = {}
        self._tokenizer, self._texts = tokenizer, texts
        # A character is at most four tokens, its bytes; one before may begin it.
        self._window = 4 * max(map(len, texts), default=0) + 1
        self._start: int | None = None

    @property
    def watches(self) -> bool:
        """Whether there are stop texts."""
        return bool(self._texts)

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        if self._start is None:
            self._start = input_ids.shape[1] - 1
        for row, ids in enumerate(input_ids[:, self._start :].tolist()):
            if row not in self.ended and self.holds(ids):
                self.ended[row] = input_ids.shape[1] - self._start
        done = [row in self.ended for row in range(len(input_ids))]
        return torch.tensor(done, device=input_ids.device)

    def cut(self, ids: list[int]) -> list[int]:
        """A reply up to the token that completes a stop text."""
        lengths = range(1, len(ids) + 1) if self.watches else ()
        return ids[: next((n for n in lengths if self.holds(ids[:n])), len(ids))]

    def holds(self, ids: list[int]) -> bool:
        """Whether a stop text stands in the last tokens of a reply."""
        text = self._tokenizer.decode(ids[-self._window :])
        return any(stop in text for stop in self._texts)
