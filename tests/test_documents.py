"""The door through which YAML and JSON texts come in: what passes, and what each refusal says."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from merge_optuna._documents import (
    MERGEKIT,
    Bounds,
    load_all_yaml,
    load_json,
    load_yaml,
    read_text,
)
from merge_optuna.errors import CheckpointError, MissingFile, RecipeError
from merge_optuna.recipes import Recipe
from merge_optuna.spaces._space import read

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)

YAML = [
    ("a: 12:30:00", "the file, line 1: 12:30:00 is a number to the base of 60 in YAML. Put it in"),
    ("a: 190:20:30.15", "190:20:30.15 is a number to the base of 60"),
    ("- 1\n- a: yes", "the file, line 2: yes is true or false in YAML"),
    ("off: 1", "off is true or false"),
    ("a: 010", "010 is a number to the base of 8"),
    ("a: 2001-99-99", "2001-99-99 is a date"),
    ("a: 2001-01-01 12:30:00", "2001-01-01 12:30:00 is a date"),
    ("a: " + "9" * 100_000, "9... (100,000 characters) is too long a number."),
    ("a: &a [*a]", "line 1: *a stands inside of what it stands for. Write out what is meant."),
    ("<<: &x {a: *x}", "line 1: *x stands inside of what it stands for"),
    (BOMB, "the file holds more than 150,000 values. Is it the right file?"),
    ("[" * 200_000, "the file is nested more than 100 deep. Is it the right file?"),
    ("".join(f"{' ' * i}a:\n" for i in range(300)), "nested more than 100 deep"),
    ("? " * 1000, "nested more than 100 deep"),
    ("[" + "1, " * 200_000 + "]", "more than 150,000 values"),
    ("x" * 10_000_000, "the file is longer than 4,000,000 characters. Is it the right file?"),
    ("a: 1\nb: 2\na: 3", "the file, line 3: 'a' stands twice in one mapping. Remove one of them."),
    ("a: {b: 1, 'b': 2}", "'b' stands twice"),
    ("a: [", "is not valid YAML: did not find expected node content (line 2)."),
    ("a: *b", "is not valid YAML: found undefined alias (line 1)."),
    ("a: \x00", "is not valid YAML: control characters are not allowed."),
    ("a: \ud800", "is not valid YAML: it holds half a character."),
    ("? [1]\n: 2", "is not valid YAML: found unhashable key (line 1)."),
    ("a: !!int x", "line 1: !int gives a type. Leave it out."),
    ("!!python/object/apply:os.system [ls]", "!python/object/apply:os.system gives a type"),
    ("a: !mine 3", "!!mine gives a type"),
    ("a: 1\n---\nb: 1", "the file holds 2 documents. Keep one"),
    ("a: =", "is not valid YAML: could not determine a constructor"),
]


@pytest.mark.parametrize(("text", "sentence"), YAML, ids=[sentence for _, sentence in YAML])
def test_a_yaml_text_is_refused_at_once_with_a_sentence(text: str, sentence: str) -> None:
    began = time.process_time()
    with pytest.raises(RecipeError) as caught:
        load_yaml(text, "the file")
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)
    assert time.process_time() - began < 2


JSON = [
    ("[" * 100_000, "the file is nested more than 100 deep"),
    ('{"a": ' * 100_000, "nested more than 100 deep"),
    ('["\\"[", ' + "[" * 200, "nested more than 100 deep"),
    ("[" + "1," * 600_000 + "1]", "the file holds more than 500,000 values"),
    ('{"a": 1, "b": {"c": 1, "c": 2}}', "the file has 'c' twice in one object. Remove one of"),
    ('{"a": ', "the file is not valid JSON: Expecting value: line 1 column 7 (char 6). Restore"),
    ("9" * 100_000, "the file is not valid JSON: Exceeds the limit (4300 digits)"),
    (" " * 5_000_000, "longer than 4,000,000 characters"),
    ("{'a': 1}", "not valid JSON: Expecting property name"),
]


@pytest.mark.parametrize(("text", "sentence"), JSON, ids=[sentence for _, sentence in JSON])
def test_a_json_text_is_refused_at_once_with_a_sentence(text: str, sentence: str) -> None:
    began = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        load_json(text, "the file", error=CheckpointError)
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 400
    assert time.process_time() - began < 2


def test_deep_brackets_inside_of_words_are_no_depth() -> None:
    text = json.dumps({"template": "[{" * 10_000, "escaped": '"\\"' + "[" * 1000})
    assert load_json(text, "it") == json.loads(text)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abno01:-"), inner),
    max_leaves=20,
)


@given(PLAIN)
def test_what_is_written_is_read_back(value: object) -> None:
    assert load_yaml(yaml.safe_dump(value), "it") == value
    assert load_json(json.dumps(value), "it") == value


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1, 2]\nb: *a\nc: [*a, *a]",
        "a: &a {x: 1}\nb: {<<: *a, x: 2}\nc: {<<: [*a, {y: 3}]}",
        "a: yes\nb: NO\nc: on\nd: 010\n",
        "a: [1, 2.5, .inf, 1e5, ~, null, true, 0x10, 1_000]",
        "a: |\n  12:30:00\n  yes\nb: '12:30:00'\nc: \"yes\"",
        "a: 1\n--- \nb: 2\n...\n--- {c: 3}",
        "\ufeffa: 1",
        "",
    ],
)
def test_a_document_for_mergekit_is_read_as_mergekit_reads_it(text: str) -> None:
    assert load_all_yaml(text, "it", surprises=MERGEKIT) == list(yaml.safe_load_all(text))


def test_a_repeated_key_of_theirs_is_told() -> None:
    told: list[str] = []
    found = load_yaml("a: 1\na: 2", "m.yml", surprises=MERGEKIT, repeated=told.append)
    assert found == {"a": 2}
    assert told == ["m.yml, line 2: 'a' stands twice in one mapping."]


def test_files_that_are_none(tmp_path: Path) -> None:
    latin, long, marked = tmp_path / "latin.yml", tmp_path / "long.yml", tmp_path / "marked.yml"
    latin.write_bytes("a: ä".encode("latin-1"))
    long.write_bytes(b"x" * 101)
    marked.write_bytes(b"\xef\xbb\xbfa: 1\r\n")
    with pytest.raises(FileNotFoundError, match=r"No file '.*/none.yml'. Check the path.") as none:
        read_text(tmp_path / "none.yml")
    assert isinstance(none.value, MissingFile)
    with pytest.raises(RecipeError, match=r"is a folder. Pass the file that is meant."):
        read_text(tmp_path)
    with pytest.raises(RecipeError, match=r"latin.yml is no text in UTF-8"):
        read_text(latin)
    with pytest.raises(CheckpointError, match="longer than 100 characters"):
        read_text(long, error=CheckpointError, bounds=Bounds(100))
    with pytest.raises(RecipeError, match=r"cannot be read: File name too long. Check the path."):
        read_text("x" * 10_000_000)
    with pytest.raises(RecipeError, match=r"cannot be read: embedded null byte. Check the path."):
        read_text("a\0b")
    assert read_text(marked) == "a: 1\n"


@pytest.mark.parametrize(
    ("door", "text", "sentence"),
    [
        (Recipe.from_yaml, "method: &a [*a]\n", "The YAML text, line 1: *a stands inside"),
        (Recipe.from_yaml, "x" * 10_000_000, "cannot be read: File name too long"),
        (Recipe.from_json, "[" * 100_000, "The JSON text is nested more than 100 deep"),
        (read, "[" * 100_000, "The stored space is nested more than 100 deep"),
    ],
)
def test_every_reader_goes_through_the_door(door: object, text: str, sentence: str) -> None:
    with pytest.raises(RecipeError) as caught:
        door(text)  # type: ignore[operator]
    assert sentence in str(caught.value)


_MEASURED = """
import resource
from merge_optuna._documents import load_json, load_yaml

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for load, text in (
    (load_yaml, "[" + "1, " * 149_990 + "]"),
    (load_yaml, "{" + ", ".join(f"k{i}: [1]" for i in range(49_000)) + "}"),
    (load_json, "[" + "[]," * 249_000 + "[]]"),
    (load_json, "{" + ",".join(f'"k{i}":{{"a":1}}' for i in range(160_000)) + "}"),
):
    load(text, "it")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_the_largest_that_is_read_stays_below_200_megabytes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 200
