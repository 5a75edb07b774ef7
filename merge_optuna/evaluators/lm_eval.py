"""Tasks of lm-evaluation-harness on the live model."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from merge_optuna.errors import EvaluationError, few, shown
from merge_optuna.evaluators._arguments import live
from merge_optuna.evaluators._harness import Goal, Item, Part, as_lm, facts, load
from merge_optuna.evaluators._inputs import TokenizerOf, content_digest
from merge_optuna.evaluators._protocol import Batch, Scores, check_counts

if TYPE_CHECKING:
    from torch import nn

_PROBED = 2


class LmEval:
    """Tasks, tags and groups of lm-evaluation-harness, scored on the live model without a reload.

    The numbers are those of lm-eval's own command line on the written checkpoint. A task is one
    batch, so that a pruner can stop a trial between tasks. Scores per sample are a row of four:
    what the sample scores by itself, the number of its task, and what the metric keeps of it, two
    numbers (e.g. log-likelihood and words) or one and NaN. A sample scores, where the metric is
    no mean, its negative log-likelihood per word or byte (perplexities), or whether its class is
    right (F1 and Matthews correlation). A log-likelihood that is NaN scores NaN.

    Attributes:
        directions: As the metrics say.
        metric_names: Task and metric, or what several of them add up to.
    """

    deterministic = True  # what lm-eval draws, it draws from seeds

    def __init__(
        self,
        tasks: str | Sequence[str],
        *,
        metric: str | Mapping[str, str] | None = None,
        weights: Mapping[str, float] | None = None,
        limit: float | None = None,
        samples: Mapping[str, Sequence[int]] | None = None,
        num_fewshot: int | None = None,
        chat: bool = False,
        system: str | None = None,
        include_path: str | Path | None = None,
        tokenizer: Any = None,
        max_length: int | None = None,
        batch_size: int = 8,
    ) -> None:
        """Loads the tasks and their data.

        Args:
            tasks: Names of tasks, tags or groups, or paths of YAML files of tasks.
            metric: One for all tasks, or by name of the task as given: ``"acc_norm"``, or with
                the filter ``"exact_match,strict-match"``. When omitted, the first of the task's
                own, with its first filter; of a group, the one it aggregates first.
            weights: By name of the task as given; the value is the weighted sum of their metrics.
                When omitted, it is the mean.
            limit: How many samples of each task count, the first ones; below 1 their share.
            samples: By name of the task, the numbers of the samples that count, from 0.
            num_fewshot: Few-shot examples, where a task does not insist on none; when omitted,
                what the task says.
            chat: Whether to use the tokenizer's chat template, few-shot examples as turns.
            system: The system message.
            include_path: A folder with YAML files of tasks.
            tokenizer: A tokenizer, or the folder or hub id of one; by default the one in the
                model's own checkpoint.
            max_length: Longest sequence in tokens; by default what the model can take.
            batch_size: Largest batch of sequences.

        Raises:
            EvaluationError: If lm-eval is not installed, a task is unknown or cannot be loaded, or
                an argument is not valid.
        """
        names = [tasks] if isinstance(tasks, str) else list(tasks)
        _check_names(names, "tasks", names)
        check_counts(batch_size=batch_size, max_length=max_length)
        metrics = dict.fromkeys(names, metric) if isinstance(metric, str) else metric or {}
        _check_names(metrics, "metric", names)
        _check_names([*(weights or names)], "weights", names)
        if weights is not None and len(weights) < len(names):
            raise EvaluationError(f"weights must name every task: {few(names)}.")
        goals = load(names, metrics, include_path)
        self._goals = [_chosen(goal, limit, samples, num_fewshot) for goal in goals]
        self._parts = [part for goal in self._goals for part in goal.parts]
        _check_samples(samples or {}, self._parts)
        given = weights or dict.fromkeys(names, 1 / len(names))
        self._weights = [float(given[name]) for name in names]
        self.directions = (_direction(self._goals, self._weights),)
        self.metric_names = (_name(self._goals, is_sum=weights is not None),)
        self._starts = np.cumsum([0, *map(len, self._parts)])
        self._tokenizer = TokenizerOf(tokenizer)
        self._own: tuple[Hashable, Any] | None = None
        self._batch_size, self._max_length = batch_size, max_length
        self._options = {
            "apply_chat_template": chat,
            "fewshot_as_multiturn": chat,
            "system_instruction": system,
        }

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __call__(self, model: nn.Module) -> Iterator[Batch]:
        """Scores the samples, task by task.

        Args:
            model: A language model of transformers. Put into eval mode if it is not.

        Yields:
            Sample ids, shape (b,), and scores, shape (b, 4).

        Raises:
            EvaluationError: If the model cannot be scored; :meth:`check` tells before.
        """
        lm = self._as_lm(model)
        for number, part in enumerate(self._parts):
            ids = np.arange(self._starts[number], self._starts[number + 1])
            yield ids, self._scores(lm, number, part)

    def value(self, scores: Scores) -> float:
        """The mean or the weighted sum of the metrics over the scores of any of the samples.

        Tasks without a sample among them are left out, and the others count for them. NaN if a
        score is NaN.
        """
        values = self._values(scores)
        weights = np.array([self._weights[number] for number in values])
        share = np.abs(weights).sum() / np.abs(self._weights).sum()
        return float(np.array([*values.values()]) @ weights / share)

    def breakdown(self, scores: Scores) -> dict[str, float]:
        """The metric of each task, tag or group that has a sample among the scores."""
        return {self._goals[number].name: v for number, v in self._values(scores).items()}

    def check(self, model: nn.Module) -> None:
        """Runs each task on two of its samples.

        Raises:
            EvaluationError: If this model cannot be scored on these tasks.
        """
        lm = self._as_lm(model)
        for number, part in enumerate(self._parts):
            self._scores(lm, number, part.first(_PROBED))

    @property
    def parts(self) -> list[str]:
        """The task of each sample."""
        return [part.name for part in self._parts for _ in range(len(part))]

    @cached_property
    def digest(self) -> dict[str, str | int | None]:
        """Digests of tasks, samples and few-shot examples; the options and the tokenizer."""
        options = [self._weights, self._max_length, self._options]
        return {
            "tasks": content_digest(facts(self._parts)),
            "options": json.dumps(options),
            "tokenizer": self._tokenizer.digest(),
        }

    def _as_lm(self, model: nn.Module) -> Any:
        key = self._tokenizer.key(live(model))
        if self._own is None or self._own[0] != key:
            # a copy: lm-eval gives a tokenizer a padding token
            self._own = key, copy.deepcopy(self._tokenizer.of(model))
        return as_lm(
            model,
            self._own[1],
            batch_size=self._batch_size,
            max_length=self._max_length,
        )

    def _scores(self, lm: Any, number: int, part: Part) -> Scores:
        rows = [
            (math.nan if is_nan else part.alone(item), number, *item, math.nan)[:4]
            for item, is_nan in part.run(lm, **self._options)
        ]
        if len(rows) != len(part):
            raise EvaluationError(
                f"The task {part.name!r} has scored {len(rows)} of its {len(part)} samples."
            )
        sign = math.copysign(1, self._weight_of(number))
        return np.array(rows) * (sign, 1, 1, 1)

    def _weight_of(self, number: int) -> float:
        ends = np.cumsum([len(goal.parts) for goal in self._goals])
        return self._weights[int(np.searchsorted(ends, number, side="right"))]

    def _values(self, scores: Scores) -> dict[int, float]:
        """The metric of each goal with scores, by its number."""
        scores = np.asarray(scores)
        found, start = {}, 0
        for number, goal in enumerate(self._goals):
            own = range(start, start := start + len(goal.parts))
            some = [scores[scores[:, 1] == part] for part in own]
            if any(map(len, some)):
                is_nan = any(np.isnan(rows[:, 0]).any() for rows in some)
                found[number] = math.nan if is_nan else goal.value([*map(_items, some)])
        return found


def _items(rows: Scores) -> list[Item]:
    return [(a,) if math.isnan(b) else (a, b) for a, b in rows[:, 2:].tolist()]


def _chosen(
    goal: Goal,
    limit: float | None,
    samples: Mapping[str, Sequence[int]] | None,
    num_fewshot: int | None,
) -> Goal:
    """The goal on the samples that count."""
    if limit is not None and samples is not None:
        raise EvaluationError("limit and samples both say which samples count: pass one of them.")
    if limit is not None and limit <= 0:
        raise EvaluationError(f"limit must be above 0, not {limit}.")
    if num_fewshot is not None and num_fewshot < 0:
        raise EvaluationError(f"num_fewshot cannot be {num_fewshot}.")
    parts = []
    for part in goal.parts:
        _set_shots(part, num_fewshot)
        chosen = None if samples is None else tuple(sorted(set(samples.get(part.name, ()))))
        parts.append(replace(part, limit=_count(part, limit), samples=chosen))
    return replace(goal, parts=tuple(parts))


def _set_shots(part: Part, num_fewshot: int | None) -> None:
    """As lm-eval does it: a task that says none is left so."""
    own = part.task.get_config("num_fewshot")
    asked = own if num_fewshot is None or own == 0 else num_fewshot
    part.task.set_config("num_fewshot", asked or 0)


def _count(part: Part, limit: float | None) -> int | None:
    """Of samples, rounded up."""
    if limit is None:
        return None
    return math.ceil(len(part) * limit) if limit < 1 else int(limit)


def _check_names(given: Sequence[str] | Mapping[str, Any], what: str, names: list[str]) -> None:
    wrong = [name for name in given if not isinstance(name, str) or name not in names]
    if wrong or not names or len(set(names)) != len(names):
        raise EvaluationError(
            f"{what} must name tasks of lm-eval that are asked for, each once: {shown(names)} are "
            f"the tasks, {shown([*given])} is given."
        )


def _check_samples(samples: Mapping[str, Sequence[int]], parts: Sequence[Part]) -> None:
    sizes = {part.name: len(part.task.eval_docs) for part in parts}
    for name, numbers in samples.items():
        size = sizes.get(name)
        if size is None:
            raise EvaluationError(
                f"samples names {name!r}, which is none of the tasks {few([*sizes])}."
            )
        outside = [n for n in numbers if not 0 <= n < size]
        if outside:
            raise EvaluationError(
                f"samples: {name!r} has {size} samples, numbered from 0, and no {outside[0]}."
            )
    empty = [part.name for part in parts if not len(part)]
    if empty:
        raise EvaluationError(
            f"No sample of {few(empty)} counts. Name some in samples=, or leave the task out."
        )


def _direction(goals: Sequence[Goal], weights: Sequence[float]) -> str:
    if not any(weights) or not all(math.isfinite(weight) for weight in weights):
        raise EvaluationError(f"weights must be finite numbers, not all of them 0: {weights}.")
    up = {
        part.name: part.is_better_higher == (weight > 0)
        for goal, weight in zip(goals, weights, strict=True)
        for part in goal.parts
        if weight
    }
    if len(set(up.values())) > 1:
        raise EvaluationError(
            f"A higher value is better for {few([n for n in up if up[n]])} and worse for "
            f"{few([n for n in up if not up[n]])}: they cannot be added up. Give the latter a "
            "negative weight in weights=."
        )
    return "maximize" if all(up.values()) else "minimize"


def _name(goals: Sequence[Goal], *, is_sum: bool) -> str:
    named = [f"{goal.name} {goal.parts[0].metric}" for goal in goals]
    if len(named) == 1 and not is_sum:
        return named[0]
    return f"{'weighted sum' if is_sum else 'mean'} of {few(named)}"
