"""The model card of a merged model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from merge_optuna._version import __version__
from merge_optuna.checkpoints import Checkpoint
from merge_optuna.recipes import Recipe


def model_card(
    recipe: Checkpoint | Recipe,
    title: str,
    score: Mapping[str, Any] | None = None,
    command: str | None = None,
    head: Checkpoint | None = None,
) -> str:
    """Markdown with sources, recipe, score and the command to make the model again.

    Args:
        recipe: What is merged.
        title: Of the page.
        score: Results by name.
        command: To make it again.
        head: Whose head it is written under, if it is not the recipe's own.
    """
    leaves = recipe.leaves() if isinstance(recipe, Recipe) else (recipe,)
    header = {"library_name": "transformers", "tags": ["merge", "merge_optuna"]}
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {title}",
        f"A merge of {len(leaves)} models made with merge_optuna {__version__}.",
        "## Sources",
        "| name | checkpoint | digest |\n|---|---|---|\n"
        + "\n".join(f"| {c.name} | {_place(c)} | `{c.digest}` |" for c in leaves),
    ]
    if head is not None:
        parts.append(f"The head is that of `{head.name}`, {_place(head)}, `{head.digest}`.")
    if score:
        rows = "\n".join(f"| {name} | {value} |" for name, value in score.items())
        parts += ["## Score", f"| | |\n|---|---|\n{rows}"]
    if isinstance(recipe, Recipe):
        parts += [
            "## Recipe",
            f"Digest `{recipe.digest}`; also in `recipe.yaml`.",
            f"```yaml\n{recipe.to_yaml()}```",
        ]
    command = command or "merge-optuna write recipe.yaml OUT"
    parts += ["## Make it again", f"```sh\n{command}\n```"]
    return "\n\n".join(parts) + "\n"


def _place(source: Checkpoint) -> str:
    of = f"{source.part} of " if source.part else ""
    at = f" at `{source.revision}`" if source.revision else ""
    return f"{of}`{source.ref}`{at}"
