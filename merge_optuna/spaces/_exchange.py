"""Layers of a path exchanged one by one, as long as it helps: what a search has to beat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from optuna.distributions import CategoricalDistribution

from merge_optuna.spaces.layer_path import LayerPath

Choices: TypeAlias = tuple[str, ...]
_SKIP = "skip"  # as LayerPath calls no layer


@dataclass(frozen=True)
class Exchange:
    """The algorithm, which sees what is known and says what to evaluate next.

    Attributes:
        names: Of the parameters that layers are chosen by.
        start: Their values on the first path.
        others: For every one, what its layer can be exchanged for.
        beam: How many paths a round goes on with.
    """

    names: tuple[str, ...]
    start: Choices
    others: tuple[Choices, ...] = field(repr=False)
    beam: int = 1

    @classmethod
    def of(cls, space: LayerPath, beam: int) -> Exchange:
        """Of the layers on the path that a space starts with."""
        begin = space.start()
        chosen = {
            name: tuple(str(choice) for choice in one.choices if choice != _SKIP)
            for name, one in space.distributions().items()
            if isinstance(one, CategoricalDistribution) and name.startswith("on/")
        }
        start = tuple(begin[name] for name in chosen)
        layers = zip(chosen.values(), start, strict=True)
        others = tuple(choices if own != _SKIP else () for choices, own in layers)
        return cls(tuple(chosen), start, others, beam)

    @property
    def most(self) -> int:
        """If every layer was exchanged once, a round for each and one in which none helps."""
        exchanges = [max(len(choices) - 1, 0) for choices in self.others]
        rounds = sum(count > 0 for count in exchanges) + 1
        return 1 + rounds * self.beam * sum(exchanges)

    def following(self, known: Mapping[Choices, float], taken: set[Choices]) -> Choices | None:
        """What to evaluate next; None if no exchange helps any more.

        Args:
            known: What is known of paths, smaller is better.
            taken: Paths that other processes evaluate; one of them if there is nothing else.
        """
        front = [self.start]
        while True:
            reached = dict.fromkeys(front)
            reached.update(dict.fromkeys(c for one in front for c in self._exchanged(one)))
            unknown = [choices for choices in reached if choices not in known]
            if unknown:
                return next((c for c in unknown if c not in taken), unknown[0])
            best = sorted(reached, key=known.__getitem__)[: self.beam]
            if set(best) == set(front[: self.beam]):
                return None
            front = best

    def _exchanged(self, choices: Choices) -> Iterator[Choices]:
        """All paths with one layer exchanged."""
        for i, others in enumerate(self.others):
            for other in others:
                if other != choices[i]:
                    yield (*choices[:i], other, *choices[i + 1 :])

    def params(self, choices: Choices) -> dict[str, str]:
        """The parameters of a path; everything else is as at the start of the space."""
        return dict(zip(self.names, choices, strict=True))
