"""The note of a study, in Markdown: what is merged, against what, what has won, what to do now."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from optuna.trial import FrozenTrial

from merge_optuna import _markdown as markdown
from merge_optuna import _optuna_compat as compat
from merge_optuna._schema import DEV, EXAMPLES
from merge_optuna.checkpoints import Checkpoint
from merge_optuna.errors import MergeOptunaError, short
from merge_optuna.recipes import Recipe, summary_of
from merge_optuna.reports._milestones import failures_of
from merge_optuna.reports._style import number
from merge_optuna.reports._view import View
from merge_optuna.study import counts, front_of, in_words
from merge_optuna.study.plumbing import stored_space

_POINTS = 8
"""Of a front, as many as one reads."""


def study_note(view: View, resume: str | None = None) -> str:
    """What there is to know of a study.

    Args:
        view: The study.
        resume: The command that goes on with it.
    """
    sections = {
        "": _head(view),
        "What won": _winner(view),
        "Against what": _baselines(view),
        "What is merged": _sources(view),
        "On what": _data(view),
        "What it cost": _cost(view),
        "What failed": _failures(view),
        "What to do now": _commands(view, resume),
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
    blocks = [found + _recipe(view.recipe(trial))]
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


def _head(view: View) -> str:
    better = {"maximize": "higher is better", "minimize": "lower is better"}
    metrics = [
        f"{name} ({better[direction]})"
        for name, direction in zip(view.metrics, view.directions, strict=True)
    ]
    return f"# {view.name}\n\nA search for the best {' and '.join(metrics)}."


def _winner(view: View) -> str:
    if not view.complete:
        return "No trial is complete yet."
    if not view.single:
        return _front(view)
    if view.best is None:
        return ""
    lines = [
        f"**Trial {view.best.number}** with {_values(view, view.best.values)}"
        f"{_beside(view, view.best)}, found after {_evaluations(view, view.best)}."
    ]
    lines += [f"- {name}: {words}" for name, words in in_words(view.study, view.best).items()]
    return "\n".join(lines) + _recipe(view.winner)


def _recipe(recipe: Recipe | None) -> str:
    """A recipe in words, where there are any."""
    if recipe is None:
        return ""
    try:
        return f"\n\nRecipe: {summary_of(recipe)}."
    except MergeOptunaError:  # its sources are gone
        return ""


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
    rows = [
        (row.name, *map(number, row.values or [float("nan")] * len(view.metrics)), row.note)
        for row in view.baselines.headlines
    ]
    return markdown.table(("baseline", *view.metrics, ""), rows) if rows else ""


def _sources(view: View) -> str:
    leaves = [*_leaves(view)]
    if not leaves:
        return ""
    rows = [(leaf.name, _code(str(leaf.ref)), _code(leaf.digest)) for leaf in leaves]
    return markdown.table(("model", "checkpoint", "digest"), rows)


def _leaves(view: View) -> Sequence[Checkpoint]:
    try:
        space = stored_space(view.study)
    except MergeOptunaError:
        return ()
    if space is None:
        return () if view.winner is None else view.winner.leaves()
    recipes = [space] if isinstance(space, Recipe) else space.recipes.values()
    return list({leaf.name: leaf for recipe in recipes for leaf in recipe.leaves()}.values())


def _data(view: View) -> str:
    data = dict(view.study.user_attrs.get(DEV) or {})
    if not data:
        return ""
    examples = data.pop(EXAMPLES, None)
    said = [] if examples is None else [f"{examples} dev examples."]
    said += [f"- {name}: {_code(str(digest))}" for name, digest in data.items()]
    return "\n".join(said)


def _cost(view: View) -> str:
    done = counts(view.study)
    states = [f"{done[state]} {state}" for state in ("complete", "pruned", "failed", "running")]
    said = f"{', '.join(s for s in states if not s.startswith('0 ')) or 'no'} trials"
    if not view.paid:
        return f"{said}."
    examples, seconds = view.costs(EXAMPLES)[-1], view.costs("seconds")[-1]
    paid = [f"{examples:,.0f} examples evaluated"] if examples else []
    paid += [f"{seconds:,.0f} s of merging and evaluating"] if seconds else []
    return "; ".join([said, *paid]) + "."


def _failures(view: View) -> str:
    return "\n".join(
        f"- {len(trials)} × {_code(short(kind, 200))}, first in trial {trials[0].number}"
        for kind, trials in failures_of(view.trials).items()
    )


def _commands(view: View, resume: str | None) -> str:
    lines = [] if resume is None else [("go on with the search", resume)]
    lines += _for_storage(view)
    if not lines:
        return ""
    return "```sh\n" + "\n".join(f"{line}  # {what}" for what, line in lines) + "\n```"


def _for_storage(view: View) -> Iterator[tuple[str, str]]:
    url = compat.url_of(view.study)
    if url is None:
        return
    if view.winner is not None:
        export = ["merge-optuna", "export", url, "merged", "--study", view.name]
        yield "write the best merge", shlex.join(export)
    yield (
        "one page of all this",
        shlex.join(["merge-optuna", "report", url, "report.html", "--study", view.name]),
    )


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
