"""What optuna-dashboard shows of a study, put where it looks for it, all at once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from merge_optuna import _optuna_compat as compat
from merge_optuna._schema import REPORTED

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial
    from plotly.graph_objects import Figure

_CARD = "dashboard:plot_data:"
_PIECE = 30_000
"""Characters of one attribute; with what JSON escapes they fit into a TEXT of MySQL.

The dashboard writes 2,045, which was right for older tables, and reads any.
"""


def post(
    study: optuna.Study,
    cards: Mapping[str, Figure | None],
    note: str,
    facts: Mapping[str, Any],
) -> None:
    """Writes cards and note of a study in the place of those that are there.

    What a person has added below the note stays; a note that somebody has changed is theirs.

    Args:
        study: The study.
        cards: By their keys; one that is None vanishes.
        note: Markdown.
        facts: What is kept of this, beside the note.
    """
    attrs: dict[str, Any] = {}
    for key, figure in cards.items():
        attrs |= {} if figure is None else _pieces(f"{_CARD}{key}:", figure.to_json())
    before = compat.study_system_attrs(study)
    prefixes = [REPORTED, *(f"{_CARD}{key}:" for key in cards)]
    known, own = posted(study), {}
    if (tail := _added(before, known)) is not None:
        attrs |= _note("", before, note + tail)
        prefixes += _note_keys("")
        own = {"note": [len(note), _digest(note)]}
    elif "note" in known:
        own = {"note": known["note"]}
    size = sum(map(len, map(str, attrs.values())))
    own["size"] = [written(known)[0] + size, size]
    compat.replace_study_system_attrs(study, {**attrs, REPORTED: {**facts, **own}}, prefixes)


def post_note(study: optuna.Study, trial: FrozenTrial, note: str) -> None:
    """Writes the note of a trial, unless it has one."""
    of = f"{compat.trial_id(trial)}:"
    before = compat.study_system_attrs(study)
    version, _ = _note_keys(of)
    if version not in before:
        compat.replace_study_system_attrs(study, _note(of, before, note), _note_keys(of))


def posted(study: optuna.Study) -> Mapping[str, Any]:
    """What is kept of the last :func:`post`; empty if there was none."""
    found = compat.study_system_attrs(study).get(REPORTED)
    return found if isinstance(found, dict) else {}


def written(known: Mapping[str, Any]) -> tuple[int, int]:
    """How many characters all posts have written, and the last one, as :func:`posted` says."""
    total, last = known.get("size") or (0, 0)
    return total, last


def _note_keys(of: str) -> list[str]:
    """The key of the version of a note, and how those of its text begin."""
    return [f"dashboard:{of}note_ver", f"dashboard:{of}note_str:"]


def _note(of: str, before: Mapping[str, Any], text: str) -> dict[str, Any]:
    version, prefix = _note_keys(of)
    return {version: int(before.get(version) or 0) + 1, **_pieces(prefix, text)}


def _pieces(prefix: str, text: str) -> dict[str, str]:
    starts = range(0, len(text), _PIECE)
    return {f"{prefix}{i}": text[start : start + _PIECE] for i, start in enumerate(starts)}


def _added(before: Mapping[str, Any], known: Mapping[str, Any]) -> str | None:
    """What stands below the note that was written here; None if it is somebody else's."""
    _, prefix = _note_keys("")
    pieces = {int(key[len(prefix) :]): x for key, x in before.items() if key.startswith(prefix)}
    text = "".join(pieces[place] for place in sorted(pieces))
    if not text:
        return ""
    length, digest = known.get("note") or (0, "")
    return text[length:] if length and _digest(text[:length]) == digest else None


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
