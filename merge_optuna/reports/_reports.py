"""What a search leaves behind for people to look at, as a declaration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from urllib.parse import unquote

from merge_optuna.errors import StudyError, shown

_FILES = "sqlite:///", "journal:///"
_BESIDE = ".artifacts"


@dataclass(frozen=True)
class Reports:
    """What ``reports=`` of a search takes: where its artifacts go, and how many there may be.

    Cards and notes lie in the storage of the study. Artifacts are files of single trials: recipe,
    picture, scores and replies of every new best, tracebacks.

    Attributes:
        artifacts: The folder that they go to. When omitted, that beside the file of the storage,
            ``merge.db.artifacts`` for ``merge.db``; none for a database server.
        limit_mb: Most megabytes (10^6 bytes) that they take there. Beyond it the oldest become one
            line that says how to make them again. 0 for no artifacts.

    Raises:
        StudyError: If the limit is no number, or negative.
    """

    artifacts: str | Path | None = None
    limit_mb: float = 100

    def __post_init__(self) -> None:
        limit = self.limit_mb
        if not isinstance(limit, Real) or isinstance(limit, bool) or math.isnan(limit):
            raise StudyError(
                f"limit_mb= is a number of megabytes, not {shown(limit)}: "
                "mo.reports.Reports(limit_mb=100); 0 for no artifacts."
            )
        if limit < 0:
            raise StudyError(f"limit_mb must not be negative, but is {limit}; 0 is no artifacts.")
        if self.artifacts is not None and not isinstance(self.artifacts, str | Path):
            raise StudyError(
                f"artifacts= is a folder, not {shown(self.artifacts)}: "
                "mo.reports.Reports(artifacts='merge.artifacts')."
            )

    def folder(self, url: str | None) -> Path | None:
        """Where the artifacts of a storage lie; None if there are to be none.

        Args:
            url: Of the storage, as :func:`mo.storage` takes it; None if it has none.
        """
        if not self.limit_mb:
            return None
        return artifacts_beside(url) if self.artifacts is None else Path(self.artifacts)


def as_reports(given: object) -> Reports | None:
    """What a search was given as ``reports=``; None for no reports.

    Raises:
        StudyError: If it is nothing of the kind.
    """
    if isinstance(given, Reports):
        return given
    if isinstance(given, bool):
        return Reports() if given else None
    raise StudyError(
        f"reports= is True, False or e.g. mo.reports.Reports(artifacts='folder'), not "
        f"{shown(given)}."
    )


def artifacts_beside(url: str | None) -> Path | None:
    """The folder of artifacts beside the file of a storage; None if it lies in no file."""
    for scheme in _FILES:
        if url is not None and url.startswith(scheme):
            file = unquote(url.removeprefix(scheme).partition("?")[0])
            return Path(file + _BESIDE) if file and file != ":memory:" else None
    return None
