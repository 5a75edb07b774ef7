"""Storages that were damaged by hand: each is refused with one sentence, by whatever reads it.

A row of the table is a damage, where it is made, what must fail and what is said. Everything is
done to a copy of a search that was whole, in SQLite and in a journal.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal._storage import JournalOperation as Op

import merge_optuna as mo
from merge_optuna import cli
from merge_optuna.errors import MergeOptunaError, StudyError
from tests.spaces import searches
from tests.spaces.models import Waves, nets
from tests.trained import Task

optuna.logging.set_verbosity(optuna.logging.ERROR)

STORAGES = ("sqlite", "journal")
TRIALS = 6

# -- searches to be damaged ---------------------------------------------------------------------


def by_recipe(task: Task) -> mo.MergeStudy:
    evaluator = mo.evaluators.Classification(task.dev, batch_size=80)
    return mo.MergeStudy(
        "toy", mo.MergeObjective(task.recipe(), evaluator), n_trials=TRIALS, baselines=False
    )


def by_function(task: Task) -> mo.MergeStudy:
    base, *experts = task.checkpoints()

    def space(trial: optuna.Trial) -> mo.Recipe:
        return mo.recipes.ties(base, experts, density=trial.suggest_float("density", 0.1, 1))

    evaluator = mo.evaluators.Classification(task.dev)
    sampler = optuna.samplers.RandomSampler(seed=0)
    return mo.MergeStudy(
        "toy", mo.MergeObjective(space, evaluator), sampler=sampler, n_trials=2, baselines=False
    )


def by_parents(task: Task) -> mo.MergeStudy:
    space, sampler = searches.niches(nets())
    return mo.MergeStudy(
        "toy", mo.MergeObjective(space, Waves()), sampler=sampler, n_trials=9, baselines=False
    )


SEARCHES: dict[str, Callable[[Task], mo.MergeStudy]] = {
    "recipe": by_recipe,
    "function": by_function,
    "parents": by_parents,
}


@pytest.fixture(scope="module")
def whole(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with each search in each storage, all of one file."""
    folder = tmp_path_factory.mktemp("whole")
    for search, declare in SEARCHES.items():
        for kind in STORAGES:
            declare(task).run(f"{kind}:///{folder}/{search}.{kind}", progress=False)
        with sqlite3.connect(folder / f"{search}.sqlite") as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()
    return folder


# -- damages ------------------------------------------------------------------------------------

CLAIM, OWNER = "merge_optuna:claim", "merge_optuna:owner"
SCORES, RECIPE = "merge_optuna:scores", "merge_optuna:recipe"

Alter = Callable[[Any], Any]
_TABLES = {
    "trial system": ("trial_system_attributes", Op.SET_TRIAL_SYSTEM_ATTR, "system_attr"),
    "trial user": ("trial_user_attributes", Op.SET_TRIAL_USER_ATTR, "user_attr"),
    "study system": ("study_system_attributes", Op.SET_STUDY_SYSTEM_ATTR, "system_attr"),
    "study user": ("study_user_attributes", Op.SET_STUDY_USER_ATTR, "user_attr"),
}


@dataclass(frozen=True)
class Attribute:
    """Changes the value of an attribute, or writes it anew."""

    level: str
    key: str
    alter: Alter
    trial: int = 4

    def sqlite(self, file: Path) -> None:
        table = _TABLES[self.level][0]
        where = f"key = '{self.key}'"
        with sqlite3.connect(file) as database:
            owner = "study_id"
            if self.level.startswith("trial"):
                owner = "trial_id"
                where += f" AND trial_id = {self.trial + 1}"
            found = database.execute(f"SELECT value_json FROM {table} WHERE {where}").fetchone()
            value = json.dumps(self.alter(json.loads(found[0]) if found else None))
            database.execute(f"DELETE FROM {table} WHERE {where}")
            number = self.trial + 1 if owner == "trial_id" else 1
            database.execute(
                f"INSERT INTO {table} ({owner}, key, value_json) VALUES (?, ?, ?)",
                (number, self.key, value),
            )
        database.close()

    def journal(self, file: Path) -> None:
        _, code, field = _TABLES[self.level]
        records = read(file)
        mine = [
            r
            for r in records
            if r["op_code"] == code
            and self.key in r[field]
            and (self.level.startswith("study") or r["trial_id"] == self.trial)
        ]
        for record in mine:
            record[field][self.key] = self.alter(record[field][self.key])
        if not mine:
            end = next(i for i, r in enumerate(records) if _ends(r, self.trial))
            other = {"op_code": code, "worker_id": "x", field: {self.key: self.alter(None)}}
            records.insert(end, {**other, "trial_id": self.trial, "study_id": 0})
        write(file, records)


def _ends(record: dict[str, Any], trial: int) -> bool:
    return record["op_code"] == Op.SET_TRIAL_STATE_VALUES and record["trial_id"] == trial


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write(file: Path, records: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(r, separators=(",", ":")) + "\n" for r in records))


@dataclass(frozen=True)
class Rows:
    """Statements for SQLite, and a change of a journal's records."""

    sql: str
    records: Callable[[list[dict[str, Any]]], None]

    def sqlite(self, file: Path) -> None:
        with sqlite3.connect(file) as database:
            database.executescript(self.sql)
        database.close()

    def journal(self, file: Path) -> None:
        records = read(file)
        self.records(records)
        write(file, records)


def states(trial: int, **fields: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(records: list[dict[str, Any]]) -> None:
        next(r for r in records if _ends(r, trial)).update(fields)

    return change


def of_parameter(**fields: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(records: list[dict[str, Any]]) -> None:
        for record in records:
            if record["op_code"] == Op.SET_TRIAL_PARAM and record["trial_id"] == 4:
                record.update(fields)

    return change


def without_parameters(records: list[dict[str, Any]]) -> None:
    gone = [r for r in records if r["op_code"] == Op.SET_TRIAL_PARAM and r["trial_id"] == 4]
    for record in gone:
        records.remove(record)


@dataclass(frozen=True)
class Bytes:
    """Changes a file as a whole; for one kind of storage only."""

    kind: str
    alter: Callable[[bytes], bytes]

    def __getattr__(self, kind: str) -> Callable[[Path], None]:
        if kind != self.kind:
            raise AttributeError(kind)
        return lambda file: void(file.write_bytes(self.alter(file.read_bytes())))


@dataclass(frozen=True)
class Sql:
    """Statements for SQLite only."""

    sql: str

    def sqlite(self, file: Path) -> None:
        with sqlite3.connect(file) as database:
            database.executescript(self.sql)
        database.close()


def void(_: object) -> None:
    pass


def line(number: int, alter: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        lines = content.splitlines(keepends=True)
        lines[number] = alter(lines[number])
        return b"".join(lines)

    return change


def record(number: int, **fields: Any) -> Callable[[bytes], bytes]:
    return line(number, lambda text: json.dumps({**json.loads(text), **fields}).encode() + b"\n")


def less(name: str) -> Alter:
    return lambda stored: {k: v for k, v in stored.items() if k != name}


def photos(content: bytes) -> bytes:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE photos (id INTEGER PRIMARY KEY, name TEXT)")
    return database.serialize()


def zeros(content: bytes) -> bytes:
    """Every second page but the first is lost."""
    pages = [content[i : i + 4096] for i in range(0, len(content), 4096)]
    return b"".join(bytes(4096) if i % 2 else page for i, page in enumerate(pages))


def a_newer(alembic: str) -> str:
    return f"UPDATE alembic_version SET version_num = '{alembic}'"


RESUME, READ, SHOW = ("resume",), ("recipe", "export"), ("show",)
ALL = ("open", "show")
A_CLAIM = r"claim of trial 4 is damaged.*Restore"
UNFINISHED = Rows(
    "UPDATE trials SET state = 'RUNNING', datetime_complete = NULL WHERE number = 1",
    lambda records: records.remove(next(r for r in records if _ends(r, 1))),
)
DAMAGED_SCORES = r"scores of trial 4.*damaged"
LINE = r"[Ll]ine 9 of the journal \S+ is damaged.*sed -i\.bak 9d"

CASES: dict[str, tuple[str, Any, tuple[str, ...], str]] = {
    # what the samplers keep
    "claim is a word": (
        "recipe",
        Attribute("trial system", CLAIM, lambda _: "broken"),
        RESUME,
        A_CLAIM,
    ),
    "claim without generation": (
        "recipe",
        Attribute("trial system", CLAIM, less("generation")),
        RESUME,
        A_CLAIM,
    ),
    "claim of a newer version": (
        "recipe",
        Attribute("trial system", CLAIM, lambda c: {**c, "island": 3}),
        RESUME,
        A_CLAIM,
    ),
    "claim with a vector cut off": (
        "recipe",
        Attribute("trial system", CLAIM, lambda c: {**c, "vectors": {"x": "AAAAA"}}),
        RESUME,
        A_CLAIM,
    ),
    "claim with too short a vector": (
        "recipe",
        Attribute("trial system", CLAIM, lambda c: {**c, "vectors": {"x": "AAAAAAAAAAA="}}),
        RESUME,
        A_CLAIM,
    ),
    "claim that has seen the future": (
        "recipe",
        Attribute("trial system", CLAIM, lambda c: {**c, "seen": [99]}),
        RESUME,
        A_CLAIM,
    ),
    "claim of a generation in words": (
        "recipe",
        Attribute("trial system", CLAIM, lambda c: {**c, "generation": "two"}),
        RESUME,
        A_CLAIM,
    ),
    "claim with a seed in words": (
        "recipe",
        Attribute("trial system", CLAIM, lambda c: {**c, "seed": "x"}),
        RESUME,
        A_CLAIM,
    ),
    "parents that are not there": (
        "parents",
        Attribute("trial system", CLAIM, lambda c: {**c, "parents": {"parent_a": 99}}, 8),
        ("resume", "lineage"),
        r"descends from trial 99, which is missing",
    ),
    "parents in words": (
        "parents",
        Attribute("trial system", CLAIM, lambda c: {**c, "parents": {"parent_a": "x"}}, 8),
        ("resume", "lineage"),
        r"claim of trial 8 is damaged",
    ),
    "owner is a word": (
        "function",
        (Attribute("trial system", OWNER, lambda _: "broken", 1), UNFINISHED),
        RESUME,
        r"owner of trial 1 is damaged",
    ),
    "owner without pid": (
        "function",
        (Attribute("trial system", OWNER, less("pid"), 1), UNFINISHED),
        RESUME,
        r"owner of trial 1 is damaged",
    ),
    "partial value in words": (
        "recipe",
        (
            Attribute("trial system", "merge_optuna:partial", lambda _: "much"),
            Rows("UPDATE trials SET state = 'PRUNED' WHERE number = 4", states(4, state=2)),
        ),
        RESUME,
        r"partial value of trial 4 is damaged",
    ),
    # scores
    "scores cut off": (
        "recipe",
        Attribute("trial system", SCORES, lambda s: {**s, "data": s["data"][:-3]}),
        ("scores",),
        DAMAGED_SCORES,
    ),
    "scores of other bytes": (
        "recipe",
        Attribute("trial system", SCORES, lambda s: {**s, "data": "AAAA"}),
        ("scores",),
        DAMAGED_SCORES,
    ),
    "scores are a number": (
        "recipe",
        Attribute("trial system", SCORES, lambda _: 5),
        ("scores",),
        DAMAGED_SCORES,
    ),
    "scores of another number": (
        "recipe",
        Attribute("trial system", SCORES, lambda s: {**s, "n": 9999}),
        ("scores",),
        DAMAGED_SCORES,
    ),
    "scores of an unknown type": (
        "recipe",
        Attribute("trial system", SCORES, lambda s: {**s, "type": "f2"}),
        ("scores",),
        DAMAGED_SCORES,
    ),
    "scores that niches read": (
        "parents",
        Attribute("trial system", SCORES, less("data")),
        RESUME,
        DAMAGED_SCORES,
    ),
    # what the objective keeps
    "recipe cut off": (
        "function",
        Attribute("trial system", RECIPE, lambda text: text[:40], 1),
        READ,
        r"recipe of trial 1.*damaged",
    ),
    "recipe is a number": (
        "function",
        Attribute("trial system", RECIPE, lambda _: 5, 1),
        READ,
        r"recipe of trial 1.*damaged",
    ),
    "space is no YAML": (
        "recipe",
        Attribute("study user", "space", lambda _: "a: ["),
        ("resume", *READ),
        r"space of the study 'toy'.*damaged",
    ),
    "space is a number": (
        "recipe",
        Attribute("study user", "space", lambda _: 5),
        ("resume", *READ),
        r"space of the study 'toy'.*damaged",
    ),
    "space is a list": (
        "recipe",
        Attribute("study user", "space", lambda _: "[1, 2]"),
        ("resume", *READ),
        r"space of the study 'toy'.*damaged",
    ),
    "space of a newer version": (
        "recipe",
        Attribute("study user", "space", lambda s: s.replace(": 1", ": 9", 1)),
        ("resume", *READ),
        r"space of the study 'toy'.*damaged, or was written by a newer version",
    ),
    "space of another study": (
        "parents",
        Attribute("study user", "space", lambda _: "space: nothing"),
        ("resume", *READ),
        r"space of the study 'toy'.*damaged",
    ),
    "dev is a word": (
        "recipe",
        Attribute("study user", "dev", lambda _: "many"),
        RESUME,
        r"dev data of the study 'toy'.*damaged",
    ),
    "dev without a number": (
        "recipe",
        Attribute("study user", "dev", lambda _: {"x": 1}),
        RESUME,
        r"dev data of the study 'toy'.*damaged",
    ),
    "metric names are a number": (
        "recipe",
        Attribute("study system", "study:metric_names", lambda _: 5),
        ("resume", "show", "export"),
        r"metric names of the study 'toy'.*damaged",
    ),
    "metric names are too many": (
        "recipe",
        Attribute("study system", "study:metric_names", lambda _: ["a", "b"]),
        ("resume", "show", "export"),
        r"metric names of the study 'toy' is damaged",
    ),
    "reason is a number": (
        "recipe",
        (
            Attribute("trial user", "reason", lambda _: 5),
            Rows("UPDATE trials SET state = 'PRUNED' WHERE number = 4", states(4, state=2)),
        ),
        (),
        "",
    ),
    # what Optuna keeps
    "no value": (
        "recipe",
        Rows("DELETE FROM trial_values WHERE trial_id = 5", states(4, values=None)),
        ("resume", "show", "export"),
        r"[Tt]rial 4.*no value",
    ),
    "too many values": (
        "recipe",
        Rows(
            "INSERT INTO trial_values (trial_id, objective, value, value_type) "
            "VALUES (5, 1, 0.5, 'FINITE')",
            states(4, values=[0.5, 0.6]),
        ),
        ("resume", "show", "export"),
        r"[Tt]rial 4.*2 values",
    ),
    "no parameters": (
        "recipe",
        Rows("DELETE FROM trial_params WHERE trial_id = 5", without_parameters),
        ("recipe",),
        r"parameter",
    ),
    "a distribution that is none": (
        "recipe",
        Rows(
            "UPDATE trial_params SET distribution_json = '{}' WHERE trial_id = 5",
            of_parameter(distribution="{}"),
        ),
        ALL,
        r"cannot read|damaged",
    ),
    "a state that is none": (
        "recipe",
        Rows("UPDATE trials SET state = 'FLYING' WHERE number = 4", states(4, state=9)),
        ALL,
        r"cannot read|damaged",
    ),
    "a date that is none": (
        "recipe",
        Rows(
            "UPDATE trials SET datetime_complete = 'soon' WHERE number = 4",
            states(4, datetime_complete="soon"),
        ),
        ALL,
        r"cannot read|damaged",
    ),
    # files of SQLite
    "a text": ("recipe", Bytes("sqlite", lambda _: b"hello " * 999), ALL, "not a database"),
    "another program's": (
        "recipe",
        Bytes("sqlite", photos),
        ALL,
        "another program.*photos",
    ),
    "a journal": (
        "recipe",
        Bytes("sqlite", lambda _: b'{"op_code":0}\n'),
        ALL,
        "is a journal. Use journal:",
    ),
    "half a file": ("recipe", Bytes("sqlite", lambda b: b[: len(b) // 2]), ALL, "is damaged"),
    "lost pages": ("recipe", Bytes("sqlite", zeros), ALL, "is damaged"),
    "tables of a newer Optuna": (
        "recipe",
        Sql(a_newer("v9.0.0.a")),
        ALL,
        r"newer Optuna.*v9\.0\.0\.a.*pip install -U",
    ),
    "tables of an older Optuna": (
        "recipe",
        Sql(a_newer("v2.6.0.a")),
        ALL,
        r"older Optuna.*optuna storage upgrade",
    ),
    "two schema versions": (
        "recipe",
        Sql("INSERT INTO alembic_version VALUES ('v9')"),
        ALL,
        r"v9|cannot read",
    ),
    "an attribute that is no JSON": (
        "recipe",
        Sql("UPDATE trial_system_attributes SET value_json = '{' WHERE trial_id = 5"),
        ALL,
        "cannot read",
    ),
    "a space that is no JSON": (
        "recipe",
        Sql("UPDATE study_user_attributes SET value_json = '{'"),
        ALL,
        "cannot read",
    ),
    "a kind of value that is none": (
        "recipe",
        Sql("UPDATE trial_values SET value_type = 'BIG' WHERE trial_id = 5"),
        ALL,
        "cannot read",
    ),
    "a value that is NULL": (
        "recipe",
        Sql("UPDATE trial_values SET value = NULL WHERE trial_id = 5"),
        ALL,
        "cannot read",
    ),
    "values of another objective": (
        "recipe",
        Sql("UPDATE trial_values SET objective = 7 WHERE trial_id = 5"),
        ALL,
        "cannot read",
    ),
    "no directions": (
        "recipe",
        Sql("DELETE FROM study_directions"),
        ALL,
        "a study without directions",
    ),
    "no table of trials": ("recipe", Sql("DROP TABLE trials"), ALL, "lost the table trials"),
    "a table of other columns": (
        "recipe",
        Sql("DROP TABLE trial_params; CREATE TABLE trial_params (x INTEGER)"),
        ALL,
        "no such column.*Restore",
    ),
    "a trial that is gone": (
        "recipe",
        Sql("DELETE FROM trials WHERE number = 2"),
        RESUME,
        "Trial 2 is missing",
    ),
    # journal files
    "a text for a journal": (
        "recipe",
        Bytes("journal", lambda _: b"hello\nworld"),
        ALL,
        "not a journal of Optuna",
    ),
    "SQLite for a journal": (
        "recipe",
        Bytes("journal", lambda _: b"SQLite format 3\0" + bytes(99)),
        ALL,
        "is an SQLite database, not a journal. Use sqlite:",
    ),
    "half a line in the middle": (
        "recipe",
        Bytes("journal", line(8, lambda text: text[:30] + b"\n")),
        ALL,
        LINE,
    ),
    "two records in a line": (
        "recipe",
        Bytes("journal", line(8, lambda text: text[:30] + text)),
        ALL,
        LINE,
    ),
    "a line that is no UTF-8": (
        "recipe",
        Bytes("journal", line(8, lambda text: b'{"a":"\xff"}\n')),
        ALL,
        LINE,
    ),
    "a line that is a number": (
        "recipe",
        Bytes("journal", line(8, lambda text: b"5\n")),
        ALL,
        LINE,
    ),
    "an operation of a newer Optuna": (
        "recipe",
        Bytes("journal", record(8, op_code=99)),
        ALL,
        LINE,
    ),
    "an operation that is a list": (
        "recipe",
        Bytes("journal", record(8, op_code=[1])),
        ALL,
        LINE,
    ),
    "a record without its trial": (
        "recipe",
        Bytes("journal", line(8, lambda text: b'{"op_code":8,"worker_id":"x"}\n')),
        ALL,
        LINE,
    ),
    "the last line whole but no record": (
        "recipe",
        Bytes("journal", lambda text: text + b'{"op_\n'),
        ALL,
        "is damaged",
    ),
}


# -- what reads ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """One search, in one damaged file."""

    task: Task
    search: str
    url: str
    folder: Path

    def study(self) -> optuna.Study:
        opened = mo.storage(self.url, create=False)
        study = optuna.load_study(study_name="toy", storage=opened)
        void(study.trials)
        return study

    @property
    def trial(self) -> int:
        return 1 if self.search == "function" else 4

    def open(self) -> None:
        SEARCHES[self.search](self.task).open(self.url)

    def resume(self) -> None:
        SEARCHES[self.search](self.task).run(self.url, n_trials=20, progress=False)

    def recipe(self) -> None:
        void(mo.recipe_of(self.study(), self.trial))

    def export(self) -> None:
        best = {"recipe": None}.get(self.search, self.trial)
        mo.export(self.study(), self.folder / "out", trial=best)

    def lineage(self) -> None:
        mo.lineage(self.study(), 8)

    def scores(self) -> None:
        mo.scores(self.study(), self.trial)

    def show(self) -> None:
        """In a process of its own it would be four seconds."""
        sys.argv = ["merge-optuna", "show", self.url]
        cli.main()


COMMANDS: dict[str, tuple[str, Any, tuple[str, ...], str]] = {
    "export": (
        "function",
        CASES["recipe is a number"][1],
        ("export", "URL", "out", "--trial", "1"),
        r"recipe of trial 1 is damaged",
    ),
    "a recipe": (
        "recipe",
        CASES["space is a list"][1],
        ("show", "URL", "--trial", "4"),
        r"space of the study 'toy' is damaged",
    ),
    "lineage": (
        "parents",
        CASES["parents in words"][1],
        ("lineage", "URL", "--trial", "8"),
        r"claim of trial 8 is damaged",
    ),
    "an unknown study": (
        "recipe",
        CASES["reason is a number"][1],
        ("export", "URL", "out", "--study", "x"),
        r"no study 'x' in \S+, only toy",
    ),
    "a study of plain Optuna": (
        "recipe",
        (
            Rows("DELETE FROM study_user_attributes", lambda records: None),
            Attribute("study user", "space", lambda _: None),
        ),
        ("export", "URL", "out"),
        r"holds no recipes",
    ),
    "trials of plain Optuna": (
        "recipe",
        CASES["reason is a number"][1],
        ("lineage", "URL"),
        r"descends from no other",
    ),
}


@pytest.mark.parametrize("kind", STORAGES)
@pytest.mark.parametrize("name", COMMANDS)
def test_one_line_on_the_command_line(
    name: str,
    kind: str,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    search, damage, command, sentence = COMMANDS[name]
    file = tmp_path / f"s.{kind}"
    shutil.copy(whole / f"{search}.{kind}", file)
    for one in damage if isinstance(damage, tuple) else (damage,):
        getattr(one, kind)(file)
    given = {"URL": f"{kind}:///{file}", "out": str(tmp_path / "out")}
    monkeypatch.setattr(sys, "argv", ["merge-optuna", *(given.get(c, c) for c in command)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    said = capsys.readouterr().err
    assert caught.value.code == 1
    assert re.fullmatch(rf"Error: .*{sentence}.*\n", said), said
    assert not (tmp_path / "out").exists()


def rows() -> Iterator[Any]:
    for name, (search, damage, operations, sentence) in CASES.items():
        several = damage if isinstance(damage, tuple) else (damage,)
        for kind in STORAGES:
            if all(hasattr(one, kind) for one in several):
                yield pytest.param(
                    search, kind, several, operations, sentence, id=f"{name}, {kind}"
                )


@pytest.mark.parametrize(("search", "kind", "damage", "operations", "sentence"), list(rows()))
def test_one_sentence_each(
    search: str,
    kind: str,
    damage: tuple[Any, ...],
    operations: tuple[str, ...],
    sentence: str,
    whole: Path,
    task: Task,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    wrong = []
    for operation in operations:
        file = tmp_path / f"{operation}.{kind}"
        shutil.copy(whole / f"{search}.{kind}", file)
        for one in damage:
            getattr(one, kind)(file)
        before = file.read_bytes()
        reader = Reader(task, search, f"{kind}:///{file}", tmp_path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                getattr(reader, operation)()
            said = "nothing"
        except MergeOptunaError as error:
            said = str(error)
            if not isinstance(error, StudyError):
                said = f"{type(error).__name__} {said}"
        except SystemExit as error:
            said = capsys.readouterr().err
            one_line = error.code != 0 and len(said.splitlines()) == 1
            said = said if one_line else f"RAW exit {error.code}: {said}"
        except Exception as error:
            said = f"RAW {type(error).__name__}: {error}"
        if not re.search(sentence, said, re.DOTALL) or said.startswith("RAW"):
            wrong.append(f"{operation}: {said}")
        elif "is damaged" in said and "sed" in said:
            assert file.read_bytes() == before, "damage in the middle is not mended silently"
    assert not wrong, "\n".join(wrong)
