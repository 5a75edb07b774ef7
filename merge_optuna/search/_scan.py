"""Which block of its layers is worth running twice: all of them, a coarse grid first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from optuna.trial import FrozenTrial, TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna._whole import whole
from merge_optuna.errors import StudyError
from merge_optuna.search._planned import Plan, carried_out
from merge_optuna.spaces import LayerPath
from merge_optuna.study import MergeObjective
from merge_optuna.study.plumbing import COUNTED

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage
    from torch import nn

    from merge_optuna.checkpoints import Checkpoint
    from merge_optuna.evaluators import Evaluator
    from merge_optuna.recipes import Recipe

_GENE = "block/1"
_GOLDEN = 0.6180339887498949

Block: TypeAlias = tuple[int, int]
UNKNOWN: Block = (-1, -1)


def scan(
    model: Checkpoint | Recipe,
    evaluator: Evaluator | Callable[[nn.Module], float],
    *,
    storage: str | BaseStorage | None = None,
    name: str = "scan",
    n_trials: int | None = None,
    min_length: int = 1,
    max_length: int | None = None,
    times: int = 1,
    device: str = "cpu",
    dtype: str | None = None,
    progress: bool = True,
) -> optuna.Study:
    """Scores a model with every block of consecutive layers repeated where it ends.

    The first trial is the model as it is. Then come the blocks, on a coarse grid of starts and
    lengths first and on finer ones later, so that it can be stopped at any time and gone on with;
    several processes can share it. No weight is copied; the best is exported as an ordinary model
    with as many layers as its path has. The report and the dashboard have a heat map.

    Args:
        model: Of an architecture of :class:`mo.spaces.LayerPath`.
        evaluator: Scores a model on dev data.
        storage: A URL for :func:`mo.storage`, an Optuna storage, or None for memory.
        name: Of the study.
        n_trials: How many to score in total, the model as it is among them; all when omitted,
            1 + n (n + 1) / 2 for n layers.
        min_length: Layers of the shortest block.
        max_length: Layers of the longest block; all layers when omitted.
        times: How often a block is repeated, 1 to 3.
        device: Of the live model.
        dtype: Of the live model.
        progress: Whether to show a progress bar.

    Returns:
        The study; trials have the user attribute ``path``, e.g. ``A0-A1-A2-A1-A2-A3``.

    Raises:
        RecipeError: If no path can go through the layers of the model.
        StudyError: If an option is out of its range.

    Example:
        >>> study = mo.scan(mo.Checkpoint("model"), evaluator, storage="sqlite:///scan.db")
        >>> print(study.best_value, study.best_trial.user_attrs["path"])
    """
    space = LayerPath([model], layout="blocks", blocks=1)
    depth = space.depths[0]
    longest = depth if max_length is None else max_length
    for option, number, most in (
        ("times", times, 3),
        ("max_length", longest, depth),
        ("min_length", min_length, longest),
    ):
        if not 1 <= (whole(number) or 0) <= most:
            raise StudyError(
                f"{option} must be a whole number from 1 to {most}, not {number!r}: the model has "
                f"{depth} layers."
            )
    return carried_out(
        Scan(depth, min_length, longest, times),
        space,
        MergeObjective(space, evaluator, device=device, dtype=dtype),
        name=name,
        n_trials=n_trials,
        storage=storage,
        progress=progress,
    )


@dataclass(frozen=True)
class Scan(Plan):
    """All blocks of a model in the order in which they are scored.

    Attributes:
        depth: Layers of the model.
        shortest: Layers of the shortest block.
        longest: Layers of the longest block.
        times: How often a block is repeated.
    """

    depth: int
    shortest: int
    longest: int
    times: int

    end = "all blocks are scored"

    @property
    def most(self) -> int:  # type: ignore[override]
        """All blocks and the model as it is."""
        return 1 + len(self.blocks)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Start and length of every block: those of a coarse grid come before those of finer ones.

        A grid of step 2^k has the starts and the lengths, from the shortest on, that 2^k divides.
        Within a step blocks come in a scattered order, so that a part of it is even, too.
        """
        every = [
            (start, length)
            for length in range(self.shortest, self.longest + 1)
            for start in range(self.depth - length + 1)
        ]
        scattered = {block: (i * _GOLDEN) % 1 for i, block in enumerate(every)}
        return tuple(sorted(every, key=lambda block: (-self._step(*block), scattered[block])))

    def _step(self, start: int, length: int) -> int:
        """The largest power of two that divides both, no more than the number of layers."""
        both = start | (length - self.shortest)
        return min(both & -both, self.depth) if both else self.depth

    def total(self, study: optuna.Study) -> int:
        """See :meth:`Plan.total`; what the study has twice or of other lengths counts, too."""
        found = [t for t in compat.all_trials(study) if t.state in COUNTED]
        for trial in found:
            if trial.params.get(f"{_GENE}/times", 0) not in (0, self.times):
                raise StudyError(
                    f"The study {study.study_name!r} repeats each block "
                    f"{trial.params[f'{_GENE}/times']} times, not {self.times}: give this scan a "
                    "name of its own, name=."
                )
        own = {block_of(trial) for trial in found}.intersection((None, *self.blocks))
        return self.most + len(found) - len(own)

    def following(self, study: optuna.Study, but: int | None = None) -> dict[str, Any] | None:
        """See :meth:`Plan.following`.

        A trial that is running and has no parameters yet takes what comes first when it began.
        """
        trials = [t for t in compat.all_trials(study) if t.number != but]
        done = {block_of(trial) for trial in trials if trial.state in COUNTED}
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        taken = {block_of(trial) for trial in running}
        before = sum(block_of(t) is UNKNOWN and t.number < (but or 0) for t in running)
        left = [block for block in (None, *self.blocks) if block not in done]
        if not left:
            return None
        free = [block for block in left if block not in taken]
        return self._gene((free[before:] or free or left)[0])

    def _gene(self, block: Block | None) -> dict[str, int]:
        """The parameters of a block."""
        if block is None:
            return {f"{_GENE}/times": 0}
        start, length = block
        gene = {"times": self.times, "start": start, "length": length, "at": start + length}
        return {f"{_GENE}/{key}": value for key, value in gene.items()}


def block_of(trial: FrozenTrial) -> Block | None:
    """Start and length of the block of a trial; None if it has none."""
    times, start, length = (
        trial.params.get(f"{_GENE}/{key}") for key in ("times", "start", "length")
    )
    if times == 0:
        return None
    # They are stored one by one.
    return UNKNOWN if start is None or length is None else (start, length)
