"""The one door through which the YAML and JSON texts of users come in.

A text is looked at before anything recursive reads it: how long it is, how deep, how much it
holds once its aliases are written out. What YAML would silently read as something else than it
says (``12:30:00``, a key that stands there twice) is refused with its line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import yaml

from merge_optuna.errors import MergeOptunaError, MissingFile, RecipeError, short

MOST_CHARACTERS = 4_000_000  # of a document: a long genealogy has some 100,000
_MOST_DEPTH = 100
MOST_VALUES = 500_000  # of a JSON text: below 200 MB of Python objects
_MOST_YAML_VALUES = 150_000  # the same, of objects and nodes
_MOST_DIGITS = 400  # of a number; more than any float has

ErrorClass: TypeAlias = type[MergeOptunaError]
_TAGS = "tag:yaml.org,2002:"
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's where it is built in
_WORD = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)  # of JSON
_BRACKET = re.compile(r"[\[\]{}]")


@dataclass(frozen=True)
class Bounds:
    """How much a text may be.

    Attributes:
        characters: The most of them.
        values: The most of them in JSON, those inside of others too.
        error: What to raise where it is more, or nested too deep; as for any other fault when
            None.
    """

    characters: int = MOST_CHARACTERS
    values: int = MOST_VALUES
    error: ErrorClass | None = None


DOCUMENT = Bounds()


@dataclass(frozen=True)
class Surprise:
    """Plain words that YAML 1.1 reads as something else than they look like.

    Attributes:
        tag: What YAML takes them for.
        words: Which words of this tag.
        meaning: The same, for a message.
    """

    tag: str
    words: re.Pattern[str]
    meaning: str


MERGEKIT = (
    Surprise("int", re.compile(r".*:.*"), "a number to the base of 60"),
    Surprise("float", re.compile(r".*:.*"), "a number to the base of 60"),
    Surprise("timestamp", re.compile(r".*", re.DOTALL), "a date"),
)
"""What is refused in a document that mergekit can read too; it reads ``yes`` as true."""

OURS = (
    *MERGEKIT,
    Surprise("bool", re.compile(r"yes|no|on|off", re.IGNORECASE), "true or false"),
    Surprise("int", re.compile(r"[-+]?0[0-7_]+"), "a number to the base of 8"),
)
"""What is refused in a document of our own."""


def read_text(
    path: str | Path, *, error: ErrorClass = RecipeError, bounds: Bounds = DOCUMENT
) -> str:
    """The text in a file.

    Args:
        path: The file.
        error: What to raise.
        bounds: How many characters it may have.

    Raises:
        MissingFile: If no file is there.
        MergeOptunaError: ``error``, if it is a folder, not UTF-8 or too long, or cannot be read.
    """
    where = short(str(path), 300)
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(bounds.characters + 1)
    except FileNotFoundError as cause:
        raise MissingFile(f"No file {where!r}. Check the path.") from cause
    except IsADirectoryError as cause:
        raise error(f"{where!r} is a folder. Pass the file that is meant.") from cause
    except UnicodeDecodeError as cause:
        raise error(f"{where} is no text in UTF-8. Restore the file, or save it so.") from cause
    except (OSError, ValueError) as cause:  # ValueError: a NUL in the path
        said = getattr(cause, "strerror", None) or cause
        raise error(f"{where!r} cannot be read: {said}. Check the path.") from cause
    _check_length(text, where, bounds.error or error, bounds.characters)
    return text


def load_yaml(
    text: str,
    where: str,
    *,
    error: ErrorClass = RecipeError,
    surprises: tuple[Surprise, ...] = OURS,
    repeated: Callable[[str], None] | None = None,
) -> Any:
    """The content of a YAML text with one document; see :func:`load_all_yaml`."""
    documents = load_all_yaml(text, where, error=error, surprises=surprises, repeated=repeated)
    if len(documents) > 1:
        raise error(f"{where} holds {len(documents)} documents. Keep one; '---' separates them.")
    return documents[0] if documents else None


def load_all_yaml(
    text: str,
    where: str,
    *,
    error: ErrorClass = RecipeError,
    surprises: tuple[Surprise, ...] = OURS,
    repeated: Callable[[str], None] | None = None,
) -> list[Any]:
    """The contents of all documents of a YAML text.

    Args:
        text: The text.
        where: How errors call it.
        error: What to raise.
        surprises: What is refused although YAML can read it: :data:`OURS`, or :data:`MERGEKIT`
            for what is to be read as mergekit reads it.
        repeated: Called with a sentence for every key that a mapping has twice, e.g. to warn:
            the last value counts then, as it does for mergekit. An error when omitted.

    Raises:
        MergeOptunaError: ``error``, if it is no YAML, too much of it, or not what it looks like.
    """
    _check_length(text, where, error, MOST_CHARACTERS)
    scan = _Scan(where, error, surprises, repeated or _raising(error))
    try:
        for event in yaml.parse(text, Loader=_Loader):
            scan.see(event)
        return list(yaml.load_all(text, Loader=_Loader))
    except yaml.YAMLError as cause:
        raise error(f"{where} is not valid YAML: {_said(cause)}.") from cause
    except UnicodeEncodeError as cause:
        raise error(f"{where} is not valid YAML: it holds half a character.") from cause


def load_json(
    text: str, where: str, *, error: ErrorClass = RecipeError, bounds: Bounds = DOCUMENT
) -> Any:
    """The content of a JSON text.

    Args:
        text: The text.
        where: How errors call it.
        error: What to raise.
        bounds: How much it may be.

    Raises:
        MergeOptunaError: ``error``, if it is no JSON, too much of it, or has a key twice.
    """
    _check_length(text, where, bounds.error or error, bounds.characters)
    _check_json(text, where, bounds.error or error, bounds.values)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise error(f"{where} has {short(twice)!r} twice in one object. Remove one of them.")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except MergeOptunaError:
        raise
    except ValueError as cause:
        raise error(f"{where} is not valid JSON: {cause}. Restore or mend it.") from cause


def _raising(error: ErrorClass) -> Callable[[str], None]:
    def refuse(sentence: str) -> NoReturn:
        raise error(f"{sentence} Remove one of them.")

    return refuse


def _check_length(text: str, where: str, error: ErrorClass, most: int) -> None:
    if len(text) > most:
        raise error(f"{where} is longer than {most:,} characters. Is it the right file?")


def _check_json(text: str, where: str, error: ErrorClass, most: int) -> None:
    """Looks at brackets and commas, since the parser is recursive."""
    opened = text.count("[") + text.count("{")
    if opened <= _MOST_DEPTH and opened + text.count(",") <= most:
        return
    bare = _WORD.sub("", text)
    if sum(map(bare.count, "[{,")) > most:
        raise error(_too_many(where, most))
    depth = 0
    for found in _BRACKET.finditer(bare):
        depth += 1 if found[0] in "[{" else -1
        if depth > _MOST_DEPTH:
            raise error(_too_deep(where))
        if depth < 0:  # no JSON, as the parser will say
            return


def _too_deep(where: str) -> str:
    return f"{where} is nested more than {_MOST_DEPTH} deep. Is it the right file?"


def _too_many(where: str, most: int) -> str:
    return f"{where} holds more than {most:,} values. Is it the right file?"


def _said(cause: yaml.YAMLError) -> str:
    """What the parser says, in one line."""
    mark = getattr(cause, "problem_mark", None)
    problem = getattr(cause, "problem", None) or getattr(cause, "reason", None) or str(cause)
    said = short(" ".join(str(problem).split()), 200)
    return said if mark is None else f"{said} (line {mark.line + 1})"


@dataclass
class _Open:
    """A list or a mapping whose end is not yet seen.

    Attributes:
        anchor: How aliases call it.
        before: Values before it.
        is_mapping: In which keys and values take turns.
        at_key: Whether the next thing is a key.
        keys: Those seen, with their types.
    """

    anchor: str | None
    before: int
    is_mapping: bool
    at_key: bool
    keys: set[tuple[str, str]] = field(default_factory=set)


@dataclass
class _Scan:
    """Looks at the events of a YAML text, one after the other and without recursion."""

    where: str
    error: ErrorClass
    surprises: tuple[Surprise, ...]
    repeated: Callable[[str], None]
    values: int = 0
    open: list[_Open] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)  # of what aliases may stand for
    resolver: Any = field(default_factory=yaml.resolver.Resolver)

    def see(self, event: Any) -> None:
        """Looks at the next one."""
        match event:
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._start(event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._end()
            case yaml.ScalarEvent():
                self._scalar(event)
            case yaml.AliasEvent():
                self._alias(event)
            case yaml.DocumentStartEvent():
                self.sizes.clear()

    def _start(self, event: Any) -> None:
        self._check_tag(event)
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        self.open.append(_Open(event.anchor, self.values, is_mapping, at_key=is_mapping))
        if len(self.open) > _MOST_DEPTH:
            raise self.error(_too_deep(self.where))
        self._count(1)

    def _end(self) -> None:
        ended = self.open.pop()
        if ended.anchor is not None:
            self.sizes[ended.anchor] = self.values - ended.before
        self._passed()

    def _scalar(self, event: Any) -> None:
        self._check_tag(event)
        tag = self.resolver.resolve(yaml.ScalarNode, event.value, event.implicit)
        kind = tag.removeprefix(_TAGS)
        place, word = self._place(event), short(event.value)
        for surprise in self.surprises:
            if kind == surprise.tag and surprise.words.fullmatch(event.value):
                raise self.error(
                    f"{place}: {word} is {surprise.meaning} in YAML. Put it in quotes, or write "
                    "what is meant."
                )
        if kind in ("int", "float") and len(event.value) > _MOST_DIGITS:
            raise self.error(f"{place}: {word} is too long a number.")
        if event.anchor is not None:
            self.sizes[event.anchor] = 1
        self._count(1)
        self._key((tag, event.value), place)
        self._passed()

    def _alias(self, event: Any) -> None:
        if event.anchor in (one.anchor for one in self.open):
            raise self.error(
                f"{self._place(event)}: *{short(event.anchor)} stands inside of what it stands "
                "for. Write out what is meant."
            )
        self._count(self.sizes.get(event.anchor, 1))
        self._passed()

    def _key(self, key: tuple[str, str], place: str) -> None:
        if not self.open or not self.open[-1].at_key:
            return
        if key in self.open[-1].keys:
            self.repeated(f"{place}: {short(key[1])!r} stands twice in one mapping.")
        self.open[-1].keys.add(key)

    def _passed(self) -> None:
        """A key follows a value, and a value a key."""
        if self.open and self.open[-1].is_mapping:
            self.open[-1].at_key = not self.open[-1].at_key

    def _count(self, values: int) -> None:
        self.values += values
        if self.values > _MOST_YAML_VALUES:
            raise self.error(_too_many(self.where, _MOST_YAML_VALUES))

    def _check_tag(self, event: Any) -> None:
        """The types that YAML can be told are what fails in the oddest ways."""
        if event.tag not in (None, "!"):
            raise self.error(
                f"{self._place(event)}: !{short(event.tag.removeprefix(_TAGS))} gives a type. "
                "Leave it out."
            )

    def _place(self, event: Any) -> str:
        return f"{self.where}, line {event.start_mark.line + 1}"
