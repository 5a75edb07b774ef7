"""Errors a user can cause and mend.

Every message names the thing, the place and the remedy. All of them derive from
:class:`MergeOptunaError`, and each also from the built-in exception a caller would expect.
"""

from __future__ import annotations

from collections.abc import Sequence


class MergeOptunaError(Exception):
    """Base class of the errors that this package raises on purpose."""


class CheckpointError(MergeOptunaError, ValueError):
    """A checkpoint is missing, damaged, not a checkpoint, or has changed since it was recorded."""


class SourceChanged(CheckpointError):
    """The files of a checkpoint are not what was recorded: a search on them ends."""


class CheckpointMismatch(CheckpointError):
    """Checkpoints that should be merged do not fit together."""


class RecipeError(MergeOptunaError, ValueError):
    """A recipe names an unknown method or parameter, or a value outside its range."""


class InfeasibleRecipe(MergeOptunaError, ValueError):
    """A recipe with valid parameters has no well-defined result, e.g. all weights are zero.

    During a search such a trial is pruned with this message as its reason.
    """


class EvaluationError(MergeOptunaError, ValueError):
    """An evaluator cannot score: an empty dev set, labels outside the model's range, ..."""


class StudyError(MergeOptunaError, ValueError):
    """A study does not fit what is to be run in it: other direction, other space, ..."""


class StorageError(MergeOptunaError, ConnectionError):
    """A storage cannot be opened."""


class ExportError(MergeOptunaError, FileExistsError):
    """A folder cannot be written, usually because it is not empty."""


class HubError(MergeOptunaError, ConnectionError):
    """Something cannot be pushed to the hub: not logged in, offline, not allowed."""


def few(names: Sequence[str], most: int = 10) -> str:
    """Lists names for a message, the first ``most`` of them."""
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more
