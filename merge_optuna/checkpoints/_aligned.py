"""Checkpoints with different tokenizers seen through one vocabulary.

Every source becomes a checkpoint whose embedding and head have one row per token of the common
vocabulary, so that methods and engine see tensors of equal shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from merge_optuna.checkpoints._checkpoint import Checkpoint
from merge_optuna.checkpoints._files import Spec
from merge_optuna.checkpoints._store import Store
from merge_optuna.checkpoints._token_rows import token_axes
from merge_optuna.checkpoints._tokenizers import ZERO, CommonTokenizer, TokenRow, Vocabulary
from merge_optuna.checkpoints._views import View
from merge_optuna.errors import CheckpointError


@dataclass(frozen=True)
class AlignedVocabulary:
    """One vocabulary for several checkpoints, and the row of each of its tokens in them.

    Attributes:
        spec: What the user asked for.
        sources: The first gives config and what is not merged.
        base: Place of the source whose rows come first where another lacks a token, if any.
        places: Of the sources: equal weights may come with other tokenizers.
    """

    spec: Vocabulary
    sources: tuple[Checkpoint, ...]
    base: int | None
    places: tuple[str, ...]

    def __reduce__(self) -> Any:
        """Copies and pickles travel without tokenizers and folders, which are made again."""
        return aligned_vocabulary, (self.spec, self.sources, self.base)

    @cached_property
    def tokenizer(self) -> CommonTokenizer:
        """The tokenizer whose tokens have the rows."""
        return CommonTokenizer(self.spec, self.sources)

    @property
    def size(self) -> int:
        """Number of rows, padding included."""
        return self.tokenizer.size

    @cached_property
    def checkpoints(self) -> tuple[AlignedCheckpoint, ...]:
        """The sources seen through this vocabulary."""
        return tuple(
            AlignedCheckpoint.of(source, self, i) for i, source in enumerate(self.sources)
        )

    @cached_property
    def axes(self) -> tuple[dict[str, int], ...]:
        """For each source the tensors with one row per token, and the axis of the rows."""
        return tuple(token_axes(source) for source in self.sources)

    @cached_property
    def _own_rows(self) -> Tensor:
        """Row of each token in each source, −1 without one, shape (sources, size)."""
        rows = torch.full((len(self.sources), self.size), -1)
        places = torch.tensor(list(self.tokenizer.ids.values()))
        for row, ids in zip(rows, self.tokenizer.ids_in, strict=True):
            row[places] = torch.tensor([ids.get(token, -1) for token in self.tokenizer.ids])
        return rows

    @cached_property
    def _used(self) -> Tensor:
        """Which rows belong to a token; the others are padding."""
        used = torch.zeros(self.size, dtype=torch.bool)
        used[list(self.tokenizer.ids.values())] = True
        return used

    @cached_property
    def _forced(self) -> Tensor:
        forced = torch.zeros(self.size, dtype=torch.bool)
        for token, row in self.spec.tokens:
            forced[self.tokenizer.ids[token]] = row.force
        return forced

    def _donor_rows(self, members: list[int]) -> Tensor:
        """The rows whose mean a source gets for a token that it lacks; −1: does not count.

        Shape (sources, size). Donors are the base if it has the token, else all that have it.
        Only ``members`` count: not every source has every tensor.
        """
        rows = torch.full_like(self._own_rows, -1)
        rows[members] = self._own_rows[members]
        if self.base in members:
            others = [i for i in members if i != self.base]
            rows[others] = torch.where(rows[self.base] >= 0, -1, rows[others])
        for token, given in self.spec.tokens:
            rows[:, self.tokenizer.ids[token]] = -1
            if given.source != ZERO:
                donor = [source.name for source in self.sources].index(given.source)
                rows[donor, self.tokenizer.ids[token]] = self._given_row(token, given, donor)
        return rows

    def _given_row(self, token: str, given: TokenRow, donor: int) -> int:
        wanted = token if given.token is None else given.token
        if isinstance(wanted, int) and 0 <= wanted < self.tokenizer.rows[donor]:
            return wanted
        if isinstance(wanted, str) and wanted in self.tokenizer.ids_in[donor]:
            return self.tokenizer.ids_in[donor][wanted]
        raise CheckpointError(
            f"The row of {token!r} should be that of {wanted!r} in {given.source!r}, which has no "
            f"such token among its {self.tokenizer.rows[donor]} rows. Correct tokens=."
        )

    def rows(self, source: int, name: str) -> Tensor:
        """A tensor of a source with one row per token of the common vocabulary.

        In float32 (float64 if a source is), since rows may be means; the source's own mapped
        tensor where its rows are already what they should be.
        """
        axis, tensor = self.axes[source][name], self.sources[source].tensor(name)
        if self._is_as_it_should_be(source, tensor.shape[axis]):
            return tensor
        rows = self._own_rows[source]
        lacks = (rows < 0) | self._forced
        wide = torch.promote_types(tensor.dtype, torch.float32)
        result = tensor.movedim(axis, 0).index_select(0, rows.clamp(min=0)).to(wide)
        result[lacks] = self._means(name, lacks, wide)
        if not self._used.all():
            result[~self._used] = result[self._used].mean(0)
        return result.movedim(0, axis)

    def _means(self, name: str, lacks: Tensor, dtype: torch.dtype) -> Tensor:
        """The mean of their donors for rows that a source lacks; 0 without one."""
        members = [i for i, axes in enumerate(self.axes) if name in axes]
        donors = self._donor_rows(members)[:, lacks]
        total: Tensor | None = None
        for i in members:
            tensor = self.sources[i].tensor(name).movedim(self.axes[i][name], 0)
            if total is None:
                total = torch.zeros(donors.shape[1], *tensor.shape[1:], dtype=dtype)
            gives = donors[i] >= 0
            total[gives] += tensor[donors[i][gives]].to(dtype)
        assert total is not None  # the tensor is in the source that lacks the rows
        count = (donors >= 0).sum(0).clamp(min=1)
        return total / count.reshape(-1, *[1] * (total.ndim - 1))

    def _is_as_it_should_be(self, source: int, rows: int) -> bool:
        if rows != self.size or self._forced.any():
            return False
        return torch.equal(self._own_rows[source], torch.arange(self.size))


@lru_cache(maxsize=32)
def _aligned_vocabulary(
    spec: Vocabulary, sources: tuple[Checkpoint, ...], base: int | None, places: tuple[str, ...]
) -> AlignedVocabulary:
    return AlignedVocabulary(spec, sources, base, places)


def aligned_vocabulary(
    spec: Vocabulary, sources: tuple[Checkpoint, ...], base: int | None
) -> AlignedVocabulary:
    """The common vocabulary of checkpoints; the same object for the same question.

    Nothing is read before it is needed.
    """
    return _aligned_vocabulary(spec, sources, base, tuple(source.ref for source in sources))


class _AlignedStore(Store):
    """The tensors of one source under the common vocabulary."""

    def __init__(self, vocabulary: AlignedVocabulary, index: int) -> None:
        self._vocabulary, self._index = vocabulary, index
        source = vocabulary.sources[index]
        self.config = vocabulary.tokenizer.config_of(source)
        self._specs = dict(source.store.specs())
        for name, axis in vocabulary.axes[index].items():
            dtype, shape = self._specs[name]
            self._specs[name] = dtype, (*shape[:axis], vocabulary.size, *shape[axis + 1 :])

    def __reduce__(self) -> Any:
        return type(self), (self._vocabulary, self._index)

    def specs(self) -> Mapping[str, Spec]:
        return self._specs

    def tensor(self, name: str) -> Tensor:
        if name in self._vocabulary.axes[self._index]:
            return self._vocabulary.rows(self._index, name)
        return self._vocabulary.sources[self._index].tensor(name)


class AlignedCheckpoint(View):
    """A checkpoint seen through the common vocabulary of a recipe."""

    @property
    def folder(self) -> Path | None:
        """Where config and tokenizer of the merged model are."""
        vocabulary, _ = self._how
        return vocabulary.tokenizer.folder  # type: ignore[no-any-return]

    @property
    def tokenizer_folder(self) -> Path | None:
        """None: all views through a vocabulary have the same rows."""
        return None

    @property
    def module(self) -> nn.Module | None:
        """None: no module in memory has these rows."""
        return None

    def _open(self) -> Store:
        """The tensors under the common vocabulary."""
        return _AlignedStore(*self._how)
