"""Where a checkpoint comes from: what was opened there, and whether it is still that."""

from __future__ import annotations

import warnings
from pathlib import Path

from merge_optuna.checkpoints._digest import FORM, difference, form_of
from merge_optuna.checkpoints._files import first_changed
from merge_optuna.checkpoints._hub import is_hub_id, snapshot
from merge_optuna.checkpoints._store import Opened
from merge_optuna.errors import CheckpointError, SourceChanged, shown

IN_MEMORY = "module:"


class Source:
    """What was opened at a place; all checkpoints that see some of it share it.

    Attributes:
        store: The whole content.
        digest: Of it, in today's form, however it was recorded: a change during a search is
            noticed.
        times: How often it was opened again.
    """

    def __init__(self, store: Opened) -> None:
        self.store = store
        self.digest = store.digest()
        self.times = 0
        self._stamps = store.stamps()

    def check(self, ref: str, name: str, recorded: str) -> None:
        """Makes sure that it is what was recorded, and was that while it was read.

        Raises:
            SourceChanged: If not.
        """
        form = form_of(recorded)
        found = self.digest if form == FORM else self.store.digest(form)
        if found != recorded:
            raise SourceChanged(
                f"The content of {ref!r} has changed: {difference(recorded, found)}, but {name!r} "
                f"was recorded as {recorded}. Restore the checkpoint, or start a new study with "
                "the new content."
            )
        if changed := self.changed:
            raise SourceChanged(
                f"{changed[0]} {changed[1]} while it was read. Wait until {name!r} is complete, "
                "and open it again."
            )

    @property
    def changed(self) -> tuple[Path, str] | None:
        """The first file that is not as it was opened, and what has happened to it."""
        return first_changed(self._stamps)

    def renew(self, name: str, *, anyway: bool = False) -> None:
        """Opens the files again if one was touched, and makes sure that they say the same.

        Args:
            name: How it is called.
            anyway: It was made of a base that was opened again.

        Raises:
            SourceChanged: If the content is another, or cannot be read.
        """
        if (changed := self.changed) is None:
            if anyway:
                self.store.reopen()
                self.times += 1
            return
        file, what = changed
        try:
            self.store.reopen()
            found = self.store.digest()
        except (CheckpointError, OSError) as error:
            raise _changed(name, file, what, "it cannot be opened again") from error
        if found != self.digest:
            raise _changed(name, file, what, difference(self.digest, found))
        self._stamps = self.store.stamps()
        self.times += 1
        warnings.warn(
            f"{file} {what} since {name!r} was opened. All of it was read again: the content "
            "is the same, so the search goes on.",
            stacklevel=2,
        )


def _changed(name: str, file: Path, what: str, now: str) -> SourceChanged:
    return SourceChanged(
        f"{file} {what} since {name!r} was opened, and {now}. Nothing that was made of it is "
        "kept. Restore the file and start again, or open the checkpoint anew, in a new study."
    )


def place_of(ref: str | Path, revision: str | None) -> str:
    """The absolute path of a folder, the name of a model on the hub or of a module."""
    if not isinstance(ref, str | Path):
        raise CheckpointError(f"A checkpoint is a folder or a name on the hub, not {shown(ref)}.")
    text = str(ref)
    if text.startswith(IN_MEMORY):
        return text
    try:
        path = Path(ref).expanduser().absolute()
        is_there = path.exists()
    except (OSError, RuntimeError) as error:  # RuntimeError: no such home
        said = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{shown(text)} is no path: {said}. Check it.") from error
    # A revision makes it a model on the hub, whatever folders there are where it is opened again.
    if revision is None and is_there:
        return str(path)
    named = isinstance(ref, str) and is_hub_id(ref)
    if revision is not None and not named:
        raise CheckpointError(
            f"{text!r} is a path, and revision={revision!r} is for models on the hub. Leave "
            "revision= out."
        )
    return text if named else str(path)


def is_hub(place: str) -> bool:
    """Whether a place is a model on the hub."""
    return not (place.startswith(IN_MEMORY) or Path(place).is_absolute())


def folder_of(place: str, revision: str | None, part: str | None = None) -> Path:
    """The folder of a place; what is on the hub is downloaded first."""
    return snapshot(place, revision, part=part) if is_hub(place) else Path(place)
