"""Which generator writes the replies of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from merge_optuna.errors import EvaluationError, shown
from merge_optuna.evaluators._batches import Pieces
from merge_optuna.evaluators._continuous import ContinuousGenerator
from merge_optuna.evaluators._generator import BatchGenerator, Generator, Reply, Request
from merge_optuna.evaluators._language import LanguageBatch
from merge_optuna.evaluators._sampling import Sampling
from merge_optuna.evaluators._served import ServedGenerator
from merge_optuna.evaluators._serving import Model, Serving

GENERATORS: Mapping[str, Callable[[Sequence[str], Sampling | None], Generator]] = {
    "batch": BatchGenerator,
    "continuous": ContinuousGenerator,
}
"""Those of live models, by name."""


class _Writer(NamedTuple):
    generate: Generator
    pieces: Pieces


class Writers:
    """What writes the replies that an evaluator scores, of a live model or of one that is served.

    Args:
        name: Of the generator for live models.
        stop: Texts that end a reply.
        sampling: How to draw; None for the likeliest tokens.
        size: Most examples of a batch.

    Raises:
        EvaluationError: If there is no such generator, or it cannot draw replies.
    """

    def __init__(
        self, name: str, stop: Sequence[str], sampling: Sampling | None, size: int
    ) -> None:
        if name not in GENERATORS:
            names = " or ".join(f'"{one}"' for one in GENERATORS)
            raise EvaluationError(
                f"generator must be {names}, not {shown(name)}. An engine that serves models by "
                "itself is given to the objective: mo.MergeObjective(space, evaluator, "
                "engine=mo.engine.VLLM())."
            )
        self._stop, self._sampling, self._size = stop, sampling, size
        self._live = self._writer(GENERATORS[name](stop, sampling))
        self._served: _Writer | None = None

    def __call__(self, model: Model, tokenizer: Any, requests: Sequence[Request]) -> list[Reply]:
        """The replies to some requests, in their order.

        Raises:
            EvaluationError: If the model cannot write them.
        """
        generate, pieces = self._of(model)
        replies = pieces.run(
            len(requests), lambda some: generate(model, tokenizer, requests[some])
        )
        return [reply for some in replies for reply in some]

    def together(
        self, model: Model, batches: Sequence[LanguageBatch]
    ) -> Iterator[list[LanguageBatch]]:
        """Runs of batches, one after another, that a model should be asked for together."""
        most = self._of(model).generate.at_once
        some: list[LanguageBatch] = []
        for batch in batches:
            if some and sum(len(one.ids) for one in [*some, batch]) > most:
                yield some
                some = []
            some.append(batch)
        yield some

    def _of(self, model: Model) -> _Writer:
        if not isinstance(model, Serving):
            return self._live
        if self._served is None:
            self._served = self._writer(ServedGenerator(self._stop, self._sampling))
        return self._served

    def _writer(self, generate: Generator) -> _Writer:
        return _Writer(generate, Pieces(max(generate.at_once, self._size)))
