"""The search that a FILE declares."""

from __future__ import annotations

import runpy
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import typer

from merge_optuna._records import metric_names
from merge_optuna.checkpoints import Checkpoint
from merge_optuna.engine import AnyEngine, Engine
from merge_optuna.errors import MergeOptunaError, StudyError
from merge_optuna.evaluators import (
    Classification,
    Evaluator,
    batches_of,
    breakdown_over,
    name_of,
    value_over,
)
from merge_optuna.recipes import Recipe
from merge_optuna.samplers import StoredSampler
from merge_optuna.search import MergeStudy
from merge_optuna.spaces import Space
from merge_optuna.study import baseline_evaluations, rehearse


def declared(file: Path, dev: Path | None) -> MergeStudy:
    """The search of a Python file, or of a genome of mergekit-evolve and dev data."""
    if file.suffix not in (".yml", ".yaml"):
        if dev is not None:
            raise typer.BadParameter(f"--dev is for YAML; {file} has an evaluator of its own.")
        return load(file)
    return MergeStudy.from_mergekit_evolve(file, None if dev is None else Classification(dev))


def load(file: Path) -> MergeStudy:
    """Executes a Python file and returns the one :class:`mo.MergeStudy` it defines.

    Modules beside the file can be imported, as if it were run as a script; what stands under
    ``if __name__ == "__main__"`` does not run.

    Raises:
        StudyError: If there is none, or several, or the file raises something.
    """
    sys.path.insert(0, str(file.absolute().parent))
    try:
        variables = runpy.run_path(str(file), run_name="__merge_study__")
    except MergeOptunaError:
        raise
    except Exception as error:  # the file is anybody's code; its traceback is shown
        raise StudyError(f"{file} fails:\n{_told(error, file)}") from error
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


def check_one_best(declared: MergeStudy) -> None:
    """Refuses to write the best trial of a search that has no single best one.

    Raises:
        StudyError: If it has several objectives.
    """
    if len(declared.objective.directions) > 1:
        raise StudyError(
            f"--out writes the best merge, but {declared.name!r} has "
            f"{len(declared.objective.directions)} objectives and so a front of them. Run it "
            "without --out, then merge-optuna export-front STORAGE DIR, or merge-optuna export "
            "STORAGE DIR --trial N for a point of merge-optuna pareto STORAGE."
        )


def _told(error: Exception, file: Path) -> str:
    """The traceback of a mistake in a file, without what has executed that."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != str(file):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()


def held_out(
    file: Path | None, test_file: Path | None, studies: Sequence[optuna.Study]
) -> tuple[Evaluator | None, AnyEngine | None]:
    """What scores the models of studies on held-out data, and what loads them; None if nothing.

    Args:
        file: A Python file with test data.
        test_file: Labelled texts.
        studies: They are scored by the metric of the first.

    Raises:
        StudyError: If the file has no test data.
        EvaluationError: If labelled texts cannot be scored by that metric.
    """
    if file is not None:
        declared = load(file)
        if declared.test is None:
            raise StudyError(f"{file} has no test data: mo.MergeStudy(..., test=...).")
        return declared.test, declared.objective.engine
    if test_file is None:
        return None, None
    metric = (metric_names(studies[0]) or ["accuracy"])[0]
    return Classification(test_file, metric=metric), None


def facts(declared: MergeStudy) -> dict[str, Any]:
    """What a file declares, as plain data."""
    objective, space = declared.objective, declared.objective.space
    found: dict[str, Any] = {"study": declared.name, "n_trials": declared.n_trials}
    if isinstance(space, Recipe | Space):
        recipe = space.recipe if isinstance(space, Space) else space
        left_out: dict[str, list[str]] = {}
        for name, reason in recipe.alignment.copied.items():
            left_out.setdefault(reason, []).append(name)
        found |= {
            "method": space.kind if isinstance(space, Space) else recipe.method,
            "sources": {c.name: c.ref for c in space.checkpoints()},
            "merged_tensors": len(recipe.alignment.layout.names),
            "left_out_tensors": left_out,
            "dimensions": len(space.distributions()),
        }
    found |= {
        "metrics": dict(zip(objective.metric_names, objective.directions, strict=True)),
        "dev_examples": len(objective.evaluator),
        "test_examples": None if declared.test is None else len(declared.test),
    }
    if objective.constraints:
        held = {one.name: f"{len(one.other)} examples" for one in objective.constraints}
        found["constraints"] = held
    if (evaluations := baseline_evaluations(objective, declared.baselines)) is not None:
        found["baseline_evaluations"] = evaluations
    if declared.keep_best is not None:
        found |= {"keep_best": declared.keep_best, "folder": str(declared.folder)}
    if declared.sampler is not None:
        found["sampler"] = type(declared.sampler).__name__
    if isinstance(declared.sampler, StoredSampler) and not declared.sampler.breeds:
        found["population"] = declared.sampler.population_size()
    return found


def costs(declared: MergeStudy) -> dict[str, Any]:
    """Seconds and bytes of one trial, and hours of the search."""
    measured = rehearse(declared.objective)
    found = {**vars(measured), "hours": measured.hours(declared.n_trials)}
    evaluations = baseline_evaluations(declared.objective, declared.baselines)
    return found | ({"hours_baselines": measured.hours(evaluations)} if evaluations else {})


def evaluated(declared: MergeStudy, models: Sequence[str], *, test: bool) -> list[dict[str, Any]]:
    """What checkpoints and files with a recipe score on the data of a search.

    Raises:
        StudyError: If test data are asked for, and there are none.
    """
    evaluators = {"dev": declared.objective.evaluator}
    if test:
        if declared.test is None:
            raise StudyError(f"The study {declared.name!r} was declared without test=.")
        evaluators["test"] = declared.test
    opened = [(text, _model(text)) for text in models]
    return [
        {"model": text, "values": _values(declared.objective.engine, model, evaluators)}
        for text, model in opened
    ]


def _values(
    engine: AnyEngine, model: Recipe | Checkpoint, evaluators: Mapping[str, Evaluator]
) -> dict[str, float]:
    """The metrics of a model, which may be of another architecture than the search has."""
    own = Engine(engine.device, engine.dtype)
    found: dict[str, float] = {}
    for data, evaluator in evaluators.items():
        live = own.load(model, user=name_of(evaluator))
        scores = np.concatenate([batch for _, batch in batches_of(evaluator, live)])
        value = value_over(evaluator, scores)
        numbers = value if isinstance(value, tuple) else (value,)
        named = dict(zip(evaluator.metric_names, numbers, strict=True))
        named |= breakdown_over(evaluator, scores)
        found |= {f"{name} ({data})": number for name, number in named.items()}
    return found


def _model(text: str) -> Recipe | Checkpoint:
    """A file is a recipe; anything else a folder, or a name on the hub."""
    return Recipe.read(Path(text)) if Path(text).is_file() else Checkpoint(text)
