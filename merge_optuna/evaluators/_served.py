"""Replies of a model that an engine of its own serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from merge_optuna.errors import EvaluationError, shown
from merge_optuna.evaluators._generator import (
    Reply,
    Request,
    StopTexts,
    end_tokens,
    refuse_images,
    reply_of,
)
from merge_optuna.evaluators._sampling import Sampling, refuse_drawing
from merge_optuna.evaluators._serving import Serving


class ServedGenerator:
    """What an engine serves, see :class:`Serving`; it schedules the requests by itself.

    Args:
        stop: Texts that end a reply, also where they span tokens.
        sampling: None: an engine draws by numbers of its own.

    Raises:
        EvaluationError: If replies are to be drawn.
    """

    at_once = 256  # what engines run together by default

    def __init__(self, stop: Sequence[str] = (), sampling: Sampling | None = None) -> None:
        refuse_drawing(sampling, "An engine that serves a model")
        self._stop = tuple(stop)

    def __call__(self, model: Serving, tokenizer: Any, requests: Sequence[Request]) -> list[Reply]:
        """See :meth:`Generator.__call__`."""
        refuse_images(requests, type(model).__name__)
        ends = end_tokens(model, tokenizer)
        # An engine looks at texts in the writing of the model's own tokenizer.
        own = getattr(tokenizer, "name_or_path", None) == model.config.name_or_path
        written = model.serve(
            [request.prompt for request in requests],
            [request.most for request in requests],
            ends=ends,
            stops=self._stop if own else (),
        )
        _check(written, requests, type(model).__name__)
        stop = StopTexts(tokenizer, self._stop)
        return [
            Reply([], False) if ids is None else reply_of(stop.cut(ids), ends, len(ids))
            for ids in written
        ]


def _check(written: Sequence[Any], requests: Sequence[Request], who: str) -> None:
    """Checks what an engine gives back: engines may be anybody's.

    Raises:
        EvaluationError: If it is not the token ids of a reply for each request.
    """
    if len(written) != len(requests):
        raise EvaluationError(
            f"{who}.serve() gives {len(written)} replies to {len(requests)} prompts: it must give "
            "one for each, in their order."
        )
    for ids, request in zip(written, requests, strict=True):
        if ids is None:
            continue
        if not isinstance(ids, list) or not all(isinstance(token, int) for token in ids):
            raise EvaluationError(
                f"{who}.serve() gives {shown(ids)} as a reply: it must be a list of token ids, or "
                "None where logits were no numbers."
            )
        if len(ids) > request.most:
            raise EvaluationError(
                f"{who}.serve() gives a reply of {len(ids)} tokens where {request.most} were the "
                "most. Is the prompt still in front of it?"
            )
