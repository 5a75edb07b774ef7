"""No package imports a private name of another; private modules are the contracts' business."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "merge_optuna"


def test_private_names_stay_in_their_package() -> None:
    found = []
    for file in PACKAGE.rglob("*.py"):
        own = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("merge_optuna."):
                top, *_ = [*str(node.module).split(".")[1:], ""]
                names = [alias.name for alias in node.names if alias.name.startswith("_")]
                private = [n for n in names if top and top != own and not n.startswith("__")]
                found += [f"{file.name}: {node.module}.{name}" for name in private]
    assert not found
