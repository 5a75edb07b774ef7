"""The command line: ``merge-optuna run search.py`` and what goes with it.

Nothing heavy is imported before a command needs it, so that ``--help`` is there at once.
"""

from __future__ import annotations

import enum
import json
import math
import re
import runpy
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from merge_optuna import _supervision as supervision
from merge_optuna._version import __version__
from merge_optuna.errors import MergeOptunaError, StudyError, few

if TYPE_CHECKING:
    import optuna

    from merge_optuna.checkpoints import Checkpoint
    from merge_optuna.methods import Method
    from merge_optuna.study import Lineage, MergeStudy

_BEST = 10
_GENERATIONS = 3
_SHOWN_PARAMETERS = 6
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
    str, typer.Argument(metavar="STORAGE", help="URL of the storage, e.g. sqlite:///search.db.")
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the merged checkpoint.")]
StudyName = Annotated[
    str | None, typer.Option("--study", metavar="NAME", help="Which study, if there are several.")
]
TrialNumber = Annotated[
    int | None, typer.Option("--trial", metavar="N", help="Which trial; the best if omitted.")
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
Push = Annotated[
    str | None, typer.Option("--push", metavar="REPO", help="Also upload it to the hub.")
]
Private = Annotated[
    bool, typer.Option("--private", help="Only you can see a new repository on the hub.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


def main() -> None:
    """Entry point: errors of ours are one message without a traceback.

    A search runs in a process of its own, with this one looking after it.
    """
    arguments = sys.argv[1:]
    if arguments[:1] == ["run"] and supervision.can_supervise(arguments):
        supervision.supervise([sys.executable, *sys.orig_argv[1:]], _fail_overdue)
    supervision.follow()
    try:
        app()
    except MergeOptunaError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)


def _fail_overdue(storage: str, study: str, trial: int, reason: str) -> bool:
    """Fails a trial; where the storage does not let it, its worker is to be ended all the same."""
    from merge_optuna.study import fail_overdue

    try:
        return fail_overdue(storage, study, trial, reason)
    except MergeOptunaError as error:
        print(f"\nTrial {trial} cannot be failed in the storage. {error}", file=sys.stderr)
        return True


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
) -> None:
    pass


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
    from merge_optuna.study import export as export_trial
    from merge_optuna.study import recipe_of
    from merge_optuna.study import storage as open_storage

    if push is not None and out is None:
        raise typer.BadParameter("--push needs --out: what is pushed is written there first.")
    _check_push(push)
    declared = _declared(file, dev)
    if out is not None:
        check_target(out, force=force)
    url = storage or f"sqlite:///{re.sub(_UNSAFE, '-', declared.name)}.db"
    opened = open_storage(url)
    study = declared.open(opened)
    total = n_trials or declared.n_trials
    print(f"The study {study.study_name!r} is kept in {_place(study)}", file=sys.stderr)
    supervision.report(study=(url, study.study_name))
    try:
        declared.run(opened, n_trials=total, timeout=timeout, trial_timeout=trial_timeout)
    except KeyboardInterrupt:
        _interrupted(study, total)
    result = {"storage": compat.url_of(study), **_result(study, best=1)}
    if declared.test is not None and result["best"] and len(result["metrics"]) == 1:
        recipe = recipe_of(study, result["best"][0]["trial"], sources=declared.sources)
        result["test"] = declared.test_value(study, recipe)
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
        )
        result["written"] = str(written)
        if push is not None:
            result["pushed"] = _pushed(written, push, private=private)
    if as_json:
        _print_json(result)
    else:
        _print_run(study, result)


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

    from merge_optuna.study import recipe_of
    from merge_optuna.study import storage as open_storage

    opened = open_storage(storage, create=False)
    names = optuna.get_all_study_names(opened)
    if study is None and trial is None and len(names) != 1:
        studies = [optuna.load_study(study_name=n, storage=opened) for n in names]
        _print_studies([_result(s, best=1) for s in studies], as_json=as_json)
        return
    chosen = _study(opened, storage, study)
    if trial is None:
        _print_study({**_result(chosen, best=_BEST), **_reasons(chosen)}, as_json=as_json)
        return
    recipe = recipe_of(chosen, trial, sources=_sources(source))
    if as_json:
        _print_json({"study": chosen.study_name, "trial": trial, "recipe": recipe.to_data()})
    else:
        print(recipe.to_yaml(), end="")


@app.command()
def export(
    storage: Storage,
    folder: Folder,
    study: StudyName = None,
    trial: TrialNumber = None,
    force: Force = False,
    trust_remote_code: Trust = False,
    dtype: OutDtype = None,
    tokenizer: Tokenizer = None,
    source: Sources = None,
    push: Push = None,
    private: Private = False,
) -> None:
    """Write the merged checkpoint of a trial to DIR, from the database alone."""
    from merge_optuna.study import export as export_trial
    from merge_optuna.study import storage as open_storage

    sources = _sources(source)
    _check_push(push)
    chosen = _study(open_storage(storage, create=False), storage, study)
    written = export_trial(
        chosen,
        folder,
        trial=trial,
        force=force,
        sources=sources,
        dtype=dtype and dtype.value,
        tokenizer=tokenizer,
        trust_remote_code=trust_remote_code,
    )
    print(f"Written to {written}")
    if push is not None:
        print(f"Pushed to {_pushed(written, push, private=private)}")


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

    sources = _sources(source)
    _check_push(push)
    written = write_recipe(
        Recipe.read(recipe, strict=strict).with_sources(sources),
        folder,
        force=force,
        dtype=dtype and dtype.value,
        tokenizer=tokenizer,
        trust_remote_code=trust_remote_code,
    )
    print(f"Written to {written}")
    if push is not None:
        print(f"Pushed to {_pushed(written, push, private=private)}")


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
    from merge_optuna.study import lineage as lineage_of
    from merge_optuna.study import storage as open_storage

    found = lineage_of(_study(open_storage(storage, create=False), storage, study), trial)
    if as_json:
        _print_json(found.to_data())
    else:
        _print_lineage(found, depth)


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
    peak_gpu_bytes; null is what the system does not tell.
    """
    declared = _declared(file, dev)
    facts = _facts(declared)
    if not no_trial:
        facts |= _costs(declared)
    if as_json:
        _print_json(facts)
    else:
        _print_facts(facts)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this one.")] = None,
    as_json: Json = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a page of documentation.")
    ] = False,
) -> None:
    """List the merge methods with their parameters, ranges, defaults and papers."""
    from merge_optuna.methods import METHODS, get, markdown

    chosen = METHODS.values() if name is None else [get(name)]
    if as_markdown:
        print(markdown(chosen), end="")
        return
    facts = {method.name: _method_facts(method) for method in chosen}
    if as_json:
        _print_json(facts)
        return
    for method, about in facts.items():
        _print_method(method, about)


# -- sources and the hub ----------------------------------------------------------------------


def _sources(given: list[str] | None) -> dict[str, Checkpoint | str | Path]:
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


# -- files and storages -----------------------------------------------------------------------


def _declared(file: Path, dev: Path | None) -> MergeStudy:
    """The search of a Python file, or of a genome of mergekit-evolve and dev data."""
    if file.suffix not in (".yml", ".yaml"):
        if dev is not None:
            raise typer.BadParameter(f"--dev is for YAML; {file} has an evaluator of its own.")
        return load(file)
    from merge_optuna.evaluators import Classification
    from merge_optuna.study import MergeStudy

    return MergeStudy.from_mergekit_evolve(file, None if dev is None else Classification(dev))


def load(file: Path) -> MergeStudy:
    """Executes a Python file and returns the one :class:`mo.MergeStudy` it defines.

    Modules beside the file can be imported, as if it were run as a script; what stands under
    ``if __name__ == "__main__"`` does not run.

    Raises:
        StudyError: If there is none, or several.
    """
    from merge_optuna.study import MergeStudy

    sys.path.insert(0, str(file.absolute().parent))
    variables = runpy.run_path(str(file), run_name="__merge_study__")
    found = {name: value for name, value in variables.items() if isinstance(value, MergeStudy)}
    if not found:
        raise StudyError(
            f"{file} defines no mo.MergeStudy. Add at module level: "
            "study = mo.MergeStudy(name, objective, n_trials=...)."
        )
    if len({id(value) for value in found.values()}) > 1:
        raise StudyError(
            f"{file} defines several mo.MergeStudy: {', '.join(found)}. Keep one per file."
        )
    return next(iter(found.values()))


def _study(opened: Any, url: str, name: str | None) -> optuna.Study:
    """The named study, or the only one in a storage."""
    import optuna

    from merge_optuna._optuna_compat import without_password

    names = optuna.get_all_study_names(opened)
    url = without_password(url)
    if not names:
        raise StudyError(f"There is no study in {url}.")
    if name is None and len(names) > 1:
        raise StudyError(
            f"There are {len(names)} studies in {url}: {', '.join(names)}. Choose "
            "one with --study."
        )
    if name is not None and name not in names:
        raise StudyError(f"There is no study {name!r} in {url}, only {', '.join(names)}.")
    return optuna.load_study(study_name=name or names[0], storage=opened)


def _place(study: optuna.Study) -> str:
    """A storage as a person finds it again: the absolute path of a file, or the URL."""
    from merge_optuna import _optuna_compat as compat

    url = compat.url_of(study) or "memory"
    scheme, _, path = url.partition(":///")
    return str(Path(path).absolute()) if scheme in ("sqlite", "journal") else url


def _dashboard(study: optuna.Study) -> str:
    """The command that shows a study in the browser."""
    from merge_optuna import _optuna_compat as compat

    return shlex.join(
        ["optuna-dashboard", (compat.url_of(study) or "").removeprefix("journal:///")]
    )


# -- results ----------------------------------------------------------------------------------


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


def _result(study: optuna.Study, *, best: int) -> dict[str, Any]:
    """What a study has come to: counts, and the best trials or the Pareto front."""
    from merge_optuna._records import metric_names
    from merge_optuna._schema import PATH
    from merge_optuna.study import complete_trials, counts, ranked

    trials = counts(study)
    if len(study.directions) > 1:
        complete_trials(study)  # Optuna takes it for granted that they have their values
        top = study.best_trials
    else:
        top = ranked(study)[:best] if trials["complete"] else []
    return {
        "study": study.study_name,
        "directions": [direction.name.lower() for direction in study.directions],
        "metrics": metric_names(study) or ["value"] * len(study.directions),
        "trials": trials,
        "best": [
            {"trial": t.number, "values": t.values, "params": t.params}
            | ({PATH: t.user_attrs[PATH]} if PATH in t.user_attrs else {})
            for t in top
        ],
    }


def _reasons(study: optuna.Study) -> dict[str, dict[str, int]]:
    """Why trials were pruned and have failed, and how often; numbers in the reasons left out."""
    from optuna.trial import TrialState

    from merge_optuna._schema import REASON
    from merge_optuna.study import failure

    trials = study.get_trials(deepcopy=False)
    pruned = [str(t.user_attrs.get(REASON, "")) for t in trials if t.state == TrialState.PRUNED]
    failed = [str(failure(t) or "") for t in trials if t.state == TrialState.FAIL]
    return {
        "pruned": Counter(re.sub(r"\b\d[\d.e+-]*\b", "#", r) or "no reason kept" for r in pruned),
        "failed": Counter((r.strip().splitlines() or ["stopped or killed"])[-1] for r in failed),
    }


def _facts(declared: MergeStudy) -> dict[str, Any]:
    """What a file declares, as plain data."""
    from merge_optuna.recipes import Recipe
    from merge_optuna.samplers import StoredSampler
    from merge_optuna.spaces import Space

    objective, space = declared.objective, declared.objective.space
    facts: dict[str, Any] = {"study": declared.name, "n_trials": declared.n_trials}
    if isinstance(space, Recipe | Space):
        recipe = space.recipe if isinstance(space, Space) else space
        left_out: dict[str, list[str]] = {}
        for name, reason in recipe.alignment.copied.items():
            left_out.setdefault(reason, []).append(name)
        facts |= {
            "method": space.kind if isinstance(space, Space) else recipe.method,
            "sources": {c.name: c.ref for c in space.checkpoints()},
            "merged_tensors": len(recipe.alignment.layout.names),
            "left_out_tensors": left_out,
            "dimensions": len(space.distributions()),
        }
    facts |= {
        "metrics": dict(zip(objective.metric_names, objective.directions, strict=True)),
        "dev_examples": len(objective.evaluator),
        "test_examples": None if declared.test is None else len(declared.test),
    }
    if declared.keep_best is not None:
        facts |= {"keep_best": declared.keep_best, "folder": str(declared.folder)}
    if declared.sampler is not None:
        facts["sampler"] = type(declared.sampler).__name__
    if isinstance(declared.sampler, StoredSampler) and not declared.sampler.breeds:
        facts["population"] = declared.sampler.population_size()
    return facts


def _costs(declared: MergeStudy) -> dict[str, Any]:
    """Seconds and bytes of one trial, and hours of the search."""
    from merge_optuna.study import rehearse

    measured = rehearse(declared.objective)
    return {**vars(measured), "hours": measured.hours(declared.n_trials)}


def _method_facts(method: Method) -> dict[str, Any]:
    return {
        "summary": method.summary,
        "source": method.source,
        "base": method.base,
        "sources": method.sources_in_words,
        "models": [method.models[0], None if method.models[1] == math.inf else method.models[1]],
        "statistics": method.statistics,
        "parameters": {
            p.name: {
                "range": p.range,
                "default": p.default,
                "per_model": p.per_model,
                "can_be_free": p.numeric,
                "search": p.search_in_words or None,
                "summary": p.summary,
            }
            for p in method.parameters
        },
    }


# -- printing ---------------------------------------------------------------------------------


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False))


def _print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    table.show_header = any(columns)
    for row in rows:
        table.add_row(*map(_in_words, row))
    # Names of tensors and studies may hold brackets and colons.
    Console(markup=False, emoji=False, highlight=False).print(table)


def _print_run(study: optuna.Study, result: dict[str, Any]) -> None:
    rows: list[tuple[str, Any]] = []
    for best in result["best"]:
        rows.append(("best trial", best["trial"]))
        for metric, value in zip(result["metrics"], best["values"], strict=True):
            rows.append((f"{metric} (dev)", value))
    if "test" in result:
        rows.append((f"{result['metrics'][0]} (test)", result["test"]))
    rows.append(("trials", _counts(result["trials"])))
    rows.append(("kept in", _place(study)))
    rows += [("best trials in", path) for path in result.get("kept", [])]
    if "written" in result:
        rows.append(("written to", result["written"]))
    if "pushed" in result:
        rows.append(("pushed to", result["pushed"]))
    _print_table(["", ""], rows, title=result["study"])
    print(f"To look at it: {_dashboard(study)}")


def _print_studies(results: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        _print_json({"studies": results})
        return
    rows = [
        (r["study"], ", ".join(r["metrics"]), *r["trials"].values(), _values_of_best(r))
        for r in results
    ]
    states = ("complete", "pruned", "failed", "running")
    _print_table(["study", "metric", *states, "best"], rows)


def _values_of_best(result: dict[str, Any]) -> Any:
    if len(result["metrics"]) > 1:
        return f"{len(result['best'])} on the front"
    return result["best"][0]["values"][0] if result["best"] else "none"


def _print_study(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        _print_json(result)
        return
    rows = [
        (b["trial"], *b["values"], b.get("path") or _few_params(b["params"]))
        for b in result["best"]
    ]
    title = f"{result['study']}: {_counts(result['trials'])}"
    what = "path" if any("path" in b for b in result["best"]) else "parameters"
    _print_table(["trial", *result["metrics"], what], rows, title=title)
    reasons = [
        (state, count, reason)
        for state in ("pruned", "failed")
        for reason, count in result[state].items()
    ]
    if reasons:
        _print_table(["", "trials", "reason"], reasons)


def _print_lineage(found: Lineage, depth: int) -> None:
    one = found.trial
    print(
        f"{found.study}: trial {one.trial}, {len(found.ancestors) - 1} ancestors in "
        f"{one.generation} generations"
    )
    if found.shares is not None:
        print("shares: " + ", ".join(f"{name} {x:.1%}" for name, x in found.shares.items()))
    print(f"\n{found.tree(depth)}")


def _print_facts(facts: dict[str, Any]) -> None:
    rows: list[tuple[str, Any]] = []
    for key, value in facts.items():
        label = key.removesuffix("_bytes").replace("_", " ")
        if key == "left_out_tensors":
            rows += [(label, f"{few(names, 3)}: {why}") for why, names in value.items()]
        elif isinstance(value, dict):
            rows += [(label, f"{name}: {what}") for name, what in value.items()]
        elif key.endswith("_bytes") and value is not None:
            rows.append((label, _size(value)))
        elif key == "hours":
            rows.append((f"hours for {facts['n_trials']} trials", f"{value:.2f}"))
        elif value is not None:
            rows.append((label, value))
    _print_table(["", ""], rows, title="Everything fits.")


def _print_method(name: str, facts: dict[str, Any]) -> None:
    rows = [
        (
            name,
            p["range"],
            p["default"],
            p["search"] or "",
            "each model" if p["per_model"] else "",
            p["summary"],
        )
        for name, p in facts["parameters"].items()
    ]
    columns = ["parameter", "range", "default", "search", "for", ""]
    _print_table(columns, rows, title=f"{name}: {facts['sources']}")
    print(f"  {facts['summary']}\n  {facts['source']}\n")


def _counts(trials: dict[str, int]) -> str:
    return ", ".join(f"{n} {state}" for state, n in trials.items() if n or state == "complete")


def _few_params(params: dict[str, Any]) -> str:
    shown = [f"{name}={_in_words(value)}" for name, value in params.items()]
    return few(shown, _SHOWN_PARAMETERS)


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.0f} MB"


def _in_words(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
