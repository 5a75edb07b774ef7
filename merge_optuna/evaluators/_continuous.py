"""Replies by transformers' continuous batching: what is done makes room for what waits."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators._arguments import place_of
from merge_optuna.evaluators._beginnings import is_encoder_decoder
from merge_optuna.evaluators._generator import (
    Reply,
    Request,
    StopTexts,
    check_generates,
    end_tokens,
    refuse_images,
    reply_of,
)
from merge_optuna.evaluators._sampling import Sampling, refuse_drawing

_OLDEST = (5, 23)  # of transformers: before, this part of it had other names
_REMEDY = 'Pass generator="batch".'
_PAGE = 32  # tokens
_TOGETHER = 32  # requests, where each token looks over all that runs beside it
_READ = 512  # tokens of prompts that are read at once


class ContinuousGenerator:
    """transformers' continuous batching, for accelerators with flash attention.

    A request begins as soon as another one is done, so that long replies hold up nobody, and keys
    and values lie in pages, without padding. Requests need not be of similar length. Of a
    generation config the same counts as for :class:`BatchGenerator`, and only the likeliest tokens
    can be written. The attention of the live model is another one meanwhile.

    Args:
        stop: Texts that end a reply, also where they span tokens.
        sampling: None: it draws by numbers of its own.

    Raises:
        EvaluationError: If replies are to be drawn, or transformers is too old.
    """

    at_once = 256  # each call makes a cache of its own, as the weights are others

    def __init__(self, stop: Sequence[str] = (), sampling: Sampling | None = None) -> None:
        import transformers

        refuse_drawing(sampling, 'generator="continuous"')
        found = transformers.__version__
        if tuple(map(int, found.split(".")[:2])) < _OLDEST:
            raise EvaluationError(
                f'generator="continuous" needs transformers {_OLDEST[0]}.{_OLDEST[1]} or newer, '
                f'not {found}: pip install -U transformers, or pass generator="batch". With an '
                "engine that serves, e.g. mo.engine.VLLM, leave generator= out."
            )
        self._stop = tuple(stop)

    def __call__(
        self, model: nn.Module, tokenizer: Any, requests: Sequence[Request]
    ) -> list[Reply]:
        """See :meth:`Generator.__call__`."""
        _check_model(model)
        refuse_images(requests, 'generator="continuous"')
        ends = end_tokens(model, tokenizer)
        with _manager(model, requests) as manager:
            stop = StopTexts(tokenizer, self._stop)
            outputs = _collected(manager, requests, ends, stop)
        return [
            reply_of(output.generated_tokens, ends, _first_bad(output.logprobs))
            for output in outputs
        ]


def _check_model(model: nn.Module) -> None:
    check_generates(model)
    # Others, e.g. BLOOM, GPT-J and MPT, would write something without a word: they pass over the
    # cache with the keys and values of what was read before.
    if is_encoder_decoder(model) or not getattr(model, "_supports_attention_backend", False):
        raise _cannot(model, "it takes decoders whose attention can be exchanged")


@contextlib.contextmanager
def _manager(model: Any, requests: Sequence[Request]) -> Iterator[Any]:
    """What runs the requests, in a thread that has ended afterwards.

    Raises:
        EvaluationError: If the model cannot be run.
    """
    from transformers import ContinuousBatchingConfig, GenerationConfig

    half = model.dtype in (torch.float16, torch.bfloat16)
    settings = ContinuousBatchingConfig(
        return_logprobs=True,  # the one place where logits that are no numbers can be seen
        auto_switch_to_flash=half,  # which does not take float32
        **_sizes(place_of(model)[0], requests),
    )
    attention = model.config._attn_implementation
    try:
        with model.continuous_batching_context_manager(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=-1),
            continuous_batching_config=settings,
        ) as manager:
            yield manager
    except (EvaluationError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, TypeError, AttributeError, MemoryError) as error:
        raise _cannot(model, error) from error
    finally:
        if model.config._attn_implementation != attention:  # after an error it is not put back
            model.set_attn_implementation(attention)


def _cannot(model: nn.Module, error: object) -> EvaluationError:
    return EvaluationError(
        f"transformers cannot run {type(model).__name__} with continuous batching: {error}. "
        f"{_REMEDY}"
    )


def _sizes(device: torch.device, requests: Sequence[Request]) -> Mapping[str, int]:
    """How large the cache is.

    Left to itself, transformers fills most of the free memory with it. That is what the memory of
    an accelerator is for, but on a CPU it made it thirty times slower (measured).
    """
    if device.type in ("cuda", "xpu"):
        return {"max_requests_per_batch": len(requests)}
    pages = sorted(-(-(len(one.prompt) + one.most) // _PAGE) + 1 for one in requests)
    return {
        "max_requests_per_batch": _TOGETHER,
        "page_size": _PAGE,
        "num_blocks": sum(pages[-_TOGETHER:]),
        "max_batch_tokens": _READ,
    }


def _collected(
    manager: Any, requests: Sequence[Request], ends: Collection[int], stop: StopTexts
) -> list[Any]:
    """What was generated for each request, up to its stop text."""
    waiting = {
        manager.add_request(
            [*request.prompt],
            max_new_tokens=request.most,
            eos_token_id=sorted(ends) or [-1],
            streaming=stop.watches,
        ): row
        for row, request in enumerate(requests)
    }
    found: dict[int, Any] = {}
    try:
        while waiting:
            output = manager.get_result(timeout=1)
            if output is None and not manager.is_running():
                raise EvaluationError(
                    "The thread of transformers' continuous batching has ended with an error, "
                    f"which is in the log. {_REMEDY}"
                )
            if output is None or output.request_id not in waiting:
                continue
            if output.error is not None:
                raise EvaluationError(f"Continuous batching failed: {output.error}. {_REMEDY}")
            stopped = stop.watches and stop.holds(output.generated_tokens)
            if stopped and not output.is_finished():
                manager.cancel_request(output.request_id)
            if stopped or output.is_finished():
                found[waiting.pop(output.request_id)] = output
    finally:
        for request in waiting:
            manager.cancel_request(request)
    return [found[row] for row in range(len(requests))]


def _first_bad(logprobs: Sequence[float]) -> int:
    """The first step whose token has no probability; the number of steps where all have one."""
    numbers = torch.tensor(logprobs).isfinite().tolist()
    return next((step for step, fine in enumerate(numbers) if not fine), len(numbers))
