"""The commands.

Nothing heavy is imported before a command needs it, so that ``--help`` is there at once.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from merge_optuna import _supervision as supervision
from merge_optuna._version import __version__
from merge_optuna.cli import printing
from merge_optuna.cli.options import (
    BaselineName,
    Dev,
    File,
    Folder,
    Force,
    Heads,
    Json,
    OutDtype,
    Private,
    Push,
    Sources,
    Storage,
    StudyName,
    Tokenizer,
    TrialNumber,
    Trust,
    heads_of,
)

if TYPE_CHECKING:
    import optuna

    from merge_optuna.checkpoints import Checkpoint

_BEST = 10
_GENERATIONS = 3
_UNSAFE = r"[^\w.-]+"  # in the name of a file

app = typer.Typer(
    help="Search for the best merge of several fine-tuned models with Optuna.",
    epilog=(
        "A FILE is a Python file that defines study = mo.MergeStudy(name, objective, ...). "
        "run and check also take a YAML file of mergekit-evolve."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"merge_optuna {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
    modules: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="MODULE",
            help="Import this first: a module, also of this folder, that registers methods.",
        ),
    ] = None,
) -> None:
    if modules:
        sys.path.insert(0, os.getcwd())  # as python -m has it
    for module in modules or ():
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise typer.BadParameter(f"--import {module}: {error}.") from error


# -- commands ---------------------------------------------------------------------------------


@app.command()
def run(
    file: File,
    dev: Dev = None,
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where trials are kept; sqlite:///NAME.db if omitted."),
    ] = None,
    n_trials: Annotated[
        int | None,
        typer.Option(
            "--n-trials", "-n", metavar="N", min=1, help="Another total than the file's."
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Start no further trial after so many seconds."),
    ] = None,
    trial_timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="End a trial that takes longer; it fails."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the best merge there at the end.")
    ] = None,
    force: Force = False,
    trust_remote_code: Trust = False,
    push: Push = None,
    private: Private = False,
    as_json: Json = False,
) -> None:
    """Run the search of FILE until it has its number of trials.

    Completed and pruned trials count. It can be stopped or killed and started
    again at any time, and it may run several times at once on one storage: on
    one machine without GPUs set OMP_NUM_THREADS to cores divided by processes.
    The search is a process of its own: if that dies or a trial takes longer
    than --trial-timeout, it is started again and goes on.
    """
    from merge_optuna import _optuna_compat as compat
    from merge_optuna.checkpoints import check_target
    from merge_optuna.cli import files, studies
    from merge_optuna.study import export as export_trial
    from merge_optuna.study import storage as open_storage

    if push is not None and out is None:
        raise typer.BadParameter("--push needs --out: what is pushed is written there first.")
    _check_push(push)
    declared = files.declared(file, dev)
    if out is not None:
        files.check_one_best(declared)
        check_target(out, force=force)
    url = storage or f"sqlite:///{re.sub(_UNSAFE, '-', declared.name)}.db"
    opened = open_storage(url)
    study = declared.open(opened)
    total = n_trials or declared.n_trials
    where = compat.url_of(study)
    print(f"The study {study.study_name!r} is kept in {printing.place(where)}", file=sys.stderr)
    supervision.report(study=(url, study.study_name))
    try:
        declared.run(opened, n_trials=total, timeout=timeout, trial_timeout=trial_timeout)
    except KeyboardInterrupt:
        _interrupted(study, total)
    result = {"storage": where, **studies.result(study, best=1)}
    if declared.test is not None:
        studies.add_test(result, declared, study)
    if declared.folder is not None:
        result["kept"] = [str(path) for path in sorted(Path(declared.folder).glob("trial-*"))]
    if out is not None:
        name = f"{result['metrics'][0]} (test)"
        score = {name: result["test"]} if "test" in result else {}
        written = export_trial(
            study,
            out,
            force=force,
            sources=declared.sources,
            trust_remote_code=trust_remote_code,
            score=score,
            heads=declared.heads,
        )
        result["written"] = str(written)
        if push is not None:
            result["pushed"] = _pushed(written, push, private=private)
    printing.show(result, printing.run, as_json=as_json)


@app.command()
def show(
    storage: Storage,
    study: StudyName = None,
    trial: Annotated[
        int | None, typer.Option("--trial", metavar="N", help="Print the recipe of this trial.")
    ] = None,
    source: Sources = None,
    as_json: Json = False,
) -> None:
    """Show the studies in STORAGE, the best trials of one, or the recipe of a trial as YAML."""
    import optuna

    from merge_optuna.cli import studies
    from merge_optuna.study import recipe_of
    from merge_optuna.study import storage as open_storage

    opened = open_storage(storage, create=False)
    names = optuna.get_all_study_names(opened)
    if study is None and trial is None and len(names) != 1:
        all_of_them = [optuna.load_study(study_name=n, storage=opened) for n in names]
        results = {"studies": [studies.result(s, best=1) for s in all_of_them]}
        printing.show(results, printing.studies, as_json=as_json)
        return
    chosen = studies.named(opened, storage, study)
    if trial is None:
        won = studies.winner(chosen, sources_of(source))
        about = {**won, **studies.tested(chosen), **studies.reasons(chosen)}
        result = {**studies.result(chosen, best=_BEST), **about}
        printing.show(result, printing.study, as_json=as_json)
        return
    recipe = recipe_of(chosen, trial, sources=sources_of(source))
    if as_json:
        printing.print_json(
            {"study": chosen.study_name, "trial": trial, "recipe": recipe.to_data()}
        )
    else:
        print(recipe.to_yaml(), end="")


@app.command()
def export(
    storage: Storage,
    folder: Folder,
    study: StudyName = None,
    trial: TrialNumber = None,
    baseline: BaselineName = None,
    force: Force = False,
    trust_remote_code: Trust = False,
    dtype: OutDtype = None,
    tokenizer: Tokenizer = None,
    source: Sources = None,
    head: Heads = None,
    push: Push = None,
    private: Private = False,
) -> None:
    """Write the merged checkpoint of a trial to DIR, from the database alone."""
    from merge_optuna.cli import studies
    from merge_optuna.study import export as export_trial

    sources, heads = sources_of(source), heads_of(head)
    _check_push(push)
    written = export_trial(
        studies.opened(storage, study),
        folder,
        trial=trial,
        baseline=baseline,
        force=force,
        sources=sources,
        dtype=dtype and dtype.value,
        tokenizer=tokenizer,
        trust_remote_code=trust_remote_code,
        heads=heads,
    )
    _say_written(written, push, private=private)


@app.command()
def write(
    recipe: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            metavar="RECIPE",
            help="Recipe, or mergekit's YAML, no number free.",
        ),
    ],
    folder: Folder,
    force: Force = False,
    trust_remote_code: Trust = False,
    dtype: OutDtype = None,
    tokenizer: Tokenizer = None,
    source: Sources = None,
    push: Push = None,
    private: Private = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse keys that mergekit ignores, do not warn.")
    ] = False,
) -> None:
    """Write the merged checkpoint of the recipe RECIPE to DIR."""
    from merge_optuna.engine import write as write_recipe
    from merge_optuna.recipes import Recipe

    sources = sources_of(source)
    _check_push(push)
    written = write_recipe(
        Recipe.read(recipe, strict=strict).with_sources(sources),
        folder,
        force=force,
        dtype=dtype and dtype.value,
        tokenizer=tokenizer,
        trust_remote_code=trust_remote_code,
    )
    _say_written(written, push, private=private)


@app.command()
def lineage(
    storage: Storage,
    study: StudyName = None,
    trial: TrialNumber = None,
    depth: Annotated[
        int, typer.Option(metavar="N", min=0, help="How many generations back to print.")
    ] = _GENERATIONS,
    as_json: Json = False,
) -> None:
    """Show whom a trial descends from, in a search that evolves weights.

    Shares are what is in its weights of each source: mean coefficients, as if
    interpolation were linear. With --json it is all ancestors, whatever --depth.
    """
    from merge_optuna.cli import studies
    from merge_optuna.study import lineage as lineage_of

    found = lineage_of(studies.opened(storage, study), trial)
    if as_json:
        printing.print_json(found.to_data())
    else:
        printing.lineage(found, depth)


@app.command()
def check(
    file: File,
    dev: Dev = None,
    no_trial: Annotated[
        bool, typer.Option("--no-trial", help="Do not time a trial, only look at the files.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check everything in FILE that can go wrong, and time one trial.

    Nothing is stored. The trial is merged twice, since the first merge also
    computes what later ones reuse, and evaluated on all dev examples. With
    --json the numbers are seconds_first_merge, seconds_merge, seconds_evaluate,
    hours (of all trials in one process, if none is pruned), peak_rss_bytes (of
    the process), peak_anonymous_bytes (the same without mapped files; Linux),
    peak_gpu_bytes; null is what the system does not tell. float32_speedup is
    how many times faster a batch is scored in float32, null where it is not.
    """
    from merge_optuna.cli import files

    declared = files.declared(file, dev)
    facts = files.facts(declared)
    if not no_trial:
        facts |= files.costs(declared)
    printing.show(facts, printing.facts, as_json=as_json)


# -- what commands share ----------------------------------------------------------------------


def sources_of(given: list[str] | None) -> dict[str, Checkpoint | str | Path]:
    """Places by name."""
    sources: dict[str, Checkpoint | str | Path] = {}
    for text in given or ():
        name, is_one, place = text.partition("=")
        if not (is_one and name and place):
            raise typer.BadParameter(f"--source must be NAME=REF, not {text!r}.")
        sources[name] = place
    return sources


def _check_push(repo: str | None) -> None:
    """Asks the hub before any work is done."""
    from merge_optuna.checkpoints import check_push

    if repo is not None:
        check_push(repo)


def _pushed(folder: Path, repo: str, *, private: bool) -> str:
    from merge_optuna.checkpoints import push

    return push(folder, repo, private=private or None)


def _say_written(folder: Path, push: str | None, *, private: bool) -> None:
    """Says where a checkpoint is, and pushes it if somebody wants that."""
    print(f"Written to {folder}")
    if push is not None:
        print(f"Pushed to {_pushed(folder, push, private=private)}")


def _interrupted(study: optuna.Study, total: int) -> NoReturn:
    from merge_optuna._optuna_compat import without_password
    from merge_optuna.study import counts

    done = counts(study)
    command = shlex.join(["merge-optuna", *map(without_password, sys.argv[1:])])
    print(
        f"\nStopped: {done['complete'] + done['pruned']} of {total} trials are done and kept. "
        f"Go on with:\n  {command}",
        file=sys.stderr,
    )
    raise typer.Exit(130)
