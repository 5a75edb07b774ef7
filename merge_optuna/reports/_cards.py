"""Which cards there are: a small set, the same for all studies, each left out where it is mute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from merge_optuna.reports import (
    _blocks,
    _examples,
    _importance,
    _lineage,
    _niches,
    _population,
    _progress,
    _pruning,
    _winner,
)
from merge_optuna.reports._view import View

if TYPE_CHECKING:
    import optuna
    from plotly.graph_objects import Figure

    from merge_optuna.checkpoints import Checkpoint


class Card(NamedTuple):
    """One figure.

    Attributes:
        key: Its name, for :func:`figures` and for the dashboard; kept for good.
        question: What it answers.
        draw: Makes it; None where a study has nothing to say here.
    """

    key: str
    question: str
    draw: Callable[[View], Figure | None]


CARDS = (
    Card("1-winner", "What won?", _winner.draw),
    Card("2-progress", "How much better is it, and what did that cost?", _progress.draw),
    Card("3-importance", "Which models, layers and parameters matter?", _importance.draw),
    Card("4-examples", "Which examples has it gained, and which lost?", _examples.draw),
    Card("5-blocks", "Which block of layers is worth running again?", _blocks.draw),
    Card("5-lineage", "Whom does the winner descend from?", _lineage.draw),
    Card("5-niches", "Which trials are the best at which examples?", _niches.draw),
    Card("5-population", "How did the population change?", _population.draw),
    Card("5-pruning", "What did pruning save?", _pruning.draw),
)
"""In the order in which they are read."""


def figures(
    study: optuna.Study, *, sources: Mapping[str, Checkpoint | str | Path] | None = None
) -> dict[str, Figure]:
    """The figures that tell of a study, by the names of their cards.

    Args:
        study: Any study; what it does not hold is not shown.
        sources: Checkpoints by name, as for :func:`mo.recipe_of`.
    """
    return drawn(View(study, sources))


def drawn(view: View) -> dict[str, Figure]:
    """As :func:`figures`."""
    made = {card.key: card.draw(view) for card in CARDS}
    return {key: figure for key, figure in made.items() if figure is not None}
