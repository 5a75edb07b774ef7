"""Whatever an evaluator does to the live model, every later score is that of a fresh model."""

from __future__ import annotations

import copy
import gc
import re
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import peft
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from transformers import (
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    pipeline,
)

import merge_optuna as mo
from merge_optuna.engine._checksum import _sums, _xxh3
from merge_optuna.engine._original import Original
from tests import toys

optuna.logging.set_verbosity(optuna.logging.ERROR)
TRIALS = 4
TOKENS = torch.arange(3, 21).reshape(2, 9)

# -- what evaluators do -----------------------------------------------------------------------


def assigned(model: Any) -> None:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def replaced(model: Any) -> None:
    model.model.norm.weight = nn.Parameter(model.model.norm.weight.clone())


def swapped(model: Any) -> None:
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.half()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def stepped(model: Any, *, zero: bool = True) -> None:
    """One step of training; the gradients are left behind unless they are asked for anew."""
    model.requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(TOKENS, labels=TOKENS).loss.backward()
    optimizer.step()
    if zero:
        optimizer.zero_grad()


class Stale:
    """An optimizer that is made for the first model and used for all."""

    def __init__(self) -> None:
        self.optimizer: torch.optim.Optimizer | None = None

    def __call__(self, model: Any) -> None:
        model.requires_grad_(True)
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
            model(TOKENS, labels=TOKENS).loss.backward()
        self.optimizer.step()
        model.requires_grad_(False)


def trained(model: Any, folder: Path) -> None:
    model.requires_grad_(True)
    options = TrainingArguments(
        output_dir=str(folder),
        max_steps=1,
        learning_rate=0.1,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
    )
    rows = [{"input_ids": row, "labels": row} for row in TOKENS]
    Trainer(model=model, args=options, train_dataset=rows).train()  # type: ignore[arg-type]


def piped(model: Any) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0")
    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer, dtype=torch.float16)
    pipe.model.half()
    pipe("w3 w4", max_new_tokens=2)


def forwarded(model: Any) -> None:
    inner = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = inner(*args, **kwargs)
        output.logits = output.logits * 1.5
        return output

    model.forward = forward


def subclassed(model: Any) -> None:
    class Louder(type(model)):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 1.5
            return output

    model.__class__ = Louder


def attention(model: Any) -> Any:
    return model.model.layers[0].self_attn


def moved_on(model: Any) -> None:
    """The layers in another order; the first one is still called 0."""
    layers = model.model.layers._modules
    layers["0"] = layers.pop("0")


def pruned(model: Any) -> None:
    prune.l1_unstructured(model.model.layers[0].mlp.up_proj, "weight", amount=0.5)


def untied(model: Any) -> None:
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone())
    model.config.tie_word_embeddings = False


def in_inference_mode(model: Any) -> None:
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.data = parameter * 1.5


def attached(model: Any) -> None:
    model.add_adapter(peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["q_proj"]))


def adapted(model: Any) -> None:
    config = peft.LoraConfig(r=2, init_lora_weights=False, target_modules="all-linear")
    peft.get_peft_model(model, config)


def louder(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output * 1.5


def quieter(module: nn.Module, args: Any) -> Any:
    return (args[0] * 0.5, *args[1:])


def quantized(model: Any) -> None:
    torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, inplace=True)


def by_default(dtype: torch.dtype, model: Any) -> None:
    torch.set_default_dtype(dtype)


def filled(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data.fill_(0.1)


def permuted(model: Any) -> None:
    """The same numbers in other places, which a plain sum would not see."""
    weight = model.model.layers[0].mlp.up_proj.weight.data
    weight.copy_(weight.flip(0).clone())


MUTATIONS: dict[str, Callable[..., object]] = {
    "half": lambda m: m.half(),
    "bfloat16": lambda m: m.to(torch.bfloat16),
    "double": lambda m: m.double(),
    "half, swapping": swapped,
    "load_state_dict(assign=True)": assigned,
    "a parameter replaced": replaced,
    "a parameter deleted": lambda m: delattr(m.model.norm, "weight"),
    "tied weights untied": untied,
    "train() left on": lambda m: m.train(),
    "one layer in train()": lambda m: attention(m).train(),
    "resize_token_embeddings": lambda m: m.resize_token_embeddings(80, mean_resizing=False),
    "weight_norm": lambda m: parametrizations.weight_norm(m.model.layers[0].mlp.up_proj),
    "old weight_norm": lambda m: nn.utils.weight_norm(m.model.layers[0].mlp.up_proj),
    "spectral_norm": lambda m: parametrizations.spectral_norm(m.model.layers[0].mlp.up_proj),
    "pruning": pruned,
    "quantize_dynamic": quantized,
    "to(meta)": lambda m: m.to("meta"),
    "share_memory": lambda m: m.share_memory(),
    "a step of training": stepped,
    "a step, gradients left": lambda m: stepped(m, zero=False),
    "an optimizer of another model": Stale(),
    "Trainer": trained,
    "pipeline": piped,
    "a forward hook": lambda m: m.model.norm.register_forward_hook(louder),
    "a hook of a layer": lambda m: m.model.layers[0].mlp.register_forward_hook(louder),
    "a pre-hook": lambda m: m.lm_head.register_forward_pre_hook(quieter),
    "get_peft_model": adapted,
    "add_adapter": attached,
    "forward replaced": forwarded,
    "the class replaced": subclassed,
    "a module replaced": lambda m: setattr(m.model.layers[0], "mlp", nn.Identity()),
    "a module deleted": lambda m: delattr(m, "lm_head"),
    "layers in another order": moved_on,
    "a layer dropped": lambda m: m.model.layers.pop(-1),
    "an activation replaced": lambda m: setattr(m.model.layers[0].mlp, "act_fn", nn.ReLU()),
    "an attribute": lambda m: setattr(attention(m), "scaling", 3.0),
    "heads": lambda m: setattr(attention(m), "head_dim", 4),
    "config": lambda m: setattr(m.config, "_attn_implementation", "eager"),
    "config, output": lambda m: setattr(m.config, "return_dict", False),
    "a number in the config": lambda m: m.config.rope_parameters.update(rope_theta=7.0),
    "another config": lambda m: setattr(m, "config", copy.deepcopy(m.config)),
    "generation_config": lambda m: m.generation_config.update(suppress_tokens=list(range(9, 60))),
    "a buffer in place": lambda m: m.model.rotary_emb.inv_freq.mul_(3),
    "a buffer replaced": lambda m: m.model.rotary_emb.register_buffer("inv_freq", torch.ones(4)),
    "gradient checkpointing": lambda m: (m.gradient_checkpointing_enable(), m.train()),
    "all weights in place": filled,
    "numbers in other places": permuted,
    "inference mode": in_inference_mode,
    "default dtype": partial(by_default, torch.float64),
    "default dtype, half": partial(by_default, torch.bfloat16),
}

# -- searches ---------------------------------------------------------------------------------


def score(model: Any) -> float:
    """Differs with any bit of the logits, the mode of the model, and what it generates."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits = model(TOKENS).logits
        said = model.generate(TOKENS, max_new_tokens=3, do_sample=False)
    weights = torch.arange(1, logits.numel() + 1, dtype=torch.float64)
    return float((logits.double().flatten() * weights).mean() + said.sum())


Search = Callable[[list[mo.Checkpoint]], tuple[Any, optuna.samplers.BaseSampler]]


def refill(models: list[mo.Checkpoint]) -> tuple[Any, optuna.samplers.BaseSampler]:
    recipe = mo.recipes.task_arithmetic(models[0], models[1:], weight=mo.free(0, 1))
    return recipe, optuna.samplers.RandomSampler(seed=0)


def path(models: list[mo.Checkpoint]) -> tuple[Any, optuna.samplers.BaseSampler]:
    space = mo.spaces.LayerPath(models[:2], repeats=2)
    return space, optuna.samplers.RandomSampler(seed=3)


def evolved(models: list[mo.Checkpoint]) -> tuple[Any, optuna.samplers.BaseSampler]:
    space = mo.spaces.DifferentialCrossover(models[:2])
    return space, space.sampler(seed=0)


SEARCHES: dict[str, Search] = {"refill": refill, "path": path, "evolved": evolved}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[mo.Checkpoint]:
    make = partial(toys.llama, tied=True, attention_dropout=0.3)
    return toys.family(tmp_path_factory.mktemp("models"), make, experts=2, scale=0.1)


def trials(search: str, models: list[mo.Checkpoint], after: Callable[[Any], object]) -> Any:
    """Parameters and values of a search whose evaluator does something after it has scored."""

    def evaluator(model: Any) -> float:
        value = score(model)
        after(model)
        return value

    space, sampler = SEARCHES[search](models)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(mo.MergeObjective(space, evaluator), n_trials=TRIALS)
    return study


def results(study: optuna.Study) -> list[Any]:
    return [(trial.params, trial.value, trial.user_attrs.get("error")) for trial in study.trials]


@pytest.fixture(scope="module")
def untouched(models: list[mo.Checkpoint]) -> dict[str, optuna.Study]:
    return {search: trials(search, models, lambda model: None) for search in SEARCHES}


@pytest.fixture
def own_defaults() -> Iterator[None]:
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("search", SEARCHES)
def test_scores_are_those_of_fresh_models(
    untouched: dict[str, optuna.Study], models: list[mo.Checkpoint], search: str
) -> None:
    """What the searches below are compared with."""
    study = untouched[search]
    values = [trial.value for trial in study.trials]
    fresh = [score(mo.Engine().load(mo.recipe_of(study, trial=t.number))) for t in study.trials]
    assert values == fresh
    assert len(set(values)) == TRIALS


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("name", MUTATIONS)
def test_later_scores_are_those_of_fresh_models(
    untouched: dict[str, optuna.Study],
    models: list[mo.Checkpoint],
    tmp_path: Path,
    own_defaults: None,
    name: str,
    search: str,
) -> None:
    mutate = copy.copy(MUTATIONS[name])

    def after(model: Any) -> None:
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore")
            mutate(model, tmp_path) if name == "Trainer" else mutate(model)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = trials(search, models, after)
    assert results(found) == results(untouched[search])


class CastBack:
    """Casts the model while it scores it, and undoes that when it is stopped."""

    directions, metric_names = ("maximize",), ("score",)

    def __len__(self) -> int:
        return 2

    def __call__(self, model: Any) -> Iterator[Any]:
        model.half()
        try:
            for i in range(2):
                yield np.array([i]), np.array([float(model.lm_head.weight.sum())])
        finally:
            model.float().train()

    def value(self, scores: Any) -> float:
        return float(np.mean(scores))


@pytest.mark.filterwarnings("ignore:CastBack has changed")
def test_an_evaluator_that_is_stopped_ends_before_the_next_model(
    models: list[mo.Checkpoint],
) -> None:
    """Else it would undo its changes in the middle of the next evaluation."""
    space, sampler = refill(models)
    pruner = optuna.pruners.ThresholdPruner(upper=-1e9)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    objective = mo.MergeObjective(space, CastBack())
    model: Any = objective.engine.load(models[0])
    gc.disable()  # what is only out of reach lives on
    try:
        for _ in range(2):
            study.optimize(objective, n_trials=1)
            assert study.trials[-1].state == optuna.trial.TrialState.PRUNED
            assert model.training
    finally:
        gc.enable()


# -- what is said of it -----------------------------------------------------------------------


def changes(caught: list[warnings.WarningMessage]) -> list[str]:
    return [str(one.message) for one in caught if "has changed the live" in str(one.message)]


@pytest.mark.parametrize("search", SEARCHES)
def test_each_evaluator_is_told_once(models: list[mo.Checkpoint], search: str) -> None:
    def in_training(model: Any) -> float:
        model.train()
        model.lm_head.register_forward_hook(louder)
        return 1.0

    def in_half(model: Any) -> float:
        model.half()
        return 1.0

    space, sampler = SEARCHES[search](models)
    objective = mo.MergeObjective(space, in_training)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        study.optimize(objective, n_trials=3)
        recipe = mo.recipe_of(study, trial=0)
        for _ in range(3):
            objective.score(recipe, mo.evaluators.Function(in_half))
        objective.score(recipe)
    first, second = changes(caught)
    assert first.startswith("in_training has changed the live model: training, model.training, ")
    assert "Change a copy, copy.deepcopy(model)" in first
    assert second.startswith("in_half has changed the live model: ")
    assert "now torch.float16 on cpu" in second


def test_an_engine_by_hand(models: list[mo.Checkpoint]) -> None:
    engine = mo.Engine()
    model: Any = engine.load(models[0])
    model.half().train()
    with pytest.warns(UserWarning, match=r"^The caller of load\(\) has changed") as caught:
        assert engine.load(models[1]) is model
    assert caught[0].filename == __file__
    assert score(model) == score(mo.Engine().load(models[1]))


def reading(model: Any) -> float:
    """What an evaluator may do that changes nothing."""
    with torch.inference_mode():
        model(TOKENS, output_hidden_states=True, output_attentions=True)
        model.generate(TOKENS, max_new_tokens=3, num_beams=2, use_cache=True)
        model.eval().requires_grad_(False).to("cpu").float()
    handle = model.model.norm.register_forward_hook(louder)
    handle.remove()
    model.model.set_input_embeddings(model.get_input_embeddings())
    copy.deepcopy(model).half().train()
    return score(model)


@pytest.mark.parametrize("search", SEARCHES)
def test_who_changes_nothing_is_told_nothing(models: list[mo.Checkpoint], search: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        space, sampler = SEARCHES[search](models)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.optimize(mo.MergeObjective(space, reading), n_trials=3)
    assert all(trial.value is not None for trial in study.trials)
    assert changes(caught) == []


def test_classification_changes_nothing(tmp_path: Path) -> None:
    checkpoints = toys.family(tmp_path, toys.bert, experts=2)
    data = (TOKENS, torch.tensor([0, 1]))
    for head in (None, checkpoints[1]):
        recipe = mo.recipes.linear(checkpoints, weight=mo.free(0, 1))
        objective = mo.MergeObjective(recipe, mo.evaluators.Classification(data, head=head))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            optuna.create_study(direction="maximize").optimize(objective, n_trials=3)
        assert changes(caught) == []


# -- the parts --------------------------------------------------------------------------------


class Odd(nn.Module):
    """With all that a module of one's own may have."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 2, bias=False) for _ in range(3)])
        self.weight = nn.Parameter(torch.ones(1))
        self.config = SimpleNamespace(width=2, nested={"names": ["a", "b"]})
        self.plain = torch.ones(3)
        self.kinds = {"a", "b"}
        self.pair = ([1], {"x": 2})
        self.limit = 1.0
        self.nothing: list[int] = []


def hooked(model: Any) -> None:
    model.weight.requires_grad_(True)
    model.weight.register_post_accumulate_grad_hook(lambda tensor: None)
    model.weight.requires_grad_(False)


ODD: dict[str, tuple[Callable[[Any], object], str]] = {
    "attribute": (lambda m: setattr(m, "limit", 2.0), "limit"),
    "new attribute": (lambda m: setattr(m, "more", None), "more"),
    "attribute deleted": (lambda m: delattr(m, "limit"), "limit"),
    "an array for a number": (lambda m: setattr(m, "limit", torch.ones(2)), "limit"),
    "an equal parameter": (lambda m: setattr(m, "weight", nn.Parameter(torch.ones(1))), "weight"),
    "config": (lambda m: setattr(m.config, "width", 3), r"config\.width"),
    "in a list": (lambda m: m.config.nested["names"].reverse(), r"config\.nested\.names"),
    "in a dictionary": (lambda m: m.config.nested.pop("names"), r"config\.nested\.names"),
    "in a set": (lambda m: m.kinds.add("c"), "kinds"),
    "in a tuple": (lambda m: m.pair[1].update(x=3), r"pair\.1\.x"),
    "an empty list": (lambda m: m.nothing.append(1), "nothing"),
    "an order": (
        lambda m: m.layers._modules.update({"0": m.layers._modules.pop("0")}),
        r"layers \(in another order\)",
    ),
    "requires_grad": (lambda m: m.weight.requires_grad_(True), r"weight \(has gradients\)"),
    "a hook of a tensor": (hooked, r"weight \(has gradients\)"),
    "a tensor that is no parameter": (
        lambda m: setattr(m.plain, "data", torch.ones(2)),
        r"plain \(now torch\.float32 on cpu\)",
    ),
    "a view": (
        lambda m: setattr(m.layers[0].weight, "data", m.layers[0].weight.data.t()),
        r"layers\.0\.weight \(now torch\.float32 on cpu\)",
    ),
    "a hook": (
        lambda m: m.layers[1].register_full_backward_hook(lambda *_: None),
        r"layers\.1\._is_full_backward_hook, layers\.1\._backward_hooks\.\d+",
    ),
    "dictionaries exchanged": (
        lambda m: setattr(m.layers[0], "_forward_hooks", {1: louder}),
        r"layers\.0\._forward_hooks",
    ),
    "all attributes exchanged": (
        lambda m: setattr(m.layers[2], "__dict__", {**vars(m.layers[2]), "in_features": 5}),
        r"layers\.2\.in_features",
    ),
}


@pytest.mark.parametrize(("change", "names"), ODD.values(), ids=ODD)
def test_what_is_put_back(change: Callable[[Any], object], names: str) -> None:
    model = Odd().eval().requires_grad_(False)
    original = Original(model)
    before = described(model)
    assert original.put_back() == []
    for _ in range(2):
        change(model)
        assert described(model) != before
        assert re.fullmatch(names, ", ".join(original.put_back()))
        assert described(model) == before
        assert original.put_back() == []


def described(model: Any) -> Any:
    """Everything that the model is, read from itself."""
    tensors = [*model.named_parameters(), ("plain", model.plain)]
    return (
        [(name, type(module).__name__) for name, module in model.named_modules()],
        [(n, t.data_ptr(), t.shape, t.stride(), t.requires_grad) for n, t in tensors],
        [str(t._post_accumulate_grad_hooks) for _, t in tensors],
        {k: str(v) for k, v in vars(model).items() if k not in vars(nn.Module())},
        [(len(m._forward_hooks), len(m._backward_hooks)) for m in model.modules()],
        [layer.in_features for layer in model.layers],
    )


def test_memory_that_was_given_back_is_there_again() -> None:
    model = Odd().eval().requires_grad_(False)
    original = Original(model)
    model.weight.untyped_storage().resize_(0)
    original.put_back()
    model.weight.fill_(3.0)
    assert model.weight.tolist() == [3.0]


@pytest.mark.parametrize("sums", [_xxh3, _sums])
@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 4096, 4 * 4096 + 2])
def test_a_checksum_sees_every_bit(sums: Callable[[Tensor], list[int]], size: int) -> None:
    content = torch.randint(256, (size,), dtype=torch.uint8)
    known = sums(content)
    assert sums(content.clone()) == known
    for place in range(0, size, max(1, size // 16)):
        for bit in range(8):
            content[place] ^= 1 << bit
            assert sums(content) != known
            content[place] ^= 1 << bit
    if size > 8:
        content.copy_(content.flip(0).clone())
        assert sums(content) != known


def test_an_interrupted_build_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, ja = toys.family(tmp_path, experts=1)
    recipe = mo.recipes.linear([base, ja])
    engine = mo.Engine()
    with monkeypatch.context() as patch:
        patch.setattr(Original, "__init__", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.load(recipe)
    engine.load(recipe).half()
    with pytest.warns(UserWarning, match="has changed the live model"):
        model = engine.load(recipe)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt
