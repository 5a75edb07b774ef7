"""Whether a reply is in a language, by an offline identifier."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from merge_optuna.errors import EvaluationError, shown
from merge_optuna.evaluators._scorers import needed

# What language models mostly write. All 75 of lingua would take 900 MB and half a minute.
_CANDIDATES = (
    *("ar", "de", "en", "es", "fr", "hi", "id", "it", "ja", "ko"),
    *("nl", "pl", "pt", "ru", "sv", "th", "tr", "vi", "zh"),
)
_FEWEST = 10  # bytes of letters that tell a language
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_FORMULAS = re.compile(
    r"```.*?(?:```|\Z)"  # code
    r"|\$(?![\d\s])[^$\n]*\$"  # LaTeX, but not "$5 and $6"
    r"|\\\(.{,999}?\\\)|\\\[.{,999}?\\\]|\\[A-Za-z]+"
    r"|(?<![A-Za-z])[A-Za-z](?![A-Za-z])"  # variables and units
    r"|[\d_]+",
    re.DOTALL,
)
_SENTENCES = re.compile(r"(?<=[.!?。！？\n])")


class ReplyLanguage:
    """A language that replies must be in.

    A reply is taken apart into sentences, without digits, formulas, code and single letters, those
    with less than ten letters joined. It is in another language if lingua finds others in more of
    it, by bytes in UTF-8, than this one: one Japanese sentence at the end of English steps is not
    enough, and an English term in Japanese steps is no harm. What has less than ten letters in all
    (``294``, ``x = 5``, ``18 dollars``) tells no language, and passes. A letter counts as many
    times as it has bytes, but once if Chinese and Japanese share it: ``合計5個`` could be either.

    Args:
        code: Of ISO 639-1, e.g. ``"ja"``. Told apart are this language and 19 that are often
            written: ar de en es fr hi id it ja ko nl pl pt ru sv th tr vi zh.

    Raises:
        EvaluationError: If lingua does not know it, or is not installed.
    """

    def __init__(self, code: str) -> None:
        needed("lingua", f"language={code!r}")
        from lingua import IsoCode639_1, Language, LanguageDetectorBuilder

        codes = {language.iso_code_639_1.name.lower(): language for language in Language.all()}
        if code not in codes:
            raise EvaluationError(
                f"Unknown language {shown(code)}. Languages: {', '.join(sorted(codes))}."
            )
        self.code = code
        self._wanted = codes[code]
        names = sorted({code, *_CANDIDATES})
        self._detector: Any = LanguageDetectorBuilder.from_iso_codes_639_1(
            *(getattr(IsoCode639_1, name.upper()) for name in names)
        ).build()

    def allows(self, reply: str) -> bool:
        """Whether a reply is in this language, or in none that can be told."""
        this = others = 0
        for sentence in _sentences(_FORMULAS.sub(" ", reply)):
            found = self._detector.detect_language_of(sentence)
            size = len(sentence.encode())
            this += size * (found == self._wanted)
            others += size * (found not in (None, self._wanted))
        return this >= others


def _sentences(text: str) -> Iterator[str]:
    """The sentences of a text, joined until each has letters enough; what is left is dropped."""
    parts: list[str] = []
    letters = 0
    for sentence in _SENTENCES.split(text):
        parts.append(sentence.strip())
        letters += _letters(sentence)
        if letters >= _FEWEST:
            yield " ".join(parts).strip()
            parts, letters = [], 0


def _letters(text: str) -> int:
    return len("".join(filter(str.isalpha, _HAN.sub("x", text))).encode())
