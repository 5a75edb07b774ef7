"""Every block of code in README, CONTRIBUTING and docs runs as written, or says why not."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

import merge_optuna as mo
from merge_optuna import cli
from tests.docs import stages
from tests.docs.blocks import LANGUAGES, PAGES, ROOT, Block, blocks

ALL = [one for page in PAGES for one in blocks(page)]
RUN = {page: [b for b in blocks(page) if b.mark is None] for page in PAGES}
ASKED = "\n".join(
    path.read_text(encoding="utf-8") for path in (*ROOT.glob("tests/**/*.py"), ROOT / ".ci/run")
)
FEW = 3
"""Trials of a search: what is tested is that the code runs, not what it finds."""


def here(code: str) -> str:
    """Code with a test's number of trials, and a trial that there is."""
    code = re.sub(r"(n_trials=|generations=)\d+", rf"\g<1>{FEW}", code)
    code = re.sub(r"(--trial |trial=)\d+", r"\g<1>1", code)
    return re.sub(r"\b(batch_size=)\d+", r"\g<1>16", code)


@pytest.mark.parametrize("one", ALL, ids=lambda one: f"{one.page}:{one.line}")
def test_its_mark_is_true(one: Block) -> None:
    assert one.language in LANGUAGES
    if one.name:
        assert re.search(rf'"{re.escape(one.name)}"|block {re.escape(one.name)}\b', ASKED)
    if one.language in ("yaml", "toml"):
        assert one.mark, "a file: give it a name, or say why no test reads it"


@pytest.mark.parametrize(
    "one", [b for b in ALL if b.why_not and b.language == "python"], ids=lambda b: b.page
)
def test_what_is_not_run_names_what_there_is(one: Block) -> None:
    for node in ast.walk(ast.parse(one.code)):
        path = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        if re.fullmatch(r"mo\.(\w+\.)*\w+", path):
            thing: Any = mo
            for name in path.split(".")[1:]:
                thing = getattr(thing, name)


@pytest.mark.parametrize(
    "one", [b for b in ALL if b.language in ("sh", "console")], ids=lambda b: b.page
)
def test_commands_are_ones_that_a_shell_reads(one: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=one.code, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def quiet() -> Iterator[None]:
    """What examples leave behind in the process is as before."""
    modules, path = set(sys.modules), list(sys.path)
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(level)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and "pytest-" in str(
            sys.modules[name].__file__
        ):
            del sys.modules[name]


def commands(code: str) -> Iterator[list[str]]:
    """The commands of a block, one a line."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def run_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert words[0] == "merge-optuna", f"Not a command of ours: {words}"
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code, f"{words}: {end.value.code}"


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", [page for page in PAGES if RUN[page]])
def test_page(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    stage: Callable[..., dict[str, Any]] = stages.STAGES.get(page, stages.plain)
    fixtures = {name: request.getfixturevalue(name) for name in stages.needs(stage)}
    names: dict[str, Any] = {"__name__": "page", "mo": mo, "optuna": optuna, **stage(**fixtures)}
    for one in RUN[page]:
        if one.language == "python":
            exec(compile("\n" * (one.line - 1) + here(one.code), page, "exec"), names)
        else:
            for words in commands(here(one.code)):
                run_command(words, monkeypatch)
