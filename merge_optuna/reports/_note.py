"""Notes in Markdown: of a study the words of its page, of a trial why it is worth a look."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from optuna.trial import FrozenTrial

from merge_optuna import _markdown as markdown
from merge_optuna._schema import DEV, EXAMPLES, SUMMARY
from merge_optuna.reports._commands import Command
from merge_optuna.reports._style import number
from merge_optuna.reports._tables import Fact
from merge_optuna.reports._told import Told
from merge_optuna.reports._view import View
from merge_optuna.study import front_of, in_words

_POINTS = 8
"""Of a front, as many as one reads."""


def study_note(view: View, resume: str | None = None) -> str:
    """What there is to know of a study: the words of its page, and how to go on.

    Args:
        view: The study.
        resume: The command that goes on with it.
    """
    told = Told(view, view.name)
    sections = {
        "": f"# {view.name}\n\n**{told.result}** – {told.measure}",
        "What won": _winner(view, told),
        "Against what": _baselines(view),
        "What to do now": _commands(told, resume),
        "What was searched": _searched(view, told),
        "What it cost": _facts(told.costs),
    }
    blocks = [
        f"## {title}\n\n{text}" if title else text for title, text in sections.items() if text
    ]
    return markdown.page(blocks)


def trial_note(view: View, trial: FrozenTrial) -> str:
    """Why a trial is worth a look: a new best."""
    values = _values(view, trial.values)
    what = "**New best**" if view.single else "**New on the front**"
    found = f"{what} after {_evaluations(view, trial)}: {values}{_beside(view, trial)}."
    blocks = [found + _recipe(trial)]
    if held := in_words(view.study, trial):
        blocks.append("\n".join(f"- {name}: {words}" for name, words in held.items()))
    return markdown.page(blocks)


def failure_note(trial: FrozenTrial, reason: str) -> str:
    """That it is the first to fail so."""
    lines = reason.strip().splitlines()
    blocks = [f"**First failure of this kind:** {_code(lines[-1])}"]
    if len(lines) > 1:
        blocks.append(f"```text\n{reason.strip()}\n```")
    return markdown.page(blocks)


# -- sections -----------------------------------------------------------------------------------


def _winner(view: View, told: Told) -> str:
    front = [] if view.single or not view.complete else [_front(view)]
    held = {} if view.best is None else in_words(view.study, view.best)
    kept = ["\n".join(f"- {name}: {words}" for name, words in held.items())] if held else []
    return "\n\n".join([" ".join(told.sentences), *front, *kept]) + _recipe(view.best)


def _recipe(trial: FrozenTrial | None) -> str:
    """What a trial has merged, in words, where it says so: no weight is read for a note."""
    summary = None if trial is None else trial.user_attrs.get(SUMMARY)
    return f"\n\nRecipe: {summary}." if summary else ""


def _front(view: View) -> str:
    front = front_of(view.study)
    rows = [(str(p.number), *map(number, p.values)) for p in list(front)[:_POINTS]]
    more = "" if len(front) <= _POINTS else f"\n\nThese are {_POINTS} of {len(front)}."
    return (
        f"None of these {len(front)} trials is better than another in all objectives.\n\n"
        + markdown.table(("trial", *view.metrics), rows)
        + more
    )


def _baselines(view: View) -> str:
    unknown = [""] * len(view.metrics)
    rows = [
        (row.name, *(unknown if row.values is None else map(number, row.values)), row.note)
        for row in view.baselines.headlines
    ]
    return markdown.table(("baseline", *view.metrics, ""), rows) if rows else ""


def _commands(told: Told, resume: str | None) -> str:
    commands = [*([] if resume is None else [Command("Go on with the search", resume)])]
    commands += told.commands
    return "\n\n".join(f"{one.what}:\n\n```sh\n{one.line}\n```" for one in commands)


def _searched(view: View, told: Told) -> str:
    blocks = [_facts([*told.search, *_digests(view)])]
    if told.sources is not None:
        blocks.append(markdown.table(told.sources.head, told.sources.rows))
    return "\n\n".join(blocks)


def _digests(view: View) -> list[Fact]:
    """Of the dev data: with others a search is not continued."""
    data = view.study.user_attrs.get(DEV)
    parts = {} if not isinstance(data, dict) else data
    return [Fact(part, _code(str(x))) for part, x in parts.items() if part != EXAMPLES and x]


def _facts(facts: Iterable[Fact]) -> str:
    return "\n".join(f"- {fact.term}: {fact.text}" for fact in facts)


# -- words --------------------------------------------------------------------------------------


def _values(view: View, values: Sequence[float]) -> str:
    pairs = zip(view.metrics, values, strict=True)
    return ", ".join(f"{name} {number(value)}" for name, value in pairs)


def _beside(view: View, trial: FrozenTrial) -> str:
    """How it stands to the best baseline."""
    row = view.baselines.best if view.single else None
    gain = view.baselines.gain(trial.values) if view.single else None
    if row is None or row.values is None or gain is None:
        return ""
    if gain == 0:
        return f" – as good as the best baseline, {row.name}"
    stands = "better" if gain > 0 else "worse"
    return (
        f" – {number(abs(gain))} {stands} than the best baseline, {row.name} "
        f"({number(row.values[0])})"
    )


def _evaluations(view: View, trial: FrozenTrial) -> str:
    n = sum(one.number <= trial.number for one in view.paid)
    return f"{n} evaluation{'s' * (n != 1)}"


def _code(text: str) -> str:
    return f"`{text.replace('`', chr(39))}`"
