"""How good an answer is: scorers by name, and functions of a user's own."""

from __future__ import annotations

import math
import re
import string
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np

from merge_optuna.errors import EvaluationError, few, shown
from merge_optuna.evaluators._answers import number_in, readable
from merge_optuna.evaluators._function import calling, function_digest
from merge_optuna.evaluators._prompts import Row
from merge_optuna.evaluators._protocol import as_number

Compare: TypeAlias = Callable[[str, str], float]
Scorer: TypeAlias = str | Callable[[str, Row], float]

_TOLERANCE = 1e-6
_PUNCTUATION = re.compile(
    # a minus before a number and a decimal point make it another number
    rf"(?!(?<![\w.])-(?=[\d.])|(?<!\S)\.(?=\d)|(?<=\d)\.(?=\d))[{re.escape(string.punctuation)}、。「」・]"
)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
# Scripts that are written without spaces: each character is a word.
_UNSPACED = r"\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
_CHARACTER = re.compile(rf"([{_UNSPACED}])")
_ROUGE_TOKEN = re.compile(rf"[a-z0-9]+|[{_UNSPACED}]")


# -- scorers by name ------------------------------------------------------------------------------


def normalized(text: str) -> str:
    """A text as the evaluation of SQuAD compares it (Rajpurkar et al. 2016).

    In Unicode's form NFKC and lower case, without punctuation (that of ASCII, and 、。「」・),
    without the words "a", "an" and "the", white space as one space. Other than there, the sign and
    the decimal point of a number stay: "-5" is not "5", "1.5" is not "15".
    """
    text = _PUNCTUATION.sub("", readable(text).lower())
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(answer: str, reference: str) -> float:
    """1 if both are the same text once they are :func:`normalized`, else 0."""
    return float(normalized(answer) == normalized(reference))


def numeric(answer: str, reference: str) -> float:
    """1 if the last numbers of both differ by at most 1e-6, else 0: "1,000" is "1000.0"."""
    a, b = number_in(answer), number_in(reference)
    return float(a is not None and b is not None and abs(a - b) <= _TOLERANCE)


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over words, as in SQuAD; 1 if both are empty.

    Words of the texts once they are :func:`normalized`; characters of Chinese, Japanese, Korean
    and Thai count as words.
    """
    found, wanted = (_CHARACTER.sub(r" \1 ", normalized(t)).split() for t in (answer, reference))
    if not found or not wanted:
        return float(found == wanted)
    same = sum((Counter(found) & Counter(wanted)).values())
    return 2 * same / (len(found) + len(wanted))


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L, the F-measure, as rouge-score computes it without a stemmer (Lin 2004).

    Characters of Chinese, Japanese, Korean and Thai, which rouge-score would drop, count as words.
    """
    scorer = import_module("rouge_score.rouge_scorer").RougeScorer
    scores = scorer(["rougeL"], tokenizer=_RougeWords()).score(reference, answer)
    return float(scores["rougeL"].fmeasure)


class _RougeWords:
    def tokenize(self, text: str) -> list[str]:
        return _ROUGE_TOKEN.findall(text.lower())


def math_verify(answer: str, reference: str) -> float:
    r"""1 if math-verify takes both for the same, as ``$\frac{1}{2}$`` and ``0.5``, else 0.

    What it cannot read or compare within 5 seconds is wrong. (Its clock is a signal, which only
    the main thread gets; in others it may take as long as it wants.)
    """
    library = import_module("math_verify")
    seconds = 5 if threading.current_thread() is threading.main_thread() else None

    def read(text: str) -> list[Any]:
        found: list[Any] = library.parse(text, parsing_timeout=seconds)
        return found or library.parse(f"${text}$", parsing_timeout=seconds)  # LaTeX without its $

    return float(library.verify(read(reference), read(answer), timeout_seconds=seconds))


@dataclass(frozen=True)
class _Named:
    compare: Compare
    package: str | None = None  # that it needs, as Python imports it


SCORERS = {
    "exact_match": _Named(exact_match),
    "numeric": _Named(numeric),
    "math_verify": _Named(math_verify, "math_verify"),
    "rouge_l": _Named(rouge_l, "rouge_score"),
    "token_f1": _Named(token_f1),
}


# -- what the evaluator asks ----------------------------------------------------------------------


@dataclass(frozen=True)
class Scoring:
    """How answers are scored.

    Attributes:
        name: Of the metric.
        score: The score of an answer, given the references, the row and where it stands.
        compares: Whether it compares with references.
        digest: What a search is not continued without.
    """

    name: str
    score: Callable[[str, Sequence[str], Row, str], float]
    compares: bool
    digest: str

    def __call__(self, answer: str, references: Sequence[str], row: Row, where: str) -> float:
        """The score of an answer, a finite number.

        Raises:
            EvaluationError: If a function returns anything else, or cannot be called so.
        """
        score = as_number(self.score(answer, references, row, where), f"{where}: the scorer")
        if not math.isfinite(score):
            raise EvaluationError(
                f"{where}: the scorer returns {score} for {shown(answer)}. Scores must be finite."
            )
        return score


def scoring(scorer: Scorer) -> Scoring:
    """The scoring that ``scorer=`` means: a name, or a function of the answer and the row.

    Raises:
        EvaluationError: If it is unknown, or needs a package that is not installed.
    """
    if not isinstance(scorer, str):
        return _own(scorer)
    if scorer not in SCORERS:
        raise EvaluationError(
            f"Unknown scorer {scorer!r}. Scorers: {', '.join(SCORERS)}, or a function "
            "(answer, row) -> number."
        )
    named = SCORERS[scorer]
    if named.package is not None:
        needed(named.package, f"scorer={scorer!r}")

    def best(answer: str, references: Sequence[str], row: Row, where: str) -> float:
        return max(named.compare(answer, reference) for reference in references)

    return Scoring(scorer, best, True, scorer)


def _own(scorer: Any) -> Scoring:
    if not callable(scorer):
        raise EvaluationError(
            f"scorer must be one of {', '.join(SCORERS)}, or a function (answer, row) -> "
            f"number, not {shown(scorer)}."
        )
    name = getattr(scorer, "__name__", type(scorer).__name__)

    def score(answer: str, references: Sequence[str], row: Row, where: str) -> float:
        takes = f"(answer, row), and this row has {few(list(row))}"
        with calling(f"{where}: the scorer", takes):
            found = scorer(answer, dict(row))
        return int(found) if isinstance(found, bool | np.bool_) else found

    return Scoring(name, score, False, function_digest(scorer))


def needed(package: str, what: str) -> None:
    """Imports a package of the extra ``generation``.

    Raises:
        EvaluationError: If it is not installed.
    """
    try:
        import_module(package)
    except ImportError as error:
        raise EvaluationError(
            f"{what} needs the package {package}: pip install 'merge_optuna[generation]'"
        ) from error
