"""Blocks of consecutive layers that a trial puts into its path, each some times over.

Repeating a block of the middle of one model is what the public experiments with its depth do,
e.g. SOLAR (Kim et al., arXiv 2312.15166).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from merge_optuna.recipes import Hop
from merge_optuna.spaces._layouts import letter

MOST_TIMES = 3


@dataclass(frozen=True)
class Blocks:
    """Genes: how often a block is there, of which model, where it starts, its length, its place.

    Places are those of the path without blocks, so that a gene means the same whatever the others
    say; a block that runs over the end of its model ends there.

    Attributes:
        count: How many.
        depths: How many layers each model has.
        places: Layers of the longest path that there is without them.
    """

    count: int
    depths: tuple[int, ...]
    places: int

    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of every parameter."""
        return {name: one for i in range(self.count) for name, one in self._gene(i).items()}

    def start(self) -> dict[str, Any]:
        """The parameters with which no block is there; if there is one, a third of the middle."""
        depth = min(self.depths)
        length = max(depth // 3, 1)
        first = (depth - length) // 2
        values = {
            "times": 0,
            "source": letter(0),
            "start": first,
            "length": length,
            "at": min(first + length, self.places),
        }
        return {name: values[name.rpartition("/")[2]] for name in self.distributions()}

    def needed(self, params: Mapping[str, Any]) -> Iterator[str]:
        """Names of the parameters that a path depends on, ``params`` those named so far."""
        for i in range(self.count):
            times, *rest = self._gene(i)
            yield times
            if params[times] > 0:
                yield from rest

    def put_into(self, hops: Sequence[Hop], params: Mapping[str, Any]) -> list[Hop]:
        """A path with its blocks."""
        behind: dict[int, list[Hop]] = {}
        for i in range(self.count):
            gene = f"block/{i + 1}"
            if times := params[f"{gene}/times"]:
                place = min(params[f"{gene}/at"], len(hops))
                behind.setdefault(place, []).extend(self._layers(gene, params) * times)
        made = list(behind.get(0, ()))
        for place, hop in enumerate(hops, start=1):
            made += [hop, *behind.get(place, ())]
        return made

    def _layers(self, gene: str, params: Mapping[str, Any]) -> list[Hop]:
        source = params.get(f"{gene}/source", letter(0))
        model = next(m for m in range(len(self.depths)) if letter(m) == source)
        last = self.depths[model] - 1
        start = min(params[f"{gene}/start"], last)
        stop = min(start + params[f"{gene}/length"], last + 1)
        return [Hop(model, layer) for layer in range(start, stop)]

    def _gene(self, i: int) -> dict[str, BaseDistribution]:
        gene, deepest = f"block/{i + 1}", max(self.depths)
        sources = [letter(model) for model in range(len(self.depths))]
        choice = {f"{gene}/source": CategoricalDistribution(sources)} if len(sources) > 1 else {}
        return {
            f"{gene}/times": IntDistribution(0, MOST_TIMES),
            **choice,
            f"{gene}/start": IntDistribution(0, deepest - 1),
            f"{gene}/length": IntDistribution(1, deepest),
            f"{gene}/at": IntDistribution(0, self.places),
        }
