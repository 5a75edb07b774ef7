"""Tasks of lm-evaluation-harness: how they are found, run on a live model and added up."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import io
import json
import logging
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch

from merge_optuna.errors import EvaluationError, few, shown

_LOG_LIKELIHOODS = ("perplexity", "word_perplexity", "byte_perplexity")
_CLASSES = ("f1", "mcc")  # their items are pairs of true and predicted class
_SEED = 1234  # lm-eval's own
_FAILURES = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    RuntimeError,
    ImportError,
    AssertionError,
)  # what tasks, which are anybody's code, and lm-eval itself raise

Item = tuple[float, ...]  # what a metric keeps of a sample


@dataclass(frozen=True)
class Part:
    """A task and the metric that it is scored by.

    Attributes:
        name: Of the task. (lm-eval's own property draws a random number each time.)
        task: lm-eval's task.
        metric: The name of the metric, e.g. ``"acc"``.
        filter: The name of the filter of the answers, ``"none"`` if there is none.
        limit: How many of its samples count, if not all.
        samples: The numbers of those that count, if not all; in increasing order.
    """

    name: str
    task: Any
    metric: str
    filter: str
    limit: int | None = None
    samples: tuple[int, ...] | None = None

    @property
    def key(self) -> str:
        """What lm-eval calls the metric."""
        return f"{self.metric},{self.filter}"

    @property
    def is_better_higher(self) -> bool:
        """Whether higher values are better.

        Raises:
            EvaluationError: If the task does not say.
        """
        found = self.task.higher_is_better()[self.metric]
        if found is None:
            raise EvaluationError(
                f"The task {self.name!r} does not say whether a higher {self.metric} is better: "
                "add higher_is_better: to the metric in its YAML."
            )
        return bool(found)

    def __len__(self) -> int:
        if self.samples is not None:
            return len(self.samples)
        total = len(self.task.eval_docs)
        return total if self.limit is None else min(self.limit, total)

    def first(self, n: int) -> Part:
        """The same on the first of its samples."""
        samples = None if self.samples is None else self.samples[:n]
        return replace(self, limit=min(n, len(self)), samples=samples)

    def docs(self) -> list[Any]:
        """The samples that count, and where there are few-shot examples, what they are of."""
        docs = self.task.eval_docs
        chosen = range(len(self)) if self.samples is None else self.samples
        shots = self.task.fewshot_docs() if self.task.get_config("num_fewshot") else None
        return [*(docs[i] for i in chosen), *(shots or ())]

    def run(self, lm: Any, **options: Any) -> list[tuple[Item, bool]]:
        """What the metric keeps of each sample, and whether a likelihood was no number.

        Args:
            lm: The model as lm-eval takes it.
            options: Further arguments of ``lm_eval.evaluate``.

        Raises:
            EvaluationError: If the model cannot be run, or the metric is not one of numbers.
        """
        from lm_eval import evaluate

        self.task.set_fewshot_seed(_SEED)
        with _quiet(), _seeded(), failing(f"lm-eval cannot run the task {self.name!r}"):
            result = evaluate(
                lm=lm,
                task_dict={"tasks": {self.name: self.task}, "groups": {}},
                limit=None if self.samples is not None else self.limit,
                samples=None if self.samples is None else {self.name: list(self.samples)},
                bootstrap_iters=0,
                log_samples=True,
                **options,
            )
        logged = [s for s in result["samples"][self.name] if s["filter"] == self.filter]
        return [(self._item(sample), _has_nan(sample["resps"])) for sample in logged]

    def value(self, items: Sequence[Item]) -> float:
        """The metric over what it keeps of some samples."""
        aggregate = self.task.aggregation().get(self.metric, _mean)
        return float(aggregate([item if len(item) > 1 else item[0] for item in items]))

    def alone(self, item: Item) -> float:
        """What one sample scores, as good as the metric where it is a mean.

        Of perplexities the negative log-likelihood (per word or byte), of F1 and the Matthews
        correlation whether the class is right.
        """
        if self.metric in _LOG_LIKELIHOODS:
            return -item[0] / (item[1] if len(item) > 1 else 1)
        if self.metric in _CLASSES and len(item) > 1:
            return float(item[0] == item[1])
        return self.value([item])

    def _item(self, sample: Mapping[str, Any]) -> Item:
        found = sample.get(self.metric)
        numbers = tuple(found) if isinstance(found, (tuple, list)) else (found,)
        if len(numbers) > 2 or not all(isinstance(one, Real | np.bool) for one in numbers):
            raise EvaluationError(
                f"The metric {self.metric} of the task {self.name!r} keeps {shown(found)} of a "
                f"sample, and a score is a number or two. Choose another: {_known(self.task)}."
            )
        return tuple(map(float, numbers))


@dataclass(frozen=True)
class Goal:
    """A task, tag or group as it was asked for.

    Attributes:
        name: What it is called.
        parts: Its tasks.
        group: lm-eval's group, if it is one.
    """

    name: str
    parts: tuple[Part, ...]
    group: Any = None

    def value(self, items: Sequence[Sequence[Item]]) -> float:
        """What its tasks add up to; those without items are left out.

        A group with an aggregate counts as that, anything else as the mean of its tasks.
        """
        values = {
            part.name: (part.value(some), len(some))
            for part, some in zip(self.parts, items, strict=True)
            if some
        }
        if self.group is not None and self.group.has_aggregation:
            key = self.parts[0].key
            results = {name: {key: v, "sample_len": n} for name, (v, n) in values.items()}
            with _quiet():  # tasks that are left out
                found = self.group.aggregate(results).get(key)
            if found is not None:
                return float(found)
        return _mean([value for value, _ in values.values()])


def load(
    names: Sequence[str], metrics: Mapping[str, str], include_path: str | Path | None
) -> list[Goal]:
    """The tasks, tags and groups with these names, each with its metric.

    Raises:
        EvaluationError: If lm-eval is not installed, or one is unknown or cannot be loaded.
    """
    if not has_lm_eval():
        raise EvaluationError(
            "Tasks of lm-evaluation-harness need lm-eval. Run: pip install 'merge_optuna[lm-eval]'"
        )
    if include_path is not None and not Path(include_path).is_dir():
        raise EvaluationError(f"include_path={str(include_path)!r} is no folder of YAML tasks.")
    with _quiet(), _seeded():
        manager = _manager(names, include_path)
        return [_goal(manager, name, metrics.get(name)) for name in names]


def has_lm_eval() -> bool:
    """Whether lm-eval can be imported."""
    return importlib.util.find_spec("lm_eval") is not None


def facts(parts: Iterable[Part]) -> Iterator[bytes]:
    """What tells tasks from others: their settings, and every sample that counts."""
    for part in parts:
        settings = part.task.dump_config()
        # Where a task comes from says nothing of what it is.
        told = {k: v for k, v in settings.items() if not k.startswith(("dataset_", "metadata"))}
        yield json.dumps([part.name, part.key, part.samples, told], default=str).encode()
        yield from (json.dumps(doc, default=str).encode() for doc in part.docs())


@contextlib.contextmanager
def failing(what: str) -> Iterator[None]:
    """A block of lm-eval's, which tells what is wrong in many ways.

    Raises:
        EvaluationError: If it fails.
    """
    try:
        yield
    except EvaluationError:
        raise
    except _FAILURES as error:
        raise EvaluationError(f"{what}: {type(error).__name__}: {error}") from error


# -- finding tasks --------------------------------------------------------------------------------


def _manager(names: Sequence[str], include_path: str | Path | None) -> Any:
    from lm_eval.tasks import TaskManager

    own = TaskManager(include_path=include_path, include_defaults=False)
    if all(_is_own(name, own.task_index) for name in names):
        return own
    return TaskManager(include_path=include_path)  # reads fourteen thousand files


def _is_own(name: str, index: Mapping[str, Any]) -> bool:
    """Whether it needs none of lm-eval's own tasks."""
    entry = index.get(name)
    if entry is None:
        return Path(name).is_file()
    children = (entry.cfg or {}).get("task")
    if not isinstance(children, list):
        return True
    return all(isinstance(child, str) and _is_own(child, index) for child in children)


def _goal(manager: Any, name: str, metric: str | None) -> Goal:
    if name not in manager.task_index and not Path(name).is_file():
        near = difflib.get_close_matches(name, manager.all_tasks, n=3)
        meant = f" Perhaps {' or '.join(map(repr, near))} is meant." if near else ""
        raise EvaluationError(
            f"lm-eval has no task {name!r}.{meant} Tasks of your own are found with "
            "include_path=, the folder of their YAML files."
        )
    with failing(f"lm-eval cannot load the task {name!r}"):
        found = manager.load([name])
        group = next(iter(found["groups"].values()), None)  # those that it holds come after it
        if metric is None and group is not None and group.has_aggregation:
            first = group.aggregate_metric_list[0]
            metric = ",".join([first.metric, *(first.filter_list or ())[:1]])
        parts = [_part(one, task, metric) for one, task in found["tasks"].items()]
    if not parts:
        raise EvaluationError(f"{name!r} holds no task.")
    if name not in manager.task_index:  # the path of a file
        name = parts[0].name if group is None else group.name
    return Goal(name, tuple(parts), group)


def _part(name: str, task: Any, metric: str | None) -> Part:
    known = list(task.higher_is_better())
    chosen, _, chosen_filter = (metric or next(iter(known), "")).partition(",")
    if chosen not in known:
        raise EvaluationError(
            f"The task {name!r} has no metric {chosen!r}. Metrics: {_known(task)}."
        )
    filters = [one["name"] for one in task.get_config("filter_list") or ()] or ["none"]
    chosen_filter = chosen_filter or filters[0]
    if chosen_filter not in filters:
        raise EvaluationError(
            f"The task {name!r} has no filter {chosen_filter!r}. Filters: "
            f"{few(filters)}; say one as metric='{chosen},{filters[0]}'."
        )
    return Part(name, task, chosen, chosen_filter)


def _known(task: Any) -> str:
    return few(list(task.higher_is_better())) or "none"


# -- running them ---------------------------------------------------------------------------------


def as_lm(model: Any, tokenizer: Any, *, batch_size: int, max_length: int | None) -> Any:
    """A live model as lm-eval takes it.

    Raises:
        EvaluationError: If it is no language model of transformers.
    """
    from lm_eval.models.huggingface import HFLM

    with _quiet(), failing(f"lm-eval cannot take a {type(model).__name__}"):
        return HFLM(
            pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=max_length
        )


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """A block that draws what lm-eval draws with its default seeds, and leaves no trace of it."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        random.seed(0)
        np.random.seed(_SEED)
        torch.manual_seed(_SEED)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A block whose progress bars, one per trial and task, are not shown."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _has_nan(responses: Any) -> bool:
    """Whether a log-likelihood among nested responses is no number."""
    if isinstance(responses, (tuple, list)):
        return any(map(_has_nan, responses))
    return isinstance(responses, float) and math.isnan(responses)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
