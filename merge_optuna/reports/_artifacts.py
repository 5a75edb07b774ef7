"""Files of single trials, where optuna-dashboard finds them: at most so many bytes on disk."""

from __future__ import annotations

import html
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import optuna

from merge_optuna import _optuna_compat as compat

_ATTRIBUTE = "artifacts:"
_OURS = "6d657267"
"""How the names of files begin that this package writes: 'merg'. Others are not touched."""
_NAME = re.compile(rf"{_OURS}-[0-9a-f]+-([0-9a-f]+)-([0-9a-f])-[0-9a-f]{{12}}")
_SMALL = 1000
"""Bytes of what is too short to be replaced by a line."""


class Kind(NamedTuple):
    """What an artifact is.

    Attributes:
        file: Its name.
        mimetype: By which the dashboard shows it.
        again: How to make it again, in Python, with ``n`` for the number of its trial.
        line: How one line of text is written in such a file.
    """

    file: str
    mimetype: str
    again: str
    line: Callable[[str], str]


def _in_svg(text: str) -> str:
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="1000" height="40">'
        f'<text x="8" y="25" font-family="sans-serif" font-size="13">{html.escape(text)}</text>'
        "</svg>"
    )


RECIPE = Kind("recipe.yaml", "application/yaml", "mo.recipe_of(study, n).to_yaml()", "# {}".format)
PICTURE = Kind("heat-map.svg", "image/svg+xml", "mo.export(study, 'folder', trial=n)", _in_svg)
SCORES = Kind("scores.csv", "text/csv", "mo.scores(study, n)", '"{}"'.format)
REPLIES = Kind(
    "replies.jsonl",
    "application/jsonl",
    "evaluator.replies(mo.Engine().load(mo.recipe_of(study, n)))",
    lambda text: json.dumps({"removed": text}),
)
TRACEBACK = Kind("traceback.txt", "text/plain", "study.trials[n].user_attrs", str)

_KINDS = (RECIPE, PICTURE, SCORES, REPLIES, TRACEBACK)
"""In names of files by their place here: only ever add to the end."""


class Artifacts:
    """A folder of artifacts, shared by all studies and processes of a storage.

    Args:
        folder: Made when there is something to put into it.
        limit: Most bytes of what this package has put there, but for lines that are left.
    """

    def __init__(self, folder: Path, limit: float) -> None:
        self._folder, self._limit = folder, limit

    def put(self, trial: optuna.Trial, files: Mapping[Kind, str]) -> None:
        """Keeps files with a running trial.

        They are there before the trial says so: nothing ever refers to a file that is not whole.
        """
        if not files:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        attrs = {}
        for kind, text in files.items():
            name = _name(compat.study_id(trial.study), trial.number, kind)
            self._write(name, text)
            attrs[_ATTRIBUTE + name] = json.dumps(_described(name, kind))
        compat.set_attrs(trial.study, trial, user={}, system=attrs)
        self._fit()

    def _write(self, name: str, text: str) -> None:
        beside = self._folder / f".{name}.{os.getpid()}"
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, self._folder / name)

    def _fit(self) -> None:
        """Leaves a line of the oldest files until all are within the limit."""
        sizes = dict(self._sizes())
        total = sum(sizes.values())
        for name, size in sizes.items():
            if total <= self._limit:
                return
            if size > _SMALL:
                line = _removed(name)
                self._write(name, line)
                total -= size - len(line.encode())

    def _sizes(self) -> Iterator[tuple[str, int]]:
        """Of the files of this package, the oldest first."""
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name):
                    stat = entry.stat()
                    found.append((stat.st_mtime_ns, entry.name, stat.st_size))
        yield from ((name, size) for _, name, size in sorted(found))


def _name(study: int, trial: int, kind: Kind) -> str:
    return f"{_OURS}-{study:x}-{trial:x}-{_KINDS.index(kind):x}-{uuid.uuid4().hex[:12]}"


def _described(name: str, kind: Kind) -> dict[str, Any]:
    """As ``optuna.artifacts.upload_artifact`` does."""
    fields = {"artifact_id": name, "filename": kind.file, "mimetype": kind.mimetype}
    return {**fields, "encoding": None}


def _removed(name: str) -> str:
    found = _NAME.fullmatch(name)
    assert found is not None
    number, kind = int(found[1], 16), _KINDS[int(found[2], 16)]
    again = re.sub(r"\bn\b", str(number), kind.again)
    return kind.line(f"Removed for lack of room (limit_mb). To make it again: {again}") + "\n"
