"""How far the predictions of a model are from those of a reference model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from merge_optuna.checkpoints import Checkpoint, model_dtype, read_config
from merge_optuna.errors import EvaluationError, few, shown
from merge_optuna.evaluators._arguments import Arguments, live, logits_in, place_of, placed, run
from merge_optuna.evaluators._batches import Batches, Pieces
from merge_optuna.evaluators._beginnings import Window
from merge_optuna.evaluators._data import Columns, groups_of, read, table_of
from merge_optuna.evaluators._head import architecture
from merge_optuna.evaluators._inputs import Inputs, TokenizerOf
from merge_optuna.evaluators._language import FLOATS_AT_ONCE, LanguageBatches, scored_logits
from merge_optuna.evaluators._prompts import Row, Template
from merge_optuna.evaluators._protocol import BATCH_SIZE, Batch, Ids, Scores, check_counts
from merge_optuna.evaluators._scored_texts import scored_texts

_NEEDED = "of shape (batch, labels). Merge classifiers like the reference."
_KEPT = 1 << 30  # bytes of the reference's logits


class KLDivergence:
    """KL(reference ‖ model), the nats that a model loses when the reference is right.

    For language models, of the prediction of each token that :class:`NegativeLogLikelihood` would
    score; for classifiers, of the label of each example. Which of the two it is, the class of the
    reference says. 0 is a model that predicts as the reference does, whatever is true.

    What the reference predicts is computed once, batch by batch, and kept exactly as it is, in its
    own data type, up to 1 GiB. Of what is beyond that, the reference model itself is kept and run
    beside the other: a part of its predictions, or rounded ones, would be another number.

    Scores per example are rows: nats per token (of a classifier: nats), nats, tokens (1); with
    groups the number of its group, in sorted order, comes last. The value is all nats by all
    tokens. Logits with a NaN score NaN.

    Attributes:
        directions: ``("minimize",)``.
        metric_names: ``("KL divergence per token",)`` or ``("KL divergence per example",)``, with
            groups e.g. ``("KL divergence per token per domain",)``.
        reference: The checkpoint of the reference.
    """

    directions = ("minimize",)
    deterministic = True

    def __init__(
        self,
        data: Any,
        reference: Checkpoint,
        *,
        text: str = "text",
        text_pair: str | None = None,
        image: str | None = None,
        question: str | None = None,
        answer: str | None = None,
        prompt: Template | None = None,
        separator: str = " ",
        chat: bool = False,
        system: str | None = None,
        examples: Sequence[Row] = (),
        max_length: int | None = None,
        stride: int | None = None,
        group: str | None = None,
        tokenizer: Any = None,
        batch_size: int = 8,
    ) -> None:
        """Reads the examples.

        Args:
            data: A ``datasets.Dataset``, or the path of a JSON lines file (``.gz`` or not).
            reference: The model to be near to: the base, or an expert.
            text: Column of texts.
            text_pair: Column of second texts, for classifiers.
            image: Column of images, for classifiers.
            question: Column of questions: as the arguments that follow, for language models and
                as in :class:`NegativeLogLikelihood`.
            answer: Column of answers.
            prompt: What stands before an answer.
            separator: What stands between prompt and answer, where there is no chat.
            chat: Use the tokenizer's chat template.
            system: System message.
            examples: Rows that are put before every prompt with their answers.
            max_length: Most tokens that the model sees at once.
            stride: Tokens from one window of a document to the next.
            group: Column of groups: the value is the mean over the groups, whatever their sizes.
            tokenizer: A tokenizer, or the folder or hub id of one; by default the one in the
                model's own checkpoint. The reference reads the same tokens.
            batch_size: Most examples of a batch.

        Raises:
            EvaluationError: If the data cannot be read, is empty, or an argument is not valid.
        """
        check_counts(batch_size=batch_size, max_length=max_length, stride=stride)
        if isinstance(data, Checkpoint):
            raise EvaluationError(
                "KLDivergence takes the data first and then the reference: "
                "mo.evaluators.KLDivergence(data, checkpoint)."
            )
        if not isinstance(reference, Checkpoint):
            raise EvaluationError(
                "reference must be a Checkpoint: reference=mo.Checkpoint('...'), not "
                f"{shown(reference)}."
            )
        self.reference = reference
        self._reference = _Reference(reference)
        self._predicted: _Predictions
        if self._reference.speaks:
            table = table_of(data)
            found = scored_texts(
                table,
                text=text,
                question=question,
                answer=answer,
                prompt=prompt,
                separator=separator,
                chat=chat,
                system=system,
                examples=examples,
                stride=stride,
            )
            source = TokenizerOf(tokenizer)
            batches = LanguageBatches(found.windows, source, max_length, batch_size)
            self._groups = groups_of(table, group)
            settings = {"max_length": max_length, "tokenizer": source.digest()}
            self._predicted = _Tokens(len(found.scored), batches, {**found.digest(), **settings})
        else:
            columns = Columns(text, text_pair, image, None, group)
            inputs, _, self._groups = read(data, columns, tokenizer, max_length)
            self._predicted = _Labels(inputs, batch_size)
        unit = f"KL divergence per {self._predicted.unit}"
        self.metric_names = (f"{unit} per {group}" if group else unit,)
        self._pieces, self._batch_size = Pieces(batch_size), batch_size

    def __len__(self) -> int:
        return self._predicted.examples

    def __call__(self, model: nn.Module) -> Iterator[Batch]:
        """Scores the examples batch by batch.

        Args:
            model: Put into eval mode if it is not.

        Yields:
            Example ids, shape (b,), and scores, shape (b, 3), with groups (b, 4).

        Raises:
            EvaluationError: If the model cannot be scored; :meth:`check` tells before.
        """
        live(model)
        batches = self._predicted.of(model)
        for batch in batches:
            scores = self._scores(model, batch)
            if self._groups is not None:
                scores = self._groups.beside(scores, batch.ids)
            yield batch.ids, scores
        self._reference.rest(batches)

    def value(self, scores: Scores) -> float:
        """All nats by all tokens or examples; NaN if a score is NaN."""
        scores = np.asarray(scores)
        return _total(scores) if self._groups is None else self._groups.mean(_total, scores)

    def check(self, model: nn.Module) -> None:
        """Loads the reference, makes all inputs, and compares both on the smallest batch.

        Raises:
            EvaluationError: If this model cannot be compared with the reference on them.
        """
        live(model)
        _check_labels(model, self._reference.model)
        self._scores(model, min(self._predicted.of(model), key=lambda one: len(one.owners)))

    @property
    def parts(self) -> Sequence[str] | None:
        """The group of each example; None without groups."""
        return None if self._groups is None else self._groups.names

    @property
    def digest(self) -> dict[str, str | int | None]:
        """Digests of the inputs, of groups if there are any, and of the reference."""
        parts = {
            **self._predicted.digest,
            "reference": self.reference.digest,
            BATCH_SIZE: self._batch_size,
        }
        return parts if self._groups is None else {**parts, "groups": self._groups.digest()}

    def _scores(self, model: nn.Module, batch: _Compared) -> Scores:
        kept = self._reference.kept(batch)
        starts = np.cumsum([0, *batch.rows])

        def compare(piece: slice) -> tuple[Scores, Tensor | None]:
            with torch.inference_mode():
                mine = batch.logits(model, piece)
                if kept is not None:
                    rows = slice(starts[piece.start], starts[piece.stop])
                    return _divergence(kept[rows].to(mine.device), mine), None
                theirs = batch.logits(self._reference.on(mine.device), piece)
                return _divergence(theirs, mine), self._reference.held(theirs)

        found = self._pieces.run(len(batch.rows), compare)
        self._reference.keep(batch, [theirs for _, theirs in found if theirs is not None])
        nats = np.bincount(batch.owners, np.concatenate([each for each, _ in found]))
        units = np.bincount(batch.owners)
        return np.column_stack([nats / units, nats, units])


def _total(scores: Scores) -> float:
    return float(scores[:, 1].sum() / scores[:, 2].sum())


def _divergence(reference: Tensor, logits: Tensor) -> Scores:
    """KL of each row in float32, shape (n,); the logits of a few at once become so."""
    if reference.shape != logits.shape:
        raise EvaluationError(
            f"The reference predicts {reference.shape[1]} classes or tokens, the model "
            f"{logits.shape[1]}. Pass a reference with the same vocabulary or labels."
        )
    rows = max(1, FLOATS_AT_ONCE // logits.shape[1])
    each = []
    for start in range(0, len(logits), rows):
        theirs = reference[start : start + rows].float().log_softmax(-1)
        mine = logits[start : start + rows].float().log_softmax(-1)
        # What the reference rules out adds nothing, whatever the model thinks of it.
        terms = (theirs.exp() * (theirs - mine)).masked_fill(theirs == -torch.inf, 0)
        each.append(terms.sum(-1))
    divergence: Scores = torch.cat(each).double().cpu().numpy()
    return divergence


def _check_labels(model: nn.Module, reference: nn.Module) -> None:
    mine, theirs = _labels(model), _labels(reference)
    if mine and theirs and mine != theirs:
        raise EvaluationError(
            f"The reference has the labels {few(theirs)}, the model {few(mine)}: they must be "
            "the same, in the same order."
        )


def _labels(model: nn.Module) -> list[str]:
    """The names of a model's classes, in order."""
    label2id = getattr(getattr(model, "config", None), "label2id", None) or {}
    return sorted(label2id, key=label2id.__getitem__)


# -- the reference --------------------------------------------------------------------------------


class _Reference:
    """The reference model, and what it has predicted so far."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        module = checkpoint.module
        kind = architecture(checkpoint)[0] if module is None else type(module)
        self.speaks = hasattr(kind, "can_generate") and bool(kind.can_generate())
        self._kept: dict[Hashable, Tensor] = {}
        self._room = _KEPT

    @cached_property
    def model(self) -> Any:
        """It itself, in its own data type."""
        module = self._checkpoint.module
        model = _loaded(self._checkpoint) if module is None else copy.deepcopy(module)
        return model.eval().requires_grad_(False)

    def on(self, device: torch.device) -> Any:
        """The model on a device."""
        return self.model.to(device)

    def kept(self, batch: _Compared) -> Tensor | None:
        """What it has predicted for a batch, if that is kept."""
        return self._kept.get(batch.key)

    def held(self, logits: Tensor) -> Tensor | None:
        """Its predictions for a piece, to be kept; None where there is no room for more."""
        return logits.cpu() if self._room > 0 else None

    def keep(self, batch: _Compared, pieces: list[Tensor]) -> None:
        """Keeps what it has predicted for a batch."""
        self._room -= sum(piece.nbytes for piece in pieces)
        if pieces and self._room >= 0:
            self._kept[batch.key] = torch.cat(pieces)

    def rest(self, batches: Sequence[_Compared]) -> None:
        """Frees the memory of the model once it has predicted all that it will be asked for."""
        if all(batch.key in self._kept for batch in batches):
            self.__dict__.pop("model", None)


def _loaded(checkpoint: Checkpoint) -> Any:
    kind, content = architecture(checkpoint)
    return kind.from_pretrained(
        None,
        config=read_config(kind, content),
        state_dict={name: checkpoint.tensor(name) for name in checkpoint.names()},
        dtype=model_dtype(content, checkpoint.store.specs()),
    )


# -- what is compared -----------------------------------------------------------------------------


class _Compared(NamedTuple):
    """A batch.

    Attributes:
        key: What tells it from other batches, for models that read otherwise as well.
        ids: Of the examples.
        rows: How many predictions each part of the batch has.
        owners: Which of the examples each prediction is of, shape (predictions,).
        logits: The logits that a model has for a piece of the parts, shape (predictions, ...).
    """

    key: Hashable
    ids: Ids
    rows: list[int]
    owners: Ids
    logits: Callable[[nn.Module, slice], Tensor]


class _Predictions(Protocol):
    """What models predict of all examples."""

    unit: str
    examples: int
    digest: dict[str, str | int | None]

    def of(self, model: nn.Module) -> list[_Compared]:
        """The batches."""


class _Tokens:
    """Tokens of texts that a language model predicts."""

    unit = "token"

    def __init__(
        self, examples: int, batches: LanguageBatches, digest: dict[str, str | int | None]
    ) -> None:
        self.examples, self.digest, self._batches = examples, digest, batches

    def of(self, model: nn.Module) -> list[_Compared]:
        key = self._batches.key(model)
        return [
            _of_windows((key, number), ids, windows)
            for number, (ids, windows) in enumerate(self._batches.of(model))
        ]


def _of_windows(key: Hashable, ids: Ids, windows: list[list[Window]]) -> _Compared:
    flat = [window for some in windows for window in some]
    counts = [sum(window.scored for window in some) for some in windows]

    def logits(model: nn.Module, piece: slice) -> Tensor:
        return scored_logits(model, flat[piece])

    owners = np.repeat(np.arange(len(ids)), counts)
    return _Compared(key, ids, [window.scored for window in flat], owners, logits)


class _Labels:
    """The label that a classifier predicts of each example."""

    unit = "example"

    def __init__(self, inputs: Inputs, batch_size: int) -> None:
        self.examples, self._inputs = len(inputs), inputs
        self.digest = {"inputs": inputs.digest(), **inputs.settings()}
        self._batches = Batches(inputs, batch_size)

    def of(self, model: nn.Module) -> list[_Compared]:
        key = self._inputs.key(model)
        return [
            _of_arguments((key, number), ids, arguments)
            for number, (ids, arguments) in enumerate(self._batches.of(model))
        ]


def _of_arguments(key: Hashable, ids: Ids, arguments: Arguments) -> _Compared:
    def logits(model: nn.Module, piece: slice) -> Tensor:
        part = placed(arguments.part(piece), *place_of(model))
        return logits_in(run(model, part), model, _NEEDED, ndim=(2,))

    return _Compared(key, ids, [1] * len(ids), np.arange(len(ids)), logits)
