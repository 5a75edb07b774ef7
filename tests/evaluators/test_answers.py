"""What counts as an answer, a right one, and one in the right language: verdicts by hand."""

from __future__ import annotations

import re
import string
from collections import Counter
from fractions import Fraction
from typing import Any, NamedTuple

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators import Generation
from merge_optuna.evaluators._answers import last_number, number_in
from merge_optuna.evaluators._generator import Reply
from merge_optuna.evaluators._reply_language import ReplyLanguage
from merge_optuna.evaluators._scorers import (
    exact_match,
    math_verify,
    normalized,
    numeric,
    rouge_l,
    token_f1,
)


class Verdict(NamedTuple):
    reply: str
    reference: str
    answer: str  # its last number
    right: bool  # whatever its language
    japanese: bool  # or too short to tell


ENGLISH = "She sells 16 - 3 - 4 = 9 eggs a day. She makes 9 * 2 = $18 every day."
JAPANESE = (
    "1日に16個の卵から3個と4個を引くと、残りは9個です。9 × 2 = 18なので、毎日18ドルになります。"
)
# Composed for this test; the verdicts are a human's.
VERDICTS = [
    Verdict(ENGLISH, "Then 9 * 2 = <<9*2=18>>18.\n#### 18", "18", True, False),
    Verdict(f"{ENGLISH}\n#### 18", "18", "18", True, False),
    Verdict(JAPANESE, "18", "18", True, True),
    Verdict(JAPANESE, "#### 9", "18", False, True),
    Verdict("", "18", "", False, True),
    Verdict("I do not know the answer to this.", "18", "", False, False),
    Verdict("わかりません。もう一度お願いします。", "18", "", False, True),
    Verdict("18", "18", "18", True, True),
    Verdict("18.", "18", "18", True, True),
    Verdict("18.00", "#### 18", "18.00", True, True),
    Verdict("x = 18", "18", "18", True, True),
    Verdict("18 dollars", "18", "18", True, True),
    Verdict("１８ドルです", "18", "18", True, True),
    Verdict("答えは７０，０００円です。", "#### 70,000", "70000", True, True),
    Verdict("答えは7万ドルになります。", "70000", "70000", True, True),
    Verdict("売り上げの合計は、3万5千円でした。", "35000", "35000", True, True),
    Verdict("The house gained $70,000 in value.", "70000", "70000", True, False),
    Verdict("The house gained $70.000 in value.", "70000", "70.000", False, False),
    Verdict("The temperature is -5 degrees today.", "-5", "-5", True, False),
    Verdict("The temperature is −5 degrees today.", "5", "-5", False, False),
    Verdict("気温の差は10-5で、5度になります。", "5", "5", True, True),
    Verdict("Half of the pizza is left, that is 1/2.", "0.5", "1/2", True, False),
    Verdict("She ate 3/4 of it, and 1/4 is left.", "0.75", "1/4", False, False),
    Verdict("割合は12.5%なので、答えは12.5です。", "12.5", "12.5", True, True),
    Verdict("Either 18 or 20 dollars, I am not sure.", "18", "20", False, False),
    Verdict("The answer is \\boxed{42}.", "42", "42", True, False),
    Verdict("面積は 42 m² になりました。", "42", "42", True, True),
    Verdict(f"{ENGLISH}\n答えは18です。", "18", "18", True, False),
    Verdict(
        "まず、Tom は 3 apples を買います。次に 2 個を買うので、答えは 5 個です。",
        "5",
        "5",
        True,
        True,
    ),
    Verdict("她每天卖九个鸡蛋，每个两美元，所以她每天能赚18美元。", "18", "18", True, False),
    Verdict(
        "Sie verkauft jeden Tag 9 Eier und verdient damit 18 Dollar.", "18", "18", True, False
    ),
    Verdict("그녀는 매일 달걀을 팔아서 18달러를 법니다.", "18", "18", True, False),
    Verdict("$\\text{price} = 9 \\times 2 = 18$", "18", "18", True, True),
    Verdict("合計18個", "18", "18", True, True),
]


@pytest.mark.parametrize("verdict", VERDICTS, ids=lambda verdict: verdict.reply[:20])
def test_answers_and_their_scores(verdict: Verdict) -> None:
    assert (last_number(verdict.reply) or "") == verdict.answer
    assert numeric(verdict.reply, verdict.reference) == verdict.right


def test_languages_of_replies() -> None:
    pytest.importorskip("lingua", reason="needs lingua-language-detector")
    japanese = ReplyLanguage("ja")
    assert [japanese.allows(one.reply) for one in VERDICTS] == [one.japanese for one in VERDICTS]
    english = ReplyLanguage("en")
    assert english.allows(ENGLISH)
    assert not english.allows(JAPANESE)


def test_an_evaluator_scores_them_so() -> None:
    pytest.importorskip("lingua", reason="needs lingua-language-detector")
    data = datasets.Dataset.from_dict(
        {"question": [""] * len(VERDICTS), "answer": [one.reference for one in VERDICTS]}
    )
    options: dict[str, Any] = {"extract": "last_number", "scorer": "numeric"}
    evaluator = Generation(data, language="ja", **options)
    assert evaluator.metric_names == ("numeric in ja",)
    for row, one in enumerate(VERDICTS):
        judged = evaluator._judge(row, one.reply, Reply([7, 7], True))
        assert judged == (row, one.right and one.japanese, 2, one.reply, one.answer)
    assert evaluator.digest != Generation(data, **options).digest


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,000", 1000),
        ("12,345,678.90", Fraction("12345678.9")),
        ("1, 2", 2),
        ("1,2", 2),
        ("-$5", -5),
        ("$-5", -5),
        ("(-3)", -3),
        ("3 - 5", 5),
        ("x-5", 5),
        ("+7", 7),
        (".5", Fraction(1, 2)),
        ("3.", 3),
        ("2e5", 200000),
        ("2e-1", Fraction(1, 5)),
        ("3/0", None),
        ("3/4", Fraction(3, 4)),
        ("1億2000万", 120_000_000),
        ("1.5万", 15000),
        ("3千万円", 30_000_000),
        ("￥５００", 500),
        ("10 m²", 10),
        ("none", None),
        ("9" * 5000, None),
        ("1e99", 10**99),
        ("1e999999999", 999999999),  # nothing endless is made of it
    ],
)
def test_numbers(text: str, number: Any) -> None:
    assert number_in(text) == number


@given(st.text(alphabet="0123456789,.-+/$¥ e万千億年²½１％()\n", max_size=20))
def test_any_text_can_be_read(text: str) -> None:
    found = last_number(text)
    number = number_in(text)
    assert (found is None) <= (number is None)
    # A number that was read is read again as the same: it is what the rows of replies() show.
    assert found is None or number_in(found) == number


def squad(text: str) -> str:
    """The official evaluation of SQuAD 1.1."""
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


SENTENCES = [
    "The cat, the dog and a bird!",
    "the  cat and dog",
    "An apple a day: keeps (the) doctor away?",
    "cat bird bird",
    "1,000 cats",
    "",
]


@pytest.mark.parametrize("one", SENTENCES)
@pytest.mark.parametrize("two", SENTENCES)
def test_exact_match_and_f1_are_those_of_squad(one: str, two: str) -> None:
    assert normalized(one) == squad(one)
    assert exact_match(one, two) == (squad(one) == squad(two))
    found, wanted = Counter(squad(one).split()), Counter(squad(two).split())
    same = sum((found & wanted).values())
    if same:
        precision, recall = same / found.total(), same / wanted.total()
        assert token_f1(one, two) == pytest.approx(
            2 * precision * recall / (precision + recall), abs=1e-12
        )
    else:
        assert token_f1(one, two) == (not found and not wanted)


def test_numbers_keep_their_sign_and_point_in_exact_match() -> None:
    assert not exact_match("-5", "5")
    assert not exact_match("1.5", "15")
    assert exact_match("答えは、５。", "答えは5")
    assert token_f1("東京都です", "東京です") == pytest.approx(2 * 4 / 9)


def test_rouge_l_is_that_of_rouge_score() -> None:
    package = pytest.importorskip("rouge_score.rouge_scorer", reason="needs rouge-score")
    scorer = package.RougeScorer(["rougeL"])
    for one in SENTENCES:
        for two in SENTENCES:
            assert rouge_l(one, two) == scorer.score(two, one)["rougeL"].fmeasure
    assert rouge_l("今日は晴れです", "今日は雨です") == pytest.approx(2 * 5 / 13)


def test_math_verify_reads_latex_and_numbers() -> None:
    pytest.importorskip("math_verify", reason="needs math-verify")
    assert math_verify("The answer is $\\frac{1}{2}$.", "0.5") == 1
    assert math_verify("\\boxed{\\sqrt{2}}", "\\sqrt{2}") == 1
    assert math_verify("The answer is 3.", "$\\frac{1}{2}$") == 0
    assert math_verify("", "1") == 0


@pytest.mark.parametrize("code", ["jp", "japanese", ""])
def test_languages_are_checked(code: str) -> None:
    pytest.importorskip("lingua", reason="needs lingua-language-detector")
    with pytest.raises(EvaluationError, match=r"Unknown language .* ja, "):
        ReplyLanguage(code)


@pytest.mark.parametrize(
    ("options", "package"),
    [
        ({"scorer": "rouge_l"}, "rouge_score"),
        ({"scorer": "math_verify"}, "math_verify"),
        ({"language": "ja"}, "lingua"),
    ],
)
def test_a_package_that_is_missing_is_named(
    options: dict[str, Any], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    data = datasets.Dataset.from_dict({"question": ["a"], "answer": ["b"]})
    with pytest.raises(EvaluationError, match=r"pip install 'merge_optuna\[generation\]'"):
        Generation(data, **options)
