"""The answer in a reply: its last number, what a regular expression finds, or a function's."""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import singledispatch
from typing import Any, TypeAlias

from merge_optuna.errors import EvaluationError, shown
from merge_optuna.evaluators._function import calling, function_digest

Extract: TypeAlias = str | re.Pattern[str] | Callable[[str], str | None] | None

_LONGEST = 100  # characters of what is still read as a number
_DIGITS = r"(?:(?:\d{1,3}(?:,\d{3})+(?!,?\d)|\d+)(?:\.\d+)?|\.\d+)"
# A sign counts where no term stands before it: "10-5" has no minus five.
_SIGN = r"(?:(?<![\w.)\]%])[-+])?(?:[$€£¥₩₹]\s?[-+]?)?"
_NUMBER = re.compile(
    rf"(?P<sign>{_SIGN})"
    rf"(?:(?P<japanese>(?:{_DIGITS}(?:千万|億|万|千))+{_DIGITS}?)"
    rf"|(?P<plain>{_DIGITS}(?:[eE][-+]?\d{{1,2}}(?![\w.]))?)(?:/(?P<below>\d+)(?![\d/]))?)",
    re.ASCII,
)
_TERM = re.compile(rf"({_DIGITS})(千万|億|万|千)?", re.ASCII)
_UNITS = {"": 1, "千": 10**3, "万": 10**4, "千万": 10**7, "億": 10**8}
# NFKC makes ASCII of full-width digits, signs and ￥, but leaves these.
_ASCII = str.maketrans({"−": "-", "–": "-", "‒": "-", "⁄": "/"})
_EXPONENTS = str.maketrans("", "", "⁰¹²³⁴⁵⁶⁷⁸⁹")  # it would make numbers of these: "10 m²"


def last_number(text: str) -> str | None:
    """The last number of a text, without separators of thousands, currency and unit; None if none.

    Full-width digits are digits. Read are signs (``-3``, ``−3``, ``-$3``; not the minus of
    ``10-5``), thousands (``1,000``), decimals (``1.50``, ``.5``, ``2e5``), fractions (``3/4``) and
    Japanese units (``3万5千`` is 35000); a sentence's full stop is none of it. LaTeX is not read:
    that is for ``scorer="math_verify"``.
    """
    found = _last(_NUMBER, readable(text))
    if found is None or len(found[0]) > _LONGEST:
        return None
    sign = "-" if "-" in found["sign"] else ""
    if found["japanese"] is not None:
        return sign + _decimal(_units(found["japanese"]))
    below = f"/{found['below']}" if found["below"] else ""
    return sign + found["plain"].replace(",", "") + below


def number_in(text: str) -> Fraction | None:
    """The last number of a text as a number; None if it has none, or divides by zero."""
    found = last_number(text)
    if found is None:
        return None
    above, _, below = found.partition("/")
    return None if below and not int(below) else Fraction(above) / int(below or 1)


def readable(text: str) -> str:
    """A text in Unicode's form NFKC, full-width digits as digits, every minus as ``-``."""
    return unicodedata.normalize("NFKC", text.translate(_EXPONENTS)).translate(_ASCII)


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


def _units(text: str) -> Fraction:
    terms = _TERM.findall(text)
    return sum((Fraction(n.replace(",", "")) * _UNITS[unit] for n, unit in terms), Fraction())


def _decimal(number: Fraction) -> str:
    return str(number.numerator) if number.denominator == 1 else str(float(number))


@dataclass(frozen=True)
class Extraction:
    """How the answer is found in a reply.

    Attributes:
        find: The answer in a text; None where there is none.
        digest: What a search is not continued without.
    """

    find: Callable[[str], str | None]
    digest: str

    def __call__(self, reply: str, where: str) -> str:
        """The answer in a reply, empty where there is none.

        Raises:
            EvaluationError: If a function returns anything but a text or None.
        """
        with calling(f"{where}: extract", "(reply), a text"):
            found = self.find(reply)
        if found is None:
            return ""
        if not isinstance(found, str):
            raise EvaluationError(
                f"{where}: extract must return a text, or None where there is no answer, not "
                f"{shown(found)}."
            )
        return found.strip()


_NAMED = {"last_number": last_number}


@singledispatch
def extraction(extract: Any) -> Extraction:
    """The extraction that ``extract=`` means: None, a name, a regular expression, a function.

    Raises:
        EvaluationError: If it is none of these.
    """
    if not callable(extract):
        raise EvaluationError(
            f"extract must be None, {', '.join(map(repr, _NAMED))}, a regular expression or a "
            f"function of the reply, not {shown(extract)}."
        )
    return Extraction(extract, function_digest(extract))


@extraction.register
def _(extract: None) -> Extraction:
    return Extraction(str, "the reply")


@extraction.register
def _(extract: str) -> Extraction:
    if extract in _NAMED:
        return Extraction(_NAMED[extract], extract)
    if extract.isidentifier():
        # It would find nothing but this very word, so it is a name that was misspelled.
        raise EvaluationError(
            f"Unknown extraction {extract!r}. Extractions: {', '.join(_NAMED)}, a regular "
            "expression, or a function of the reply. This very word as a regular expression is "
            f'"({extract})".'
        )
    try:
        pattern = re.compile(extract)
    except re.error as error:
        raise EvaluationError(
            f"extract {shown(extract)} is no regular expression: {error}."
        ) from error
    return extraction(pattern)


@extraction.register
def _(extract: re.Pattern) -> Extraction:  # type: ignore[type-arg]
    def last_match(reply: str) -> str | None:
        found = _last(extract, reply)
        return found and found[min(extract.groups, 1)]

    return Extraction(last_match, f"{extract.flags} {extract.pattern}")
