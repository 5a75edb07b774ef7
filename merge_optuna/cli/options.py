"""What commands take: arguments and options that several of them share."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from merge_optuna.checkpoints import Checkpoint


class Dtype(enum.StrEnum):
    """Data types that merged weights can be written in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


File = Annotated[
    Path,
    typer.Argument(
        exists=True, dir_okay=False, metavar="FILE", help="Python file with a mo.MergeStudy."
    ),
]
Dev = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        metavar="JSONL",
        help="Labelled texts to score models on, if FILE is YAML of mergekit-evolve.",
    ),
]
Storage = Annotated[
    str, typer.Argument(metavar="STORAGE", help="URL or file: sqlite:///search.db, search.db.")
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the merged checkpoint.")]
StudyName = Annotated[
    str | None, typer.Option("--study", metavar="NAME", help="Which study, if there are several.")
]
TrialNumber = Annotated[
    int | None, typer.Option("--trial", metavar="N", help="Which trial; the best if omitted.")
]
BaselineName = Annotated[
    str | None,
    typer.Option("--baseline", metavar="NAME", help="A baseline instead of a trial, as in show."),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace an earlier export, never anything else.")
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Copy the Python files of the base or tokenizer, too."
    ),
]
OutDtype = Annotated[
    Dtype | None, typer.Option("--dtype", help="Of the weights; the base's if omitted.")
]
Tokenizer = Annotated[
    str | None,
    typer.Option(metavar="SOURCE", help="Source whose tokenizer is copied; the base if omitted."),
]
Sources = Annotated[
    list[str] | None,
    typer.Option(
        "--source", metavar="NAME=REF", help="Where a source is now. Can be given several times."
    ),
]
Heads = Annotated[
    list[str] | None,
    typer.Option(
        "--head",
        metavar="NAME=REF",
        help="Write it under the head of this checkpoint, in the folder NAME. Several times for "
        "several tasks; NAME alone is the model as it is merged.",
    ),
]
Push = Annotated[
    str | None, typer.Option("--push", metavar="REPO", help="Also upload it to the hub.")
]
Private = Annotated[
    bool, typer.Option("--private", help="Only you can see a new repository on the hub.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


def heads_of(given: list[str] | None) -> dict[str, Checkpoint | None]:
    """Whose head there is in which folder; None for a model as it is merged."""
    from merge_optuna.checkpoints import Checkpoint

    pairs = (text.partition("=") for text in given or ())
    return {name: Checkpoint(place) if is_one else None for name, is_one, place in pairs}
