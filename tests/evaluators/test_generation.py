"""Generation: replies against a loop without cache, batches and padding, and what scores them."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import optuna
import pytest
import torch
import transformers
from optuna.trial import TrialState
from torch import nn

import merge_optuna as mo
from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators import Generation, Sampling, value_of
from merge_optuna.evaluators._generator import BatchGenerator, Request
from tests import toys
from tests.evaluators.conftest import bert, write_lines
from tests.vocabularies import word_level

WORDS = [f"w{i}" for i in range(61)]
LENGTHS = (3, 11, 1, 7, 7, 2, 19)
MOST = 12
MODELS = {
    "llama": toys.llama,
    "gpt2": toys.gpt2,
    # As many layers in the decoder as in the encoder: generate() makes its cache for these.
    "t5": lambda seed: toys.t5(seed, num_decoder_layers=2),
}


@pytest.fixture(scope="module")
def words() -> Any:
    """A tokenizer without a padding token."""
    tokenizer = word_level(WORDS)
    assert tokenizer.pad_token is None
    return tokenizer


@pytest.fixture(params=list(MODELS))
def model(request: pytest.FixtureRequest) -> Any:
    return MODELS[request.param](seed=3)


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 63, (n,), generator=generator).tolist() for n in LENGTHS]


def by_hand(model: Any, prompt: list[int], most: int, ends: set[int]) -> list[int]:
    """Greedy decoding as a textbook says it: the whole text again for every token."""
    reply: list[int] = []
    for _ in range(most):
        with torch.no_grad():
            if model.config.is_encoder_decoder:
                start = [model.config.decoder_start_token_id, *reply]
                output = model(torch.tensor([prompt]), decoder_input_ids=torch.tensor([start]))
            else:
                output = model(torch.tensor([prompt + reply]))
        token = int(output.logits[0, -1].argmax())
        if token in ends:
            break
        reply.append(token)
    return reply


def ask(model: Any, words: Any, size: int, most: int = MOST, **options: Any) -> list[list[int]]:
    generate = BatchGenerator(**options)
    requests = [Request(i, prompt, most) for i, prompt in enumerate(prompts())]
    batches = [requests[i : i + size] for i in range(0, len(requests), size)]
    return [reply.ids for batch in batches for reply in generate(model, words, batch)]


def dev(texts: list[str], **columns: list[Any]) -> datasets.Dataset:
    columns = {"answer": ["w0"] * len(texts), **columns}
    return datasets.Dataset.from_dict({"question": texts, **columns})


def constant(token: int, value: float = 100.0) -> Any:
    """A model that always writes the same token."""
    model = toys.llama()
    model.lm_head.bias = nn.Parameter(torch.zeros(64))
    model.lm_head.bias.data[token] = value
    return model


# -- token by token -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 7])
def test_replies_are_those_of_a_loop_without_batches(model: Any, words: Any, size: int) -> None:
    ends = {model.config.eos_token_id, 2}
    wanted = [by_hand(model, prompt, MOST, ends) for prompt in prompts()]
    assert ask(model, words, size) == wanted
    assert len({tuple(reply) for reply in wanted}) > 3
    direct = model.generate(
        torch.tensor([prompts()[0]]), max_new_tokens=MOST, do_sample=False, eos_token_id=list(ends)
    )
    start = 1 if model.config.is_encoder_decoder else LENGTHS[0]
    assert [token for token in direct[0, start:].tolist() if token not in ends] == wanted[0]


def test_an_end_token_ends_a_reply_and_none_of_it_counts(model: Any, words: Any) -> None:
    free = ask(model, words, 7)
    end = free[0][2]
    model.generation_config.eos_token_id = [2, end]
    cut = [reply[: reply.index(end)] if end in reply else reply for reply in free]
    assert cut != free
    assert ask(model, words, 7) == ask(model, words, 1) == cut


def test_other_settings_of_generation_do_not_count(model: Any, words: Any) -> None:
    wanted = ask(model, words, 3)
    settings: dict[str, Any] = {
        "do_sample": True,
        "temperature": 3.0,
        "num_beams": 3,
        "repetition_penalty": 5.0,
        "no_repeat_ngram_size": 1,
        "max_length": 4,
        "min_new_tokens": 12,
        "suppress_tokens": wanted[0][:2],
        "sequence_bias": {(wanted[1][0],): -100.0},
        "forced_eos_token_id": 2,
    }
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    before = copy.deepcopy(model.generation_config.to_dict())
    assert ask(model, words, 3) == wanted
    assert model.generation_config.to_dict() == before


@pytest.mark.parametrize("make", [MODELS["llama"], MODELS["t5"], toys.gpt2])
def test_what_prompts_have_in_common_is_read_once(make: Any, words: Any) -> None:
    model, shots = make(seed=3), [f"w{i}" for i in range(28, 56)]
    common = words(" ".join(shots))["input_ids"]
    asked = [common + prompt for prompt in prompts()[:4] if len(prompt) < 10]
    if model.config.model_type == "gpt2":
        model = make(seed=3, n_positions=64)
    requests = [Request(i, prompt, 5) for i, prompt in enumerate(asked)]
    read: list[tuple[int, ...]] = []
    model.get_input_embeddings().register_forward_pre_hook(
        lambda _, args: read.append(tuple(args[0].shape))
    )
    found = [reply.ids for reply in BatchGenerator()(model, words, requests)]
    if not model.config.is_encoder_decoder:
        assert read[:2] == [(1, len(common)), (3, 7)]
    ends = {model.config.eos_token_id, 2}
    assert found == [by_hand(model, prompt, 5, ends) for prompt in asked]


def test_a_reply_ends_with_the_context(words: Any) -> None:
    model = toys.gpt2(seed=3, n_positions=24)
    texts = [" ".join(WORDS[i : i + n]) for i, n in enumerate((2, 22, 20, 5))]
    evaluator = Generation(dev(texts), tokenizer=words, max_new_tokens=9, batch_size=4)
    found = {row["question"]: row["reply"] for row in evaluator.replies(model)}
    for text, most in zip(texts, (9, 2, 4, 9), strict=True):
        ids = words(text)["input_ids"]
        assert found[text] == words.decode(by_hand(model, ids, most, {2}))


def test_refills_write_what_a_checkpoint_on_the_disk_does(words: Any, tmp_path: Path) -> None:
    base, *experts = toys.family(tmp_path, experts=2, scale=0.2)
    for checkpoint in (base, *experts):
        words.save_pretrained(checkpoint.folder)
    methods = [mo.recipes.task_arithmetic, mo.recipes.ties, mo.recipes.dare_ties, mo.recipes.della]
    evaluators = [
        Generation(dev(["w1 w2 w3", "w4 w5", "w6"]), max_new_tokens=6, sampling=sampling)
        for sampling in (None, Sampling(seed=0))
    ]
    engine, seen = mo.Engine(), set()
    for number in range(20):
        recipe = methods[number % 4](base, experts, weight=[0.1 * number, 1 - 0.05 * number])
        model = engine.load(recipe)
        if number in (6, 13, 19):
            live = [evaluator.replies(model) for evaluator in evaluators]
            written = mo.write(recipe, tmp_path / str(number))
            fresh = transformers.AutoModelForCausalLM.from_pretrained(written)
            assert [evaluator.replies(fresh) for evaluator in evaluators] == live
            seen.add(str(live))
    assert len(seen) == 3


# -- drawn replies --------------------------------------------------------------------------------


def test_drawn_replies_are_the_same_in_any_batch(model: Any, words: Any) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    found = [ask(model, words, size, sampling=Sampling(seed=1)) for size in (1, 3, 7)]
    assert found[0] == found[1] == found[2]
    assert found[0] != ask(model, words, 7)
    assert found[0] != ask(model, words, 7, sampling=Sampling(seed=2))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.5}, {"top_k": 5}, {"top_p": 0.6, "temperature": 2.0}]
)
def test_tokens_are_drawn_with_their_probabilities(words: Any, options: dict[str, Any]) -> None:
    model, prompt, n = toys.llama(seed=3, vocab_size=64), prompts()[0], 3000
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1].double()
    p = (logits / options.get("temperature", 1)).softmax(0).numpy()
    order = np.argsort(-p)
    if "top_k" in options:
        p[order[options["top_k"] :]] = 0
    if "top_p" in options:  # the fewest that reach it
        p[order[np.searchsorted(p[order].cumsum(), options["top_p"]) + 1 :]] = 0
    p /= p.sum()
    generate = BatchGenerator(sampling=Sampling(seed=0, **options))
    requests = [Request(i, prompt, 1) for i in range(n)]
    # The token 2 ends a reply, which then is empty.
    drawn = Counter((reply.ids or [2])[0] for reply in generate(model, words, requests))
    counts = np.array([drawn[token] for token in range(64)])
    assert (counts[p == 0] == 0).all()
    assert np.abs(counts - n * p).max() < 4.5 * np.sqrt(n * p * (1 - p)).max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs a seed"),
        ({"seed": 0, "temperature": 0}, "temperature must be above 0"),
        ({"seed": 0, "top_p": 0}, "top_p must be"),
        ({"seed": 0, "top_k": 0}, "top_k must be"),
    ],
)
def test_sampling_says_what_is_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        Sampling(**options)


# -- texts, answers, scores -----------------------------------------------------------------------


def test_stop_texts_cut_replies_also_across_tokens(words: Any) -> None:
    model, texts = toys.llama(seed=3), ["w1 w2 w3", "w4 w5", "w6", "w7 w8 w9 w10 w11"]
    free = Generation(dev(texts), tokenizer=words, max_new_tokens=20).replies(model)
    one, two = (row["reply"].split() for row in free[:2])
    stops = [f"{one[3]} {one[4]}", two[6]]
    assert " " in stops[0]
    for size in (1, 4):
        evaluator = Generation(
            dev(texts), tokenizer=words, max_new_tokens=20, stop=stops, batch_size=size
        )
        for row, whole in zip(evaluator.replies(model), free, strict=True):
            ends = [whole["reply"].find(stop) for stop in stops if stop in whole["reply"]]
            assert row["reply"] == whole["reply"][: min(ends, default=None)].strip()
            assert row["tokens"] <= whole["tokens"]
        assert evaluator.replies(model)[0]["tokens"] == 5


def test_scores_are_per_example_with_the_tokens_of_the_reply(words: Any) -> None:
    model = toys.llama(seed=3)
    texts = ["w1 w2 w3", "w4 w5", "w6", "w7 w8"]
    first = [words.decode(by_hand(model, words(t)["input_ids"], 1, {2})) for t in texts]
    answers = [first[0], "w0", ["w60", first[2]], first[3]]
    data = datasets.Dataset.from_list(
        [
            {"q": t, "a": [a] if isinstance(a, str) else a}
            for t, a in zip(texts, answers, strict=True)
        ]
    )
    evaluator = Generation(
        data, question="q", answer="a", extract=r"^w\d+", tokenizer=words, max_new_tokens=5
    )
    evaluator.check(model)
    scores = np.empty((4, 2))
    for ids, some in evaluator(model):
        scores[ids] = some
    assert scores[:, 0].tolist() == [1, first[1] == "w0", 1, 1]
    lengths = [len(by_hand(model, words(t)["input_ids"], 5, {2})) for t in texts]
    assert scores[:, 1].tolist() == lengths
    assert evaluator.value(scores) == scores[:, 0].mean()
    assert evaluator.breakdown(scores) == {"reply_tokens": np.mean(lengths)}
    assert [row["answer"] for row in evaluator.replies(model)] == first


def test_a_scorer_of_ones_own_sees_the_answer_and_the_row(words: Any) -> None:
    data = dev(["w1", "w2"], weight=[2, -3])
    evaluator = Generation(
        data.remove_columns("answer"),
        scorer=lambda reply, example: example["weight"] * len(reply.split()),
        tokenizer=words,
        max_new_tokens=4,
    )
    scores = np.concatenate([some for _, some in evaluator(constant(7))])
    assert sorted(scores[:, 0]) == [-12, 8]
    broken = Generation(data, scorer=lambda *_: float("inf"), tokenizer=words, max_new_tokens=4)
    with pytest.raises(EvaluationError, match="row 0: the scorer returns inf"):
        broken.check(constant(7))


@pytest.mark.parametrize(
    "scorer", ["exact_match", "numeric", "token_f1", "rouge_l", "math_verify"]
)
@pytest.mark.parametrize("extract", [None, "last_number", r"is (\w+)", lambda reply: reply[0]])
def test_empty_replies_are_wrong(words: Any, scorer: str, extract: Any) -> None:
    package = {"rouge_l": "rouge_score", "math_verify": "math_verify"}.get(scorer)
    if package:
        pytest.importorskip(package, reason=f"needs {package}")
    evaluator = Generation(
        dev(["w1", "w2"]), scorer=scorer, extract=extract, tokenizer=words, max_new_tokens=4
    )
    model = constant(2)  # the end of a text
    evaluator.check(model)
    assert [row["reply"] for row in evaluator.replies(model)] == ["", ""]
    assert np.concatenate([some for _, some in evaluator(model)]).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_score_nan(words: Any, number: float) -> None:
    evaluator = Generation(dev(["w1", "w2"]), tokenizer=words, max_new_tokens=4)
    scores = np.concatenate([some for _, some in evaluator(constant(7, number))])
    assert np.isnan(scores[:, 0]).all()
    assert np.isnan(evaluator.value(scores))


def test_what_follows_the_end_of_a_reply_cannot_make_it_nan(words: Any) -> None:
    """What a batch writes behind a reply while others go on is no part of it."""
    model = toys.llama(seed=3)
    ids = [words(text)["input_ids"] for text in ("w1 w2", "w4 w5")]
    long = by_hand(model, ids[1], 6, {2})
    model.generation_config.eos_token_id = [2, by_hand(model, ids[0], 1, {2})[0]]
    model.config.pad_token_id = 60
    model.model.embed_tokens.weight.data[60] = float("nan")
    requests = [Request(i, prompt, 6) for i, prompt in enumerate(ids)]
    assert BatchGenerator()(model, words, requests) == [([], True), (long, True)]


def test_a_search_is_pruned_by_it_and_keeps_its_parts(words: Any, tmp_path: Path) -> None:
    base, one, two = toys.family(tmp_path, experts=2)
    texts = [f"w{i} w{i + 1}" for i in range(24)]
    evaluator = Generation(
        dev(texts), tokenizer=words, max_new_tokens=3, batch_size=4, scorer=lambda a, _: len(a)
    )
    recipe = mo.recipes.task_arithmetic(base, [one, two], weight=mo.free(0, 2))
    objective = mo.MergeObjective(recipe, evaluator)
    study = optuna.create_study(
        directions=objective.directions,
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=optuna.pruners.WilcoxonPruner(p_threshold=0.5),
    )
    study.optimize(objective, n_trials=6)
    whole = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert len(whole) < len(study.trials)
    assert all(mo.scores(study, trial).shape == (24,) for trial in whole)
    assert any("reply_tokens" in str(trial.user_attrs) for trial in whole)


# -- what is said before a search -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scorer": "bleu"}, "Unknown scorer 'bleu'. Scorers: exact_match, numeric"),
        ({"scorer": 3}, "scorer must be one of"),
        ({"extract": "last_nubmer"}, "Unknown extraction 'last_nubmer'"),
        ({"extract": "("}, "no regular expression"),
        ({"extract": 3}, "extract must be None"),
        ({"extract": lambda text: 3}, "row 0: extract must return a text"),
        ({"stop": ["", "x"]}, "stop must be texts"),
        ({"extract": "zzz"}, r'regular expression is "\(zzz\)"'),
        ({"sampling": {"temperature": 1}}, r"must be a Sampling, e\.g\. .*not \{'temperature'"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"answer": "anwser"}, "no column 'anwser'"),
        ({"question": "q"}, "the prompt names q"),
        (
            {"objectives": ("accuracy", "speed")},
            r"objectives must be one or more of accuracy, tokens, each once.*'speed'",
        ),
        ({"objectives": ["tokens", "tokens"]}, "each once"),
        ({"objectives": ()}, "one or more of accuracy, tokens"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        Generation(dev(["w1"]), **options)


def test_data_are_checked(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="empty"):
        Generation(dev([]))
    path = write_lines(tmp_path / "dev.jsonl", [{"question": "a", "answer": {"x": 1}}])
    with pytest.raises(EvaluationError, match=r"line 1: the answer .* is no text, number"):
        Generation(path)
    with pytest.raises(EvaluationError, match=r"row 1: the answer is empty, and no reply"):
        Generation(datasets.Dataset.from_dict({"question": ["a", "b"], "answer": ["1", " "]}))


def test_functions_of_ones_own_that_do_not_fit_are_named(words: Any) -> None:
    data, model = dev(["w1", "w2"]), constant(7)
    wrong: list[tuple[dict[str, Any], str]] = [
        (
            {"scorer": lambda answer, row: float(answer == row["solution"])},
            r"row 0: the scorer raises KeyError: 'solution'.*\(answer, row\).* question, answer",
        ),
        ({"scorer": lambda answer: 1.0}, r"row 0: the scorer raises TypeError"),
        ({"extract": lambda reply, row: reply}, r"row 0: extract raises TypeError: .*\(reply\)"),
    ]
    for options, message in wrong:
        with pytest.raises(EvaluationError, match=message):
            list(Generation(data, tokenizer=words, max_new_tokens=2, **options)(model))


def test_whether_a_reply_is_right_is_a_number(words: Any) -> None:
    evaluator = Generation(
        dev(["w1", "w2"], right=[True, False]),
        scorer=lambda answer, row: row["right"],
        tokenizer=words,
        max_new_tokens=2,
    )
    assert evaluator.value(np.concatenate([s for _, s in evaluator(constant(7))])) == 0.5


def test_groups_count_alike(words: Any) -> None:
    options: dict[str, Any] = {
        "scorer": lambda answer, row: row["points"],
        "tokenizer": words,
        "max_new_tokens": 2,
    }
    data = dev(["w1", "w2", "w3"], domain=["b", "a", "b"], points=[1.0, 4.0, 2.0])
    evaluator = Generation(data, group="domain", **options)
    assert evaluator.metric_names[0].endswith(" per domain")
    scores = np.concatenate([some for _, some in evaluator(constant(7))])
    assert scores.shape == (3, 3)
    assert evaluator.value(scores) == ((1.0 + 2.0) / 2 + 4.0) / 2
    assert evaluator.breakdown(scores) == {"reply_tokens": 2}
    assert evaluator.digest.keys() - Generation(data, **options).digest.keys() == {"groups"}


@pytest.mark.parametrize("group", [None, "domain"])
@pytest.mark.parametrize(
    "names", [("accuracy", "tokens"), ("tokens", "accuracy"), ("tokens",), "tokens"]
)
def test_objectives_are_means_of_what_a_loop_writes(words: Any, names: Any, group: Any) -> None:
    model, most = toys.llama(seed=3), 6
    texts, domains = ["w1 w2 w3", "w4 w5", "w6", "w7 w8", "w9"], [*"baaba"]
    ids = [words(text)["input_ids"] for text in texts]
    stop = by_hand(model, ids[0], 2, {2})[1]  # so that replies end early, one of them at least
    model.generation_config.eos_token_id = [2, stop]
    replies = [by_hand(model, prompt, most, {2, stop}) for prompt in ids]
    right = [True, False, True, True, False]
    data = dev(
        texts,
        domain=domains,
        answer=[
            words.decode(reply) if one else "w0" for reply, one in zip(replies, right, strict=True)
        ],
    )
    evaluator = Generation(
        data, objectives=names, group=group, tokenizer=words, max_new_tokens=most, batch_size=2
    )
    order = [names] if isinstance(names, str) else [*names]
    per = " per domain" if group else ""
    metrics = {"accuracy": f"exact_match{per}", "tokens": f"tokens{per}"}
    assert evaluator.metric_names == tuple(metrics[name] for name in order)
    assert evaluator.directions == tuple(
        {"accuracy": "maximize", "tokens": "minimize"}[name] for name in order
    )
    facts = {"accuracy": np.array(right, float), "tokens": np.array([*map(len, replies)])}
    assert facts["tokens"].min() < facts["tokens"].max()
    members = [np.array([*map(d.__eq__, domains)]) for d in "ab"] if group else [slice(None)]
    wanted = [np.mean([facts[name][some].mean() for some in members]) for name in order]
    found, scores = value_of(evaluator, model), np.empty((5, 3 if group else 2))
    assert found == pytest.approx(wanted[0] if len(order) == 1 else tuple(wanted), abs=1e-12)
    for some, rows in evaluator(model):
        scores[some] = rows
    np.testing.assert_array_equal(scores[:, 0], facts[order[0]])
    beside = {} if "tokens" in order else {"reply_tokens": facts["tokens"].mean()}
    assert evaluator.breakdown(scores) == beside
    assert (
        evaluator.digest
        == Generation(data, group=group, tokenizer=words, max_new_tokens=most, batch_size=2).digest
    ), "it is the same data"


@pytest.mark.parametrize("names", [("tokens",), ("accuracy", "tokens")])
def test_replies_of_a_broken_model_are_not_short(words: Any, names: Any) -> None:
    evaluator = Generation(dev(["w1", "w2"]), objectives=names, tokenizer=words, max_new_tokens=4)
    assert np.isnan(value_of(evaluator, constant(7, float("nan")))).all()


@pytest.mark.parametrize(
    ("make", "text", "options", "message"),
    [
        (toys.llama, "w1", {"chat": True}, "no chat template"),
        (toys.gpt2, " ".join(WORDS[:32]), {}, "row 1: the prompt has 32 tokens"),
        (toys.llama, "", {}, "row 1: the prompt is empty"),
        (lambda: bert(0), "w1", {}, "does not generate text"),
    ],
)
def test_a_check_says_what_is_wrong(
    words: Any, make: Any, text: str, options: dict[str, Any], message: str
) -> None:
    evaluator = Generation(dev(["w1", text]), tokenizer=words, **options)
    with pytest.raises(EvaluationError, match=message):
        evaluator.check(make())


def test_a_model_without_a_tokenizer_is_named() -> None:
    with pytest.raises(EvaluationError, match="no tokenizer"):
        Generation(dev(["w1"])).check(toys.llama())


def test_the_digest_covers_what_changes_a_score(words: Any) -> None:
    data, plain = dev(["w1", "w2"]), {}
    variants: list[dict[str, Any]] = [
        plain,
        {"prompt": "Q: {question}"},
        {"separator": "\n"},
        {"chat": True},
        {"system": "be kind"},
        {"examples": [{"question": "a", "answer": "b"}]},
        {"max_new_tokens": 3},
        {"stop": "w1"},
        {"stop": ["w2"]},
        {"sampling": Sampling(seed=0)},
        {"sampling": Sampling(seed=1)},
        {"sampling": Sampling(seed=1, top_k=4)},
        {"extract": "last_number"},
        {"extract": r"a(\d)"},
        {"scorer": "numeric"},
        {"scorer": lambda reply, example: 1.0},
        {"tokenizer": words},
    ]
    made = [json.dumps(Generation(data, **options).digest) for options in variants]
    made.append(json.dumps(Generation(dev(["w1", "w3"])).digest))
    assert len(set(made)) == len(made)
    in_ones = {**Generation(data).digest, "batch_size": 1}
    assert in_ones == Generation(data, batch_size=1).digest
    own = [
        Generation(dev(["w1"], extra=[n]), scorer=lambda reply, example: 1.0).digest
        for n in (1, 2)
    ]
    assert own[0] != own[1]
