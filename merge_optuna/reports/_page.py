"""A page that needs no server: figures, tables and commands of studies in one file."""

from __future__ import annotations

import html
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import optuna

from merge_optuna import _optuna_compat as compat
from merge_optuna._version import __version__
from merge_optuna.errors import ReportError, StudyError, shown
from merge_optuna.reports._boards import compared
from merge_optuna.reports._cards import CARDS, drawn
from merge_optuna.reports._tables import side_by_side
from merge_optuna.reports._told import Told
from merge_optuna.reports._view import View

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from merge_optuna.checkpoints import Checkpoint

Studies: TypeAlias = optuna.Study | Sequence[optuna.Study] | Mapping[str, optuna.Study]

_PAGES = ".html", ".htm"
_TAG = re.compile(r"</?(?:b|i|em|sub|sup|span|br)\b[^>]*>", re.IGNORECASE)
_MARGIN, _MARGIN_OF_BUTTONS = 36, 76
"""Pixels above a figure: its title has become text of the page, those of its parts stand there."""


class Picture(NamedTuple):
    """A figure as a page shows it.

    Attributes:
        study: Name of its study.
        key: Of its card.
        title: What it shows.
        subtitle: How to read it.
        height: Pixels.
        data: Its JSON, which can stand within HTML.
    """

    study: str
    key: str
    title: str
    subtitle: str
    height: int
    data: str


def save_html(
    studies: Studies,
    path: str | Path,
    *,
    sources: Mapping[str, Checkpoint | str | Path] | None = None,
    title: str | None = None,
) -> Path:
    """Writes a page on studies that needs nothing else: no server, no network, no database.

    What won and by how much over what, on dev and, if it was scored, on held-out data; the same
    figures as in the dashboard; what it cost; how to get the model. Of several studies all of it
    stands side by side. It can be read on a telephone, and printed.

    Args:
        studies: A study, a list of them, or studies by the names they get on the page.
        path: The file, ``.html``. An earlier one is replaced.
        sources: Checkpoints by name, as for :func:`mo.recipe_of`.
        title: Of the page; the names of the studies when omitted.

    Returns:
        The file.

    Raises:
        ReportError: If it cannot be written there.
        StudyError: If there is no study.
    """
    target = _checked(Path(path))
    told = [Told(View(study, sources), name) for name, study in _named(studies).items()]
    text = _rendered(told, title or ", ".join(one.name for one in told))
    _write(target, text)
    return target


def _checked(path: Path) -> Path:
    """Refuses what is no page before any work is done: a slip could cost a database."""
    if path.suffix.lower() not in _PAGES:
        raise ReportError(f"{path} is not the name of a page. Name the file, e.g. report.html.")
    if path.is_dir() or not path.parent.is_dir():
        what = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise ReportError(f"Cannot write the page {path}: {what}.")
    return path


def _named(studies: Studies) -> dict[str, optuna.Study]:
    """Studies by the names that they get on the page.

    Raises:
        StudyError: If there is none, or something else is among them.
    """
    if isinstance(studies, Mapping):
        found = {str(name): study for name, study in studies.items()}
    else:
        listed = [studies] if isinstance(studies, optuna.Study) else [*studies]
        _check(listed)
        found = dict(zip(_told_apart(listed), listed, strict=True))
    _check([*found.values()])
    return found


def _told_apart(studies: Sequence[optuna.Study]) -> list[str]:
    """The names of studies; where they are the same with their files, or else with numbers."""
    names = [study.study_name for study in studies]
    longer = [f"{s.study_name} in {Path(compat.url_of(s) or '').name}" for s in studies]
    if len({*longer}) < len(longer):
        longer = [f"{name} ({names[: i + 1].count(name)})" for i, name in enumerate(names)]
    return [
        name if names.count(name) == 1 else full for name, full in zip(names, longer, strict=True)
    ]


def _check(studies: Sequence[object]) -> None:
    if not studies:
        raise StudyError("There is no study to report on: the list is empty.")
    for study in studies:
        if not isinstance(study, optuna.Study):
            raise StudyError(
                f"A page is made of studies, not of {shown(study)}. Load one with "
                "optuna.load_study(study_name=..., storage=mo.storage(...))."
            )


# -- making it ------------------------------------------------------------------------------------


def _rendered(told: Sequence[Told], title: str) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("merge_optuna.reports", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["section"] = lambda key: key.partition("-")[2].capitalize()
    names = [one.name for one in told]
    several, why = _compared(told)
    return environment.get_template("page.html.jinja").render(
        title=title,
        told=told,
        pictures=_pictures(told),
        several=several,
        why=why,
        costs=side_by_side("What it cost", names, [[*one.costs] for one in told]),
        search=side_by_side("The search", names, [[*one.search] for one in told]),
        plotly=get_plotlyjs(),
        version=__version__,
        today=date.today().isoformat(),
    )


def _compared(told: Sequence[Told]) -> tuple[Any, str]:
    """The table over all studies, if there are several with results."""
    ended = {one.name: one.view.study for one in told if one.view.complete}
    if len(told) < 2 or not ended:
        return None, ""
    alike = all(name == study.study_name for name, study in ended.items())
    return compared([*ended.values()] if alike else ended)


def _pictures(told: Sequence[Told]) -> dict[str, list[Picture]]:
    """The figures of all studies by the question that they answer, in the order of the cards."""
    drawings = {one.name: drawn(one.view) for one in told}
    found: dict[str, list[Picture]] = {}
    for card in CARDS:
        for name, figures in drawings.items():
            if card.key in figures:
                picture = _picture(name, card.key, figures[card.key])
                found.setdefault(card.question, []).append(picture)
    return found


def _picture(study: str, key: str, figure: Figure) -> Picture:
    """A figure whose title has become text of the page, which is broken into lines there."""
    title, _, subtitle = (figure.layout.title.text or "").partition("<br><sup>")
    whole = figure.layout.meta or {}  # the words before they were broken into lines
    title, subtitle = whole.get("title", title), whole.get("subtitle", subtitle)
    top = figure.layout.margin.t
    needed = _MARGIN_OF_BUTTONS if figure.layout.updatemenus else _MARGIN
    if top is None or top > needed:
        figure.update_layout(margin_t=needed)
    figure.update_layout(title_text="", autosize=True, width=None)
    height = figure.layout.height or 420
    return Picture(study, key, _plain(title), _plain(subtitle), height, _within_html(figure))


def _plain(text: str) -> str:
    """A text of plotly without its tags."""
    return html.unescape(_TAG.sub(" ", text)).strip()


def _within_html(figure: Figure) -> str:
    """JSON that ends no element: names of studies may hold anything."""
    data = json.dumps(json.loads(figure.to_json()), separators=(",", ":"))
    return data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _write(path: Path, text: str) -> None:
    """All of it or nothing: an earlier page stays if the disk is full."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, delete=False, encoding="utf-8"
        ) as f:
            made = Path(f.name)
            f.write(text)
        made.chmod(0o666 & ~_umask())
        os.replace(made, path)
    except OSError as error:
        raise ReportError(f"Cannot write the page {path}: {error.strerror}.") from error


def _umask() -> int:
    """What the system takes away from the rights of a new file."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
