"""Models that an engine of its own serves: what evaluators of replies ask of one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import datasets
import numpy as np
import pytest
import torch

import merge_optuna as mo
from merge_optuna.errors import EvaluationError, StudyError
from merge_optuna.evaluators import Generation, Sampling, Serving
from tests import toys
from tests.vocabularies import word_level

TEXTS = ["w1 w2 w3", "w4 w5", "w6", "w7 w8 w9 w10 w11", "w12 w1 w1", "w3 w2", "w9"]


class Textbook:
    """An engine that writes token by token and reads everything again for each.

    It passes over stop texts, and leaves in the tokens that end a reply.
    """

    def __init__(self, model: Any, most_tokens: int = 64) -> None:
        self.config, self.generation_config = model.config, model.generation_config
        self.most_tokens, self.asked = most_tokens, list[int]()
        self._model = model

    def serve(
        self,
        prompts: Sequence[Sequence[int]],
        most: Sequence[int],
        *,
        ends: Collection[int],
        stops: Sequence[str] = (),
    ) -> list[list[int] | None]:
        self.asked.append(len(prompts))
        return [self._reply([*p], n, ends) for p, n in zip(prompts, most, strict=True)]

    def _reply(self, ids: list[int], most: int, ends: Collection[int]) -> list[int] | None:
        start = len(ids)
        while len(ids) < start + most and (len(ids) == start or ids[-1] not in ends):
            with torch.no_grad():
                logits = self._model(torch.tensor([ids])).logits[0, -1]
            if not logits.isfinite().all():
                return None
            ids = [*ids, int(logits.argmax())]
        return ids[start:]


@pytest.fixture(scope="module")
def words() -> Any:
    return word_level([f"w{i}" for i in range(61)])


def dev(texts: Sequence[str] = TEXTS) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"question": [*texts], "answer": ["w0"] * len(texts)})


def scores(evaluator: Any, model: Any) -> list[tuple[list[int], list[list[float]]]]:
    return [(ids.tolist(), some.tolist()) for ids, some in evaluator(model)]


def test_its_replies_are_scored_as_those_of_the_live_model(words: Any) -> None:
    model: Any = toys.llama(seed=3)
    options: dict[str, Any] = {"tokenizer": words, "max_new_tokens": 12, "batch_size": 2}
    free = Generation(dev(), **options).replies(model)
    written = [row["reply"].split() for row in free]
    first = written[0]
    row = max(range(1, len(TEXTS)), key=lambda row: len({*written[row]}))
    end = max({*written[row]}, key=written[row].index)  # the last one that comes anew
    model.generation_config.eos_token_id = [2, words.convert_tokens_to_ids(end)]
    for stop in ([], [f"{first[2]} {first[3]}"]):
        evaluator, served = Generation(dev(), stop=stop, **options), Textbook(model)
        assert isinstance(served, Serving)
        evaluator.check(served)
        found = evaluator.replies(served)
        assert found == evaluator.replies(model)
    assert scores(evaluator, served) == scores(evaluator, model)
    assert found[0]["tokens"] == 4
    assert 0 < found[row]["tokens"] < free[row]["tokens"]


def test_it_is_asked_for_several_batches_at_once(words: Any) -> None:
    texts = [f"w{i % 60} w{i % 7}" for i in range(300)]
    served = Textbook(toys.llama(seed=3))
    evaluator = Generation(dev(texts), tokenizer=words, max_new_tokens=1, batch_size=60)
    batches = evaluator(served)
    next(batches)
    assert served.asked == [240]  # a race may end here
    assert sum(len(ids) for ids, _ in batches) == 240
    assert served.asked == [240, 60]


def test_a_reply_ends_with_the_context_of_the_engine(words: Any) -> None:
    evaluator = Generation(dev(["w1 w2 w3", "w4"]), tokenizer=words, max_new_tokens=9)
    served = Textbook(toys.llama(seed=3), most_tokens=7)
    lengths = [len(words(text)["input_ids"]) for text in ("w1 w2 w3", "w4")]
    assert [row["tokens"] for row in evaluator.replies(served)] == [7 - n for n in lengths]
    with pytest.raises(EvaluationError, match="no room for a reply"):
        evaluator.check(Textbook(toys.llama(seed=3), most_tokens=lengths[0]))


def test_replies_without_numbers_score_nan(words: Any) -> None:
    model: Any = toys.llama(seed=3)
    model.lm_head.weight.data[7] = float("nan")
    evaluator = Generation(dev(), tokenizer=words, max_new_tokens=3)
    assert np.isnan(evaluator.value(np.concatenate([s for _, s in evaluator(Textbook(model))])))


def test_what_it_cannot_do_is_said_before_a_search(words: Any) -> None:
    served = Textbook(toys.llama(seed=3))
    drawn = Generation(dev(), tokenizer=words, sampling=Sampling(seed=0))
    with pytest.raises(EvaluationError, match="random numbers of its own, not by seed, example"):
        drawn.check(served)
    rows = [{"text": "w1 w2", "text2": "w3", "label": n, "answer": 0} for n in range(2)]
    data = datasets.Dataset.from_list(
        [{"question": "w1", "choices": ["w1", "w2"], **row} for row in rows]
    )
    base = mo.Checkpoint.from_module(toys.llama(), name="base")
    of_logits: list[Any] = [
        mo.evaluators.Classification(data),
        mo.evaluators.Regression(data),
        mo.evaluators.Similarity(data),
        mo.evaluators.NegativeLogLikelihood(data),
        mo.evaluators.KLDivergence(data, base),
        mo.evaluators.MultipleChoice(data, choices="choices"),
        mo.evaluators.Tasks({"a": mo.evaluators.Classification(data)}),
    ]
    for evaluator in of_logits:
        for call in (evaluator.check, lambda one: list(evaluator(one))):  # noqa: B023
            with pytest.raises(EvaluationError, match="Textbook gives replies, not logits"):
                call(served)


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        ([[5]], "Faulty.serve.. gives 1 replies to 2 prompts"),
        ([[5], "w1"], "gives 'w1' as a reply: it must be a list of token ids"),
        ([[5, 6, 7, 8], None], "gives a reply of 4 tokens where 3 were the most"),
    ],
)
def test_a_faulty_engine_is_named(words: Any, replies: Any, message: str) -> None:
    class Faulty(Textbook):
        def serve(self, *_: Any, **__: Any) -> Any:
            return replies

    evaluator = Generation(dev(["w1", "w2"]), tokenizer=words, max_new_tokens=3)
    with pytest.raises(EvaluationError, match=message):
        list(evaluator(Faulty(toys.llama(seed=3))))


def test_an_engine_that_lacks_something_is_told_what(words: Any) -> None:
    base = mo.Checkpoint.from_module(toys.llama(), name="base")
    evaluator = Generation(dev(), tokenizer=words)
    engine: Any = Textbook(toys.llama())
    with pytest.raises(StudyError, match="has no device, dtype, place, check, load, look_again"):
        mo.MergeObjective(
            mo.recipes.linear([base], weight=mo.free(0, 1)), evaluator, engine=engine
        )
