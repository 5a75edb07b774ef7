"""Continuous batching: its replies against a loop without cache, batches and paging."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import transformers

import merge_optuna as mo
from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators import Generation, Sampling
from merge_optuna.evaluators._continuous import ContinuousGenerator
from merge_optuna.evaluators._generator import Request
from tests import toys
from tests.evaluators.test_generation import MOST, WORDS, by_hand, constant, prompts
from tests.vocabularies import word_level

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def drawn(model: Any) -> Any:
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.3, generator=generator)
    return model.eval()


def sliding() -> Any:
    """Every second layer sees four tokens only."""
    types = ["sliding_attention", "full_attention"]
    config = transformers.Qwen2Config(
        **SMALL, sliding_window=4, use_sliding_window=True, layer_types=types
    )
    return drawn(transformers.Qwen2ForCausalLM(config))


def eager() -> Any:
    """Attention that has to be exchanged for another."""
    model = toys.llama(seed=3)
    model.set_attn_implementation("eager")
    return model


MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: toys.llama(seed=3),
    "gpt2": lambda: toys.gpt2(seed=3),
    "qwen2, sliding": sliding,
    "eager": eager,
}


@pytest.fixture(scope="module")
def words() -> Any:
    return word_level(WORDS)


def dev(texts: list[str]) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"question": texts, "answer": ["w0"] * len(texts)})


@pytest.mark.parametrize("name", list(MODELS))
def test_replies_are_those_of_a_loop_without_batches(words: Any, name: str) -> None:
    model = MODELS[name]()
    before, threads = dict(vars(model.config)), threading.active_count()
    names = set(vars(model))
    most = [1 + i % MOST for i in range(7)]
    requests = [Request(i, p, n) for i, (p, n) in enumerate(zip(prompts(), most, strict=True))]
    wanted = [by_hand(model, p, n, {2}) for p, n in zip(prompts(), most, strict=True)]
    assert len({tuple(reply) for reply in wanted}) > 3
    for some in (slice(0, 7), slice(2, 3)):
        replies = ContinuousGenerator()(model, words, requests[some])
        assert [reply.ids for reply in replies] == wanted[some]
        assert all(reply.finite for reply in replies)
    assert vars(model.config) == before
    assert set(vars(model)) == names
    assert threading.active_count() == threads


def test_it_scores_as_static_batches_do(words: Any) -> None:
    """More requests than run together, end tokens, stop texts and folders' own settings."""
    model = toys.llama(seed=3)
    model.generation_config = transformers.GenerationConfig(
        do_sample=True, repetition_penalty=5.0, eos_token_id=[2, 17], min_new_tokens=9
    )
    texts = [" ".join(f"w{(7 * i + j) % 60}" for j in range(1 + i % 5)) for i in range(40)]
    options: dict[str, Any] = {"tokenizer": words, "max_new_tokens": 9, "batch_size": 10}
    free = Generation(dev(texts), **options).replies(model)
    said = free[0]["reply"].split()
    for stop in ([], [f"{said[1]} {said[2]}", said[4]]):
        one = Generation(dev(texts), stop=stop, **options)
        other = Generation(dev(texts), stop=stop, generator="continuous", **options)
        assert other.digest == one.digest
        other.check(model)
        assert other.replies(model) == one.replies(model)
    assert one.replies(model) != free


def test_refills_write_what_a_checkpoint_on_the_disk_does(words: Any, tmp_path: Path) -> None:
    base, *experts = toys.family(tmp_path, toys.gpt2, experts=2, scale=0.2)
    engine, seen = mo.Engine(), []
    requests = [Request(i, prompt, MOST) for i, prompt in enumerate(prompts()[:4])]
    for number, method in enumerate((mo.recipes.ties, mo.recipes.dare_ties)):
        recipe = method(base, experts, weight=[0.9 - 0.5 * number, 0.3])
        replies = ContinuousGenerator()(engine.load(recipe), words, requests)
        fresh = transformers.AutoModelForCausalLM.from_pretrained(
            mo.write(recipe, tmp_path / str(number))
        )
        seen.append([by_hand(fresh, prompt, MOST, {2}) for prompt in prompts()[:4]])
        assert [reply.ids for reply in replies] == seen[-1]
    assert seen[0] != seen[1]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_seen(words: Any, number: float) -> None:
    requests = [Request(0, [5, 6], 3), Request(1, [7], 2)]
    assert ContinuousGenerator()(constant(7), words, requests) == [
        ([7] * 3, True),
        ([7] * 2, True),
    ]
    found = ContinuousGenerator()(constant(7, number), words, requests)
    assert [reply.finite for reply in found] == [False, False]


def bloom() -> Any:
    """Of those that would write something else without a word."""
    config = transformers.BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)
    return transformers.BloomForCausalLM(config)


def mamba() -> Any:
    config = transformers.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2)
    return transformers.MambaForCausalLM(config)


def broken() -> Any:
    """One that fails while it runs, in the thread."""
    model = toys.llama()
    model.model.layers[1].mlp.down_proj = torch.nn.Linear(48, 31)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (bloom, "decoders whose attention can be exchanged"),
        (mamba, 'can be exchanged.*generator="batch"'),
        (lambda: toys.t5(num_decoder_layers=2), "cannot run T5ForConditionalGeneration"),
        (toys.bert, "does not generate text"),
        (broken, "Continuous batching failed: .*size"),
    ],
)
def test_what_it_cannot_run_is_said_before_a_search(words: Any, make: Any, message: str) -> None:
    threads = threading.active_count()
    evaluator = Generation(dev(["w1", "w2"]), tokenizer=words, generator="continuous")
    with pytest.raises(EvaluationError, match=message):
        evaluator.check(make())
    assert threading.active_count() == threads


def test_arguments_are_checked(words: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EvaluationError, match=r'"continuous" draws .* would not be the one'):
        Generation(dev(["w1"]), generator="continuous", sampling=Sampling(seed=0))
    with pytest.raises(EvaluationError, match='must be "batch" or "continuous", not \'vllm\''):
        Generation(dev(["w1"]), generator="vllm")
    monkeypatch.setattr(transformers, "__version__", "5.9.1")
    with pytest.raises(
        EvaluationError, match=r"needs transformers 5\.23 or newer, not 5\.9\.1.*VLLM, leave gen"
    ):
        Generation(dev(["w1"]), generator="continuous")
