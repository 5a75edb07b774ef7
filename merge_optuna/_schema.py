"""The database: every attribute that this package keeps with studies and trials, said once.

``docs/database.md`` is written from the table below. Code that writes or reads an attribute takes
its key from here and nowhere else. What stands in older databases goes on being read: a key is
never given another meaning, and a reader of version n of a value reads those before it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from merge_optuna._markdown import page, table

SPACE = "space"
DEV = "dev"
CONSTRAINTS = "constraints"
FIRST = "first"
REASON = "reason"
ERROR = "error"
PARENTS = "parents"
PATH = "path"
SUMMARY = "recipe"
SECONDS_MERGE = "seconds_merge"
SECONDS_EVALUATE = "seconds_evaluate"
EXAMPLES = "examples"
SAME_AS = "same_as"
REFERENCE = "merge_optuna:reference:"
BASELINE = "merge_optuna:baseline:"
PARTS = "merge_optuna:parts"
TEST = "merge_optuna:test:"
BASELINE_OWNER = "merge_optuna:baseline owner:"
REPORTED = "merge_optuna:reported"
VALUE = "value/"
CONSTRAINT = "constraint/"
OWNER = "merge_optuna:owner"
CLAIM = "merge_optuna:claim"
KILLED = "merge_optuna:killed"
SURPLUS = "merge_optuna:surplus"
PARTIAL = "merge_optuna:partial"
SCORES = "merge_optuna:scores"
RECIPE = "merge_optuna:recipe"
CANDIDATE = "merge_optuna:candidate"

Level = Literal["study", "trial"]
Kind = Literal["user", "system"]


class Attribute(NamedTuple):
    """One attribute.

    Attributes:
        key: Its name.
        meaning: What it says.
        json: Its value.
        writer: Who writes it.
        readers: Who reads it.
        version: Of its JSON; one more with each change of it.
    """

    key: str
    meaning: str
    json: str
    writer: str
    readers: str
    version: int = 1


_OBJECTIVE = "`mo.MergeObjective`"
_PEOPLE = "people"

ATTRIBUTES: Mapping[tuple[Level, Kind], Sequence[Attribute]] = {
    ("study", "user"): (
        Attribute(
            SPACE,
            "The space, so that the database alone can rebuild a trial; none if it is a function.",
            "the YAML of a recipe or of a space of `mo.spaces`, as text",
            f"{_OBJECTIVE}, once",
            "`mo.recipe_of`, `mo.export`, `mo.lineage`; `mo.MergeObjective` refuses another",
        ),
        Attribute(
            DEV,
            "What the dev data are.",
            '`{"examples": number, part: digest, ...}`',
            f"{_OBJECTIVE}, once, if its evaluator has digests",
            "`mo.MergeObjective` refuses others",
        ),
        Attribute(
            CONSTRAINTS,
            "What its trials must keep, by the names of the constraints.",
            '`{name: {"than": text or number, "slack": number, "direction": text, "dev": as above '
            "or null}, ...}`",
            f"{_OBJECTIVE}, once, if it has constraints",
            "`mo.MergeObjective` refuses others; whoever shows a trial",
        ),
    ),
    ("study", "system"): (
        Attribute(
            REFERENCE,
            "With the name of a constraint behind it: what its merges must be no worse than.",
            '`{"value": number, "of": {name of a source: its value, ...}}`',
            f"{_OBJECTIVE}, once, before the first trial",
            f"{_OBJECTIVE} of all processes; whoever shows a trial",
        ),
        Attribute(
            BASELINE,
            "With a name behind it: a merge that needs no search, which a result is compared "
            "with. Not a trial, since a trial without parameters would end relative sampling.",
            '`{"place": number in the table, "kind": text, "tuned": whether the dev data have '
            'chosen it, "recipe": the JSON of its recipe as text or null, "values": [number, ...] '
            'or null, "reason": why there are none or null, "examples": number, "seconds": '
            'number, "breakdown": {name: number, ...}, "scores": as those of a trial or null, '
            '"constraints": {name: {"value": number, "violation": number}, ...} if there are any, '
            '"of": digest of models and dev data}`; null where that was of others',
            "`mo.MergeStudy`, `mo.baselines`",
            "`mo.baselines`, `mo.leaderboard`, `mo.optimize`, `mo.recipe_of`, `mo.export`, "
            "`merge-optuna show`",
        ),
        Attribute(
            PARTS,
            "Of which task or group each dev example is, if there are several.",
            '`{"names": [text, ...], "n": number, "data": base64 of zlib of n little-endian '
            "uint16, places of names}`",
            f"{_OBJECTIVE}, once, if its evaluator has parts",
            "`mo.reports`",
        ),
        Attribute(
            TEST,
            "With who was scored behind it, e.g. `trial 7` or `baseline base`: what that scores "
            "on the held-out data, of which the search has seen nothing.",
            '`{"metrics": [text, ...], "directions": [text, ...], "values": [number, ...], '
            '"examples": number, "data": digests as in `dev` or null, "scores": as those of a '
            "trial or null}`",
            "`mo.MergeStudy.test_value`, `merge-optuna run`, of what it finds in the study",
            "`merge-optuna report`",
        ),
        Attribute(
            BASELINE_OWNER,
            "With a name behind it: the process that scores a baseline.",
            '`{"process": an owner as below without `trial`, "deaths": how many have died of it}`',
            "`mo.MergeStudy`, `mo.baselines`",
            "`mo.MergeStudy`, `mo.baselines`, so that several processes share the work",
        ),
        Attribute(
            REPORTED,
            "What its cards and its note show. These are where optuna-dashboard looks for them: "
            "`dashboard:plot_data:...` and `dashboard:note_...`, which nothing else reads.",
            '`{"finished": number of finished trials, "resume": the command that runs the search, '
            '"note": [length, digest], "size": [characters written so far, the last time]}`; '
            "`resume` and `note` may be missing",
            "`mo.optimize`, `mo.MergeStudy`, `mo.reports.refresh`",
            "the same: what is up to date is not written again, and what somebody has written "
            "below the note, or in its place, is kept",
        ),
    ),
    ("trial", "user"): (
        Attribute(
            SUMMARY,
            "What was merged, for people: method, means by model over the layers, or the path.",
            "a line of at most 200 characters, e.g. `ties: ja weight 0.62 density 0.41, math "
            "weight 0.3 density 0.52`",
            _OBJECTIVE,
            f"the notes of its study and of trials, {_PEOPLE}",
        ),
        Attribute(
            FIRST,
            "That `mo.MergeStudy(first=)` has queued it.",
            "its place there, from 0",
            "`mo.MergeStudy`",
            "`mo.MergeStudy`, which queues each once; `mo.optimize`, which leaves copies out",
        ),
        Attribute(
            REASON,
            "Why it was pruned, or has failed without an exception.",
            "a sentence",
            f"{_OBJECTIVE}, `mo.optimize`, `merge-optuna run`",
            f"`merge-optuna show`, `mo.callbacks.MaxFailures`, {_PEOPLE}",
        ),
        Attribute(
            ERROR,
            "The exception that its evaluation has raised.",
            "a traceback, as text",
            f"{_OBJECTIVE}, `mo.optimize`",
            f"`merge-optuna show`, `mo.callbacks.MaxFailures`, {_PEOPLE}",
        ),
        Attribute(
            PARENTS,
            "The trials that it descends from; parameters have ids of individuals instead.",
            "`{parameter: number of a trial, ...}`",
            _OBJECTIVE,
            _PEOPLE,
        ),
        Attribute(
            PATH,
            "The layer path, of recipes that are one.",
            "text, e.g. `A0-A1×1.12-B1`",
            _OBJECTIVE,
            f"`merge-optuna show`, {_PEOPLE}",
        ),
        Attribute(
            SECONDS_MERGE,
            "How long its merge took.",
            "seconds",
            _OBJECTIVE,
            f"`mo.leaderboard`, {_PEOPLE}",
        ),
        Attribute(
            SECONDS_EVALUATE,
            "How long its evaluation took.",
            "seconds",
            _OBJECTIVE,
            f"`mo.leaderboard`, {_PEOPLE}",
        ),
        Attribute(
            EXAMPLES,
            "On how many dev examples it was evaluated, those of constraints included; fewer than "
            "all if it was pruned, none if it is the `same_as` another.",
            "a number",
            _OBJECTIVE,
            f"`mo.leaderboard`, {_PEOPLE}",
        ),
        Attribute(
            SAME_AS,
            "The trial of the same recipe whose result it has taken over: value, scores and "
            "what was reported.",
            "number of a trial",
            f"{_OBJECTIVE}, if its evaluator is deterministic",
            f"{_OBJECTIVE}, {_PEOPLE}",
        ),
        Attribute(
            VALUE,
            "With a name behind it, e.g. that of a task: what the value of a trial that was "
            "evaluated on all examples is made of.",
            "a number in the units of the evaluator",
            f"{_OBJECTIVE}, if its evaluator breaks its values down",
            f"`merge-optuna show`, `mo.export` for the model card, {_PEOPLE}",
        ),
        Attribute(
            CONSTRAINT,
            "With the name of a constraint behind it: what its merge scores there. How far that "
            "is beyond the bound is where Optuna keeps it, in `trial.constraints`.",
            "a number in the units of the constraint's evaluator",
            f"{_OBJECTIVE}, if it has constraints",
            f"`merge-optuna show`, `mo.export` for the model card, {_PEOPLE}",
        ),
    ),
    ("trial", "system"): (
        Attribute(
            OWNER,
            "The process that runs it. One of another trial was copied by Optuna's retries.",
            '`{"trial": number, "host": text or null, "pid": number, "start": clock ticks since '
            "boot or null}`",
            "samplers, `mo.optimize`, `mo.MergeObjective`: whoever is first",
            "whoever waits for running trials, and fails those whose process is dead",
        ),
        Attribute(
            CLAIM,
            "Which candidate it evaluates, and what its sampler had seen finish: all that the "
            "sampler knows. `owner` stands there if nobody has signed before; a claim with the "
            "number of another trial was copied by Optuna's retries.",
            '`{"trial": number, "population": digest, "generation": number, "slot": number, "k": '
            'number, "attempt": number, "seed": number, "seen": [number, ...], "vectors": {"x": '
            'base64 of little-endian float64, ...}, "owner": as above or null, "parents": '
            "{parameter: number of a trial, ...}}`; `k`, `owner` and `parents` may be missing",
            "population samplers",
            "population samplers, spaces of individuals, `mo.lineage`, `mo.callbacks`",
        ),
        Attribute(
            KILLED,
            "That it was failed because its process had died.",
            "`true`",
            "whoever finds it so",
            "population samplers, which propose its candidate again, 20 times at most",
        ),
        Attribute(
            SURPLUS,
            "That it was failed for no fault of its candidate: it was interrupted, a source has "
            "changed, or others have reached the total.",
            "why, in words",
            "`mo.optimize`, `mo.MergeObjective`, population samplers",
            "population samplers, which propose its candidate again; whoever counts trials",
        ),
        Attribute(
            PARTIAL,
            "The value of a pruned trial as far as it got. Without it the last intermediate value "
            "counts, which is something else under `WilcoxonPruner`.",
            "a number in the units of the objective",
            _OBJECTIVE,
            "population samplers",
        ),
        Attribute(
            SCORES,
            "Its per-example scores; `mo.scores(study, trial)` unpacks them. NaN where a "
            "pruned trial was not evaluated.",
            '`{"n": number, "type": "bit" or "f4", "data": base64 of zlib of n bits or n '
            "little-endian float32}`",
            f"{_OBJECTIVE}, `mo.set_scores`",
            "`mo.scores`, `mo.leaderboard`, `mo.samplers.NichesSampler`",
        ),
        Attribute(
            RECIPE,
            "The recipe, of spaces that are functions.",
            "the JSON of a recipe, as text",
            _OBJECTIVE,
            "`mo.recipe_of`, `mo.export`",
        ),
        Attribute(
            CANDIDATE,
            "What it has scored, and how: trials with the same have the same result.",
            "text: digest of the recipe, data type and device of the live model, what is reported "
            "(`batches`, `running` or `nothing`)",
            f"{_OBJECTIVE}, if its evaluator is deterministic",
            f"{_OBJECTIVE}, which does not evaluate it again",
        ),
    ),
}


def taken(names: Collection[str]) -> list[str]:
    """Which names of somebody's user attributes of a trial are this package's."""
    keys = [own.key for own in ATTRIBUTES["trial", "user"] if own.key in names]
    return keys + sorted(name for name in names if name.startswith((VALUE, CONSTRAINT)))


_INTRODUCTION = """\
# What a database holds

Written from `merge_optuna/_schema.py` by `python -m merge_optuna._schema`.

Everything is in Optuna's own tables: parameters, values and states as in any study, and the
attributes below. With them the database alone can rebuild a model, let any process go on with the
search, and tell who runs which trial. System attributes have the prefix `merge_optuna:`. User
attributes have plain names, since the dashboard shows them: **the names below are taken**, all
others are yours. Values are JSON. A value gets another version when a reader of the one before
would take it for something else; all versions go on being read."""


def markdown() -> str:
    """``docs/database.md``."""
    return page([_INTRODUCTION, *_sections()])


def _sections() -> Iterator[str]:
    columns = ("attribute", "what it says", "JSON", "version", "written by", "read by")
    for (level, kind), attributes in ATTRIBUTES.items():
        yield f"## {kind.capitalize()} attributes of a {level}"
        rows = [
            (f"`{a.key}`", a.meaning, a.json, str(a.version), a.writer, a.readers)
            for a in attributes
        ]
        yield table(columns, rows)


if __name__ == "__main__":
    print(markdown(), end="")
