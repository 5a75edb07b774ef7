"""Five searches of 200 trials on tiny models, each in seconds, for whatever shows a search.

``python -m tests.reports.searches FOLDER [NAME]...`` writes the storages and the models. What
should win is known: all but the last look for a model that was made by hand, and are scored by how
much they agree with it.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import LlamaForCausalLM
from transformers.utils import logging

import merge_optuna as mo
from merge_optuna.study import MergeObjective
from tests import toys, trained

TRIALS = 200
TEXTS = 48
LAYERS = 8
"""Of the models of the free recipe and of evolution; the others have four."""
WANTED: Mapping[str, Sequence[float]] = {
    "ja": (0.9, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1),
    "math": (0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.9),
    "code": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
}
"""Of the model that a free recipe should find: each expert's weight, layer by layer."""
BOTH: Mapping[str, Mapping[str, Sequence[float]]] = {
    "ja": {"ja": (0.9, 0.9, 0.6, 0.6), "math": (0.1, 0.1, 0.4, 0.4)},
    "math": {"ja": (0.1, 0.1, 0.4, 0.4), "math": (0.9, 0.9, 0.6, 0.6)},
}
"""Of the models that two objectives ask for."""
PATH = ((0, 0), (0, 1), (0, 2), (1, 2), (1, 3))
"""Of the model that a layer path should find: (model, layer) hop by hop."""
DOMAINS = {"art": "culture", "food": "culture", "law": "state", "war": "state"}
"""The groups of the classification: expert ``a`` knows the first, ``b`` the second."""


Batch = tuple[NDArray[np.int64], NDArray[np.float64]]


class Agreement:
    """How much of the probability of the next token a model shares with another, text by text.

    The score of a text is Σ min(p, q), 1 where both say the same.

    Args:
        wanted: The model to agree with.
        batch: Texts per batch; all 48 at once when omitted.
        fails: The call that raises an error instead, as a machine may; none if 0.
    """

    directions = ("maximize",)
    metric_names = ("agreement",)
    deterministic = True

    def __init__(self, wanted: nn.Module, batch: int = TEXTS, fails: int = 0) -> None:
        generator = torch.Generator().manual_seed(7)
        self.texts = torch.randint(3, 60, (TEXTS, 6), generator=generator)
        self.wanted = _next(wanted, self.texts)
        self.batch, self.calls, self.fails = batch, 0, fails
        self.digest = {"texts": f"{TEXTS} of seed 7"}

    def __len__(self) -> int:
        return len(self.texts)

    def __call__(self, model: nn.Module) -> Iterator[Batch]:
        self.calls += 1
        if self.calls == self.fails:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        for ids in torch.arange(len(self)).split(self.batch):
            found = _next(model, self.texts[ids])
            shared = torch.minimum(found, self.wanted[ids]).sum(-1)
            yield ids.numpy(), shared.double().numpy()

    def value(self, scores: NDArray[np.float64]) -> float:
        return float(np.mean(scores))


def _next(model: nn.Module, texts: torch.Tensor) -> torch.Tensor:
    """Probabilities of the next token, shape (texts, tokens)."""
    with torch.inference_mode():
        return model(input_ids=texts, use_cache=False).logits[:, -1].softmax(-1)


# -- the five searches ----------------------------------------------------------------------------


def free(folder: Path) -> mo.MergeStudy:
    """DARE-TIES with 60 free numbers by CMA-ES and a median pruner; one trial fails."""
    base, *experts = _family(folder, layers=LAYERS, experts=3)
    recipe = mo.recipes.dare_ties(
        base,
        experts,
        weight=mo.free(0, 1, per="layer", start=0.3),
        density=mo.free(0.5, 1, per="layer"),
        normalize=False,
    )
    objective = MergeObjective(recipe, Agreement(_arithmetic(folder, WANTED), batch=12, fails=60))
    pruner = optuna.pruners.MedianPruner(n_startup_trials=30, n_warmup_steps=12)
    sampler = recipe.sampler(seed=0, sigma0=0.1)
    return mo.MergeStudy("free", objective, TRIALS, sampler=sampler, pruner=pruner)


def evolved(folder: Path) -> mo.MergeStudy:
    """M2N2 on three experts."""
    _, *experts = _family(folder, layers=LAYERS, experts=3)
    evaluator = Agreement(_arithmetic(folder, WANTED))
    return mo.presets.m2n2(None, experts, evaluator, archive_size=12, n_trials=TRIALS)


def path(folder: Path) -> mo.MergeStudy:
    """A path through the layers of two models, laid out twice, by CMA-ES."""
    _, *experts = _family(folder, layers=4, experts=2)
    space = mo.spaces.LayerPath(experts, repeats=2, max_hops=8)
    objective = MergeObjective(space, Agreement(_routed(folder)))
    return mo.MergeStudy("path", objective, n_trials=TRIALS, first=[space.start()])


def fronts(folder: Path) -> mo.MergeStudy:
    """Two objectives, each the agreement with a model that is more of one of the experts."""
    base, *experts = _family(folder, layers=4, experts=2)
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1.2, per="layer"))
    tasks = {name: Agreement(_arithmetic(folder, mix, layers=4)) for name, mix in BOTH.items()}
    evaluator = mo.evaluators.Tasks(tasks, aggregate="each")
    return mo.MergeStudy("fronts", MergeObjective(recipe, evaluator), n_trials=TRIALS)


def groups(folder: Path) -> mo.MergeStudy:
    """Accuracy per domain of a classifier merged of two experts, by Optuna's TPE."""
    task = _classifiers(folder)
    base, *experts = task.checkpoints()
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(-1, 2, per="layer"))
    evaluator = mo.evaluators.Classification(task.dev, group="domain", batch_size=80)
    objective = MergeObjective(recipe, evaluator)
    sampler = optuna.samplers.TPESampler(seed=0)
    return mo.MergeStudy("groups", objective, n_trials=TRIALS, sampler=sampler)


SEARCHES: dict[str, Callable[[Path], mo.MergeStudy]] = {
    make.__name__: make for make in (free, evolved, path, fronts, groups)
}
JOURNALS = {"free", "path", "fronts"}
"""Whose storage is a journal: with many parameters SQLite takes longer than all the rest."""


def url_of(folder: Path, name: str) -> str:
    """The storage of a search."""
    if name in JOURNALS:
        return f"journal:///{folder}/{name}.log"
    return f"sqlite:///{folder}/{name}.db"


def make(folder: Path, name: str) -> str:
    """Runs a search and returns the URL of its storage."""
    url = url_of(folder, name)
    SEARCHES[name](folder).run(url, progress=False)
    return url


# -- models ---------------------------------------------------------------------------------------


def _family(folder: Path, *, layers: int, experts: int) -> list[mo.Checkpoint]:
    root = folder / f"models-{layers}"
    if not root.exists():
        _write(root, layers)
    names = ("base", *toys.EXPERTS[:experts])
    return [mo.Checkpoint(root / name, name=name) for name in names]


def _write(root: Path, layers: int) -> None:
    """A base and experts, each of whose tensors differs by a third of its own size."""
    base = toys.llama(hidden_size=16, intermediate_size=24, num_attention_heads=2, layers=layers)
    toys.save(base, root / "base")
    for seed, name in enumerate(toys.EXPERTS[:3]):
        toys.save(toys.noised(base, 100 + seed, 0.08), root / name)


def _load(folder: Path, name: str, *, layers: int) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(folder / f"models-{layers}" / name).eval()


def _arithmetic(
    folder: Path, weights: Mapping[str, Sequence[float]], layers: int = LAYERS
) -> LlamaForCausalLM:
    """The base with each expert's change, weighted layer by layer."""
    base = _load(folder, "base", layers=layers)
    made = copy.deepcopy(base)
    for name, by_layer in weights.items():
        expert = _load(folder, name, layers=layers)
        for layer, weight in enumerate(by_layer):
            parts = (model.model.layers[layer].parameters() for model in (made, base, expert))
            for target, old, new in zip(*parts, strict=True):
                target.data += weight * (new.data - old.data)
    return made


def _routed(folder: Path) -> LlamaForCausalLM:
    """The first expert with the layers of :data:`PATH`."""
    models = [_load(folder, name, layers=4) for name in toys.EXPERTS[:2]]
    made = copy.deepcopy(models[0])
    layers = [copy.deepcopy(models[model].model.layers[layer]) for model, layer in PATH]
    made.model.layers = nn.ModuleList(layers)
    for number, layer in enumerate(layers):
        layer.self_attn.layer_idx = number
    made.config.num_hidden_layers = len(layers)
    return made.eval()


def _classifiers(folder: Path) -> trained.Task:
    task = trained.Task(folder / "classifiers")
    if not task.root.exists():
        trained.make(task.root)
        for file in (task.dev, task.test):
            data = [{**row, "domain": DOMAINS[row["label"]]} for row in trained.read_rows(file)]
            trained.write_rows(file, data)
    return task


def main(folder: Path, names: Sequence[str]) -> None:
    """Writes databases, and says how long each has taken and what has won."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        start = time.monotonic()
        url = make(folder, name)
        print(f"{url}: {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(SEARCHES))
