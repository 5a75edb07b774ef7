"""Replies of a model that an engine of its own serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
        stop = StopTexts(tokenizer, self._stop)
        return [
            Reply([], False) if ids is None else reply_of(stop.cut(ids), ends, len(ids))
            for ids in written
        ]
