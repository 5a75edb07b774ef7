"""The page of the commands, from what the commands themselves say."""

from __future__ import annotations

from collections.abc import Iterator

import typer
from click import Command

from merge_optuna.cli import app


def markdown() -> str:
    """All commands with their arguments and options."""
    group = typer.main.get_command(app)
    return "\n".join(part for name in group.commands for part in _told(name, group.commands[name]))


def _told(name: str, command: Command) -> Iterator[str]:
    yield f"## merge-optuna {name}\n\n{_text(command.help)}\n"
    yield "| | | |\n|---|---|---|"
    for one in command.params:
        option = ", ".join(f"`{name}`" for name in one.opts if name.startswith("-"))
        yield f"| {option} | {one.metavar or ''} | {_text(getattr(one, 'help', '')) or ''} |"
    yield ""


def _text(text: str | None) -> str:
    """In one paragraph; what Markdown would take for something else is escaped."""
    words = (text or "").replace("\n\n", "\0").split("\n")
    return " ".join(words).replace("\0", "\n\n").replace("|", "\\|").replace("[", "\\[")
