"""Errors a user can cause and mend.

Every message names the thing, the place and the remedy. All of them derive from
:class:`MergeOptunaError`, and each also from the built-in exception a caller would expect.
"""

from __future__ import annotations

from collections.abc import Sequence


class MergeOptunaError(Exception):
    """Base class of the errors that this package raises on purpose.

    A message that quotes something endless is shortened in its middle.
    """

    def __init__(self, message: str = "") -> None:
        most, end = 2000, 500
        if len(message) > most:
            message = f"{message[: most - end]} [...] {message[-end:]}"
        super().__init__(message)


class CheckpointError(MergeOptunaError, ValueError):
    """A checkpoint is missing, damaged, not a checkpoint, or has changed since it was recorded."""


class FileTooLarge(CheckpointError):
    """A file of a checkpoint holds more than is read of its kind: what it says is not known."""


class SourceChanged(CheckpointError):
    """The files of a checkpoint are not what was recorded: a search on them ends."""


class CheckpointMismatch(CheckpointError):
    """Checkpoints that should be merged do not fit together."""


class RecipeError(MergeOptunaError, ValueError):
    """A recipe names an unknown method or parameter, or a value outside its range."""


class NotImported(RecipeError):
    """A recipe or a space is of a module of somebody's own, which nothing has imported yet."""


class InfeasibleRecipe(MergeOptunaError, ValueError):
    """A recipe with valid parameters has no well-defined result, e.g. all weights are zero.

    During a search such a trial is pruned with this message as its reason.
    """


class EvaluationError(MergeOptunaError, ValueError):
    """An evaluator cannot score: an empty dev set, labels outside the model's range, ..."""


class EngineError(MergeOptunaError, RuntimeError):
    """An engine of another package cannot serve models: missing, another version, ..."""


class MissingFile(MergeOptunaError, FileNotFoundError):
    """A file that was named is not there."""


class StudyError(MergeOptunaError, ValueError):
    """A study does not fit what is to be run in it: other direction, other space, ..."""


class StorageError(StudyError, ConnectionError):
    """A storage cannot be opened, read or written: missing, damaged, full, away, ..."""


class UnknownStudy(StudyError, KeyError):
    """A storage has no study of this name, or has it no more."""

    __str__ = Exception.__str__  # a KeyError would show the quotes of its key

    @classmethod
    def among(cls, names: Sequence[str], name: str, place: str) -> UnknownStudy:
        """The error of a study that is not in a place, with those that are."""
        there = f"only {few(names)}" if names else "nor any other"
        return cls(f"There is no study {name!r} in {place}, {there}. Check the name.")

    @classmethod
    def gone(cls, place: str) -> UnknownStudy:
        """The error of a study or trial that was there."""
        return cls(
            f"The study was deleted from {place} while it was in use. Restore the storage, or "
            "start again to begin a new one."
        )


class DashboardError(MergeOptunaError, OSError):
    """A dashboard cannot be served: its port is in use, ..."""


class ReportError(MergeOptunaError, OSError):
    """A page cannot be written: no such folder, not a page, ..."""


class ExportError(MergeOptunaError, FileExistsError):
    """A folder cannot be written, usually because it is not empty."""


class HubError(MergeOptunaError, ConnectionError):
    """Something cannot be pushed to the hub: not logged in, offline, not allowed."""


def few(names: Sequence[str], most: int = 10) -> str:
    """Lists names for a message, the first ``most`` of them."""
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def shown(value: object, most: int = 80) -> str:
    """A value for a message, as Python writes it."""
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"a whole number of {value.bit_length():,} bits"  # Python refuses to write it
    return short(repr(value), most)


def short(text: str, most: int = 80) -> str:
    """A text for a message, the first ``most`` of its characters."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"
