"""What to type to get a model, a page or the dashboard of a study."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from merge_optuna import _optuna_compat as compat
from merge_optuna.recipes import Recipe
from merge_optuna.reports._view import View


class Command(NamedTuple):
    """A line for a shell.

    Attributes:
        what: It does, in a few words.
        line: To type.
    """

    what: str
    line: str


def commands_of(view: View) -> list[Command]:
    """What can be done with a study that is kept in a storage; nothing with one in memory."""
    url = url_for_people(compat.url_of(view.study))
    return [] if url is None else [*_commands(view, url)]


def from_recipe(recipe: Recipe) -> Command:
    """How the model is written from the text of its recipe alone."""
    line = _line([recipe], ["write", "recipe.yaml", "merged"])
    return Command("Write the merged checkpoint from recipe.yaml alone", line)


def url_for_people(url: str | None) -> str | None:
    """A URL that can be typed anywhere on this machine, without the password.

    That comes from where the driver looks for it, e.g. ``PGPASSWORD`` or ``~/.pgpass``.
    """
    scheme, slashes, path = (url or "").partition(":///")
    if slashes and scheme in ("sqlite", "journal"):
        return f"{scheme}:///{Path(path).absolute()}"
    return url and url.replace(":***@", "@", 1).replace("postgresql+psycopg:", "postgresql:", 1)


def _commands(view: View, url: str) -> Iterator[Command]:
    study, needs = ["--study", view.name], view.made_of
    if needs and view.best is not None:
        trial = [*study, "--trial", str(view.best.number)]
        yield Command(
            "Write the merged checkpoint, its weights bit for bit those of the trial",
            _line(needs, ["export", url, "merged", *trial]),
        )
        yield Command(
            "Print its recipe, exact", f"{_line(needs, ['show', url, *trial])} > recipe.yaml"
        )
    if needs and not view.single and view.complete:
        yield Command(
            "Write every model of the front; one of them: merge-optuna export ... --trial N",
            _line(needs, ["export-front", url, "merged", *study]),
        )
    yield Command("Look at all trials in the browser", _line([], ["dashboard", url]))
    yield Command("Write one page of all this", _line([], ["report", url, "report.html", *study]))


def _line(recipes: Sequence[Recipe], arguments: Sequence[str]) -> str:
    """The command, which imports modules of somebody's own that recipes need."""
    modules = dict.fromkeys(module for recipe in recipes for module in _modules(recipe))
    imports = [word for module in modules for word in ("--import", module)]
    return shlex.join(["merge-optuna", *imports, *arguments])


def _modules(recipe: Recipe) -> list[str]:
    found = [] if recipe.module is None else [recipe.module]
    inner = [one for one in recipe.sources if isinstance(one, Recipe)]
    for one in (*inner, *(nested for _, nested in recipe.nested)):
        found += _modules(one)
    return list(dict.fromkeys(found))
