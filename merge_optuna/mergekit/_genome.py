"""From a genome of mergekit-evolve to a search space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from merge_optuna import methods
from merge_optuna._documents import MERGEKIT, load_yaml
from merge_optuna.checkpoints import Checkpoint
from merge_optuna.mergekit._methods import OUR_WORDS, REQUIRED, TRANSLATIONS, our_name
from merge_optuna.mergekit._node import Node, refuse, warn
from merge_optuna.mergekit._settings import number, truth, whole_number
from merge_optuna.mergekit._sources import Sources
from merge_optuna.mergekit._texts import read_texts
from merge_optuna.recipes import Recipe, as_value, free
from merge_optuna.recipes.groups import Per, depth, matches

_FREE = {
    "linear": ("weight",),
    "task_arithmetic": ("weight",),
    "ties": ("weight", "density"),
    "dare_ties": ("weight", "density"),
    "slerp": ("t",),
}
"""What mergekit-evolve searches, by method."""

_NORMALIZED = ("linear", "ties", "dare_ties")
_KEYS = (
    "models",
    "merge_method",
    "base_model",
    "tokenizer_source",
    "layer_granularity",
    "normalize",
    "allow_negative_weights",
    "filters",
    "smooth",
)
_TOP = (
    "genome",
    "tasks",
    "limit",
    "num_fewshot",
    "shuffle",
    "random_init",
    "apply_chat_template",
    "fewshot_as_multiturn",
)


@dataclass(frozen=True)
class Task:
    """A task of lm-eval, whose metric counts with a weight."""

    name: str
    weight: float = 1.0
    metric: str = "acc,none"

    def __str__(self) -> str:
        return f"{self.name} ({self.metric})"


@dataclass(frozen=True)
class Genome:
    """A search as mergekit-evolve describes it.

    Attributes:
        space: The recipe with free numbers.
        tasks: Whose weighted sum is maximised.
        limit: How many samples of each task count, if not all.
        num_fewshot: Few-shot examples, if not as many as the task says.
        chat: Whether prompts go through the chat template, as they do unless the file says no.
    """

    space: Recipe
    tasks: tuple[Task, ...]
    limit: int | None = None
    num_fewshot: int | None = None
    chat: bool = True


def read_genome(text: str, file: str, *, strict: bool = False) -> Genome:
    """Reads a file of mergekit-evolve.

    Numbers that it lets grow without bounds are searched in [0, 1], negative ones in [-1, 1].
    Embedding and head have numbers of their own, where a genome gives them those of the first
    and of the last layers.

    Args:
        text: The content.
        file: How errors call it.
        strict: Whether what mergekit passes over is an error, not a warning.

    Raises:
        RecipeError: If it is not valid, or says what no space can.
        CheckpointError: If a model cannot be opened.
        CheckpointMismatch: If the models do not fit together.
    """
    passed_over = refuse if strict else warn
    document = load_yaml(text, file, surprises=MERGEKIT, repeated=passed_over)
    node = Node(document, file, passed_over=passed_over)
    genome = node.get("genome")
    if genome is None:
        raise node.error("no genome: this is not a file of mergekit-evolve.")
    node.check_keys(_TOP)
    genome.check_keys(_KEYS)
    tasks, chat = node.get("tasks"), node.get("apply_chat_template")
    limit, shots = node.get("limit"), node.get("num_fewshot")
    return Genome(
        _space(genome),
        () if tasks is None else tuple(map(_task, tasks.items())),
        None if limit is None else whole_number(limit),
        None if shots is None else whole_number(shots),
        chat is None or truth(chat),
    )


def _task(node: Node) -> Task:
    if isinstance(node.value, str):
        return Task(node.value)
    node.check_keys(("name", "weight", "metric"))
    weight, metric = node.get("weight"), node.get("metric")
    return Task(
        node.needed("name").text(),
        Task.weight if weight is None else number(weight),
        Task.metric if metric is None else metric.text(),
    )


def _space(node: Node) -> Recipe:
    """The recipe with everything free that the genome searches."""
    method = node.needed("merge_method")
    if method.text() not in _FREE:
        raise method.error(
            f"mergekit-evolve has no genome for {method.value!r}, only for {', '.join(_FREE)}."
        )
    spec, sources = methods.get(method.text()), Sources({}, {}, {})
    named = node.needed("models").items()
    models = [sources.open(one) for one in named]
    said = node.get("base_model")
    base = None if said is None else sources.open(said)
    if spec.name == "slerp" and len(models) > 2:
        raise node.needed("models").error(
            "mergekit-evolve chooses two of them for every group of layers, which is no recipe. "
            "Keep two, or take another merge_method."
        )
    if spec.name == "linear" and said is not None and base not in models:
        raise said.error("linear merges it too: name it among the models, or leave it out.")
    if spec.base and said is None:
        raise node.error(f"{spec.name} needs a base_model.")
    fixed = _fixed(node, spec)
    if fixed.get("normalize") and _is(node, "allow_negative_weights"):
        raise node.error(
            "normalized weights of both signs can sum to nothing. Say normalize: false, or leave "
            "out allow_negative_weights."
        )
    frame = base if spec.base else None
    draft = Recipe(
        method=spec.name,
        base=frame,
        models=tuple(model for model in models if model is not frame),
        **read_texts(
            node, [one for one in (*models, base) if isinstance(one, Checkpoint)], sources
        ),
    )
    return draft.with_fields(parameters=fixed | _free(node, draft, 1 / len(models)))


def _fixed(node: Node, spec: methods.Method) -> dict[str, Any]:
    """What a genome leaves as mergekit has it."""
    translation = TRANSLATIONS[spec.name]
    found = {
        our_name(name): OUR_WORDS.get(name, {}).get(default, default)
        for name, default in translation.parameters.items()
        if default is not REQUIRED
    }
    if "normalize" in found:
        said = node.get("normalize")
        found["normalize"] = spec.name in _NORMALIZED if said is None else truth(said)
    return found | dict(translation.ours)


def _free(node: Node, draft: Recipe, share: float) -> dict[str, Any]:
    """What a genome searches, from equal shares in full density."""
    is_signed = _is(node, "allow_negative_weights")
    per = _granularity(node, draft.frame.depth)
    genes = {
        "weight": free(-1 if is_signed else 0, 1, per=per, start=share),
        "density": free(0, 1, per=per, start=1),
        "t": free(0, 1, per=per, start=0.5),
    }
    filters = _filters(node, draft)
    found: dict[str, Any] = {}
    for name in _FREE[draft.method]:
        value = as_value(dict.fromkeys((*filters, "*"), genes[name])) if filters else genes[name]
        per_model = draft.spec.parameter(name).per_model
        found[name] = (value,) * len(draft.models) if per_model else value
    return found


def _granularity(node: Node, layers: int) -> Per:
    """How many numbers: one per group of layers, or one at each of as many points."""
    said = node.get("layer_granularity")
    size = 0 if said is None else whole_number(said)
    if size < 1:
        return "model"
    if said is not None and layers % size:
        raise said.error(f"{size} does not divide the {layers} layers.")
    if not _is(node, "smooth"):
        return size
    return depth(layers // size) if layers > size else "model"


def _filters(node: Node, draft: Recipe) -> list[str]:
    """The filters with numbers of their own, without those that match no tensor."""
    said = node.get("filters")
    found = []
    left = list(draft.alignment.layout.names)
    for one in () if said is None or said.value == [] else said.items():
        if any(matches(one.text(), name) for name in left):
            found.append(one.text())
        else:
            warn(f"{one.place}: the filter {one.value!r} matches no tensor and is ignored.")
        left = [name for name in left if not matches(one.text(), name)]
    return found


def _is(node: Node, key: str) -> bool:
    said = node.get(key)
    return said is not None and truth(said)
