"""What must not be imported, in fresh interpreters."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

HEAVY = {
    *("torch", "transformers", "datasets", "optuna", "sqlalchemy", "scipy", "sklearn", "numpy"),
    *("pandas", "plotly", "yaml", "safetensors"),
}


def imported(*argv: str) -> tuple[set[str], str]:
    """Top-level packages that an interpreter imports, and what it prints."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *argv], capture_output=True, text=True, check=True
    )
    modules = re.findall(r"^import time:\s*\d+ \|\s*\d+ \|\s*(\S+)$", done.stderr, re.M)
    return {name.partition(".")[0] for name in modules}, done.stdout


CLI = "from merge_optuna.cli import main; main()"


@pytest.mark.parametrize(
    ("argv", "output"),
    [
        (["--help"], "merge-optuna [OPTIONS] COMMAND"),
        (["--version"], "merge_optuna "),
        (["run", "--help"], "--n-trials"),
    ],
)
def test_help_is_light(argv: list[str], output: str) -> None:
    code = f"import sys; sys.argv = ['merge-optuna', *{argv}]; {CLI}"
    packages, out = imported("-c", code)
    assert output in re.sub(r"\s+", " ", out)
    assert "typer" in packages
    assert not packages & HEAVY


def test_the_package_is_the_command() -> None:
    packages, out = imported("-m", "merge_optuna", "--version")
    assert out.startswith("merge_optuna ")
    assert not packages & HEAVY


def test_importing_the_package_is_light() -> None:
    packages, _ = imported("-c", "import merge_optuna as mo; mo.__version__; dir(mo)")
    assert "merge_optuna" in packages
    assert not packages & HEAVY


def test_a_search_without_data_sets_does_not_import_them() -> None:
    packages, _ = imported("-c", "import merge_optuna.study, merge_optuna.presets")
    assert {"torch", "optuna"} <= packages
    assert not packages & {"transformers", "datasets", "sklearn", "pandas"}
