"""A declared search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from merge_optuna._documents import read_text
from merge_optuna.errors import StudyError
from merge_optuna.evaluators import Evaluator, LmEval, as_evaluator, has_lm_eval
from merge_optuna.mergekit import Genome, read_genome
from merge_optuna.recipes import Recipe
from merge_optuna.reports import Reports, as_reports, note_again
from merge_optuna.samplers.plumbing import fail_dead_trials
from merge_optuna.search._first import check_first, enqueue
from merge_optuna.search._optimize import Callback, check_total, search
from merge_optuna.spaces import Space, own_sampler
from merge_optuna.study import KeepBest, MergeObjective, StopRule, remaining
from merge_optuna.study import storage as open_storage
from merge_optuna.study.plumbing import (
    Deadline,
    check_kinds,
    check_limit,
    check_objectives,
    check_seconds,
    keep,
    keep_held_out,
    quiet,
    score_held_out,
)

if TYPE_CHECKING:
    from torch import nn

    from merge_optuna.checkpoints import Checkpoint


@dataclass(frozen=True)
class MergeStudy:
    """A search as a declaration: what ``merge-optuna run FILE`` looks for in a file.

    Attributes:
        name: Name of the study in the storage.
        objective: What a trial does.
        n_trials: Completed and pruned trials in total, however often it is started.
        sampler: Of Optuna or of ``mo.samplers``; the space's own with seed 0 when omitted, for
            several objectives NSGA-II.
        pruner: Of Optuna; none when omitted. With several objectives there is none.
        test: Scores the result on data that the search does not see: at the end of
            ``merge-optuna run``, else by :meth:`test_value`.
        timeout: Seconds after which a run starts no further trial; every start has as many.
        trial_timeout: Seconds after which a trial is ended from outside; it fails, the search
            goes on, see :func:`mo.optimize`.
        callbacks: Called after every trial, as in ``study.optimize``; see ``mo.callbacks``. A
            :class:`mo.callbacks.MaxFailures` among them takes the place of the usual one, of 10.
        first: Parameters of the first trials, before the sampler proposes any, e.g.
            ``[space.start()]``: what a search begins with, as a baseline. They teach the samplers
            of ``mo.samplers`` nothing: what these are to begin with is their
            ``initial_population=`` or ``x0=``.
        keep_best: How many of the best trials are written to ``folder`` while the search runs,
            see :class:`mo.callbacks.KeepBest`.
        folder: Where the best trials are kept.
        baselines: Whether what a search has to beat is scored before the first trial, once per
            study, and kept in it; or a list of the kinds wanted. See :func:`mo.baselines`.
        reports: Whether the study gets cards, notes and artifacts for optuna-dashboard, and where
            these go, see :func:`mo.optimize`.
    """

    name: str
    objective: MergeObjective
    n_trials: int
    sampler: optuna.samplers.BaseSampler | None = None
    pruner: optuna.pruners.BasePruner | None = None
    test: Evaluator | None = None
    timeout: float | None = None
    trial_timeout: float | None = None
    callbacks: Sequence[Callback] = ()
    first: Sequence[Mapping[str, Any]] = ()
    keep_best: int | None = None
    folder: str | Path | None = None
    baselines: bool | Sequence[str] = True
    reports: bool | Reports = True

    def __post_init__(self) -> None:
        check_total(self.n_trials)
        check_kinds(self.baselines)
        as_reports(self.reports)
        check_seconds("timeout", self.timeout)
        check_seconds("trial_timeout", self.trial_timeout)
        if not isinstance(self.objective, MergeObjective):
            raise StudyError(
                "objective= is what a trial does, mo.MergeObjective(space, evaluator), not "
                f"{self.objective!r}: mo.MergeStudy(name, objective, n_trials)."
            )
        for callback in self._callbacks():
            if isinstance(callback, (StopRule, KeepBest)):
                callback.check(self.objective.directions)
        space = self.objective.space
        if isinstance(space, Recipe | Space):
            check_first(self.first, space.distributions())
        if self.sampler is None and isinstance(space, Recipe | Space):
            own = own_sampler(space, len(self.objective.directions))
            object.__setattr__(self, "sampler", own)
        check_objectives(self.sampler, self._pruner, len(self.objective.directions))
        if self.test is not None:
            object.__setattr__(self, "test", as_evaluator(self.test))
            self.objective.check_evaluator(self.test)

    @classmethod
    def from_mergekit_evolve(
        cls,
        path: str | Path,
        evaluator: Evaluator | Callable[[nn.Module], float] | None = None,
        *,
        name: str | None = None,
        n_trials: int = 100,
        test: Evaluator | None = None,
        seed: int = 0,
        device: str = "cpu",
        dtype: str | None = None,
        strict: bool = False,
        baselines: bool | Sequence[str] = True,
        include_path: str | Path | None = None,
    ) -> MergeStudy:
        """The search that a file of mergekit-evolve describes, by CMA-ES from equal weights.

        Its tasks are those of lm-eval, which :class:`mo.evaluators.LmEval` runs where lm-eval is
        installed, as the file says (``limit``, ``num_fewshot``, ``apply_chat_template``), unless
        ``evaluator`` takes their place. Numbers that mergekit-evolve lets grow without bounds are
        searched in [0, 1], with ``allow_negative_weights`` in [-1, 1]. Embedding and head have
        numbers of their own.

        Args:
            path: A YAML file with a ``genome``.
            evaluator: Scores a model on dev data in place of the tasks.
            name: Of the study; that of the file when omitted.
            n_trials: Budget; 100 is mergekit-evolve's.
            test: Scores the result on data that the search does not see: at the end of
                ``merge-optuna run``, else by :meth:`test_value`.
            seed: Of the search.
            device: Of the live model.
            dtype: Of the live model.
            strict: Whether a key that mergekit ignores is an error instead of a warning.
            baselines: See the class.
            include_path: A folder with YAML files of tasks.

        Raises:
            RecipeError: If the file is not valid, or describes no space.
            StudyError: If there is no evaluator, and no lm-eval.
            EvaluationError: If lm-eval does not have the tasks.
        """
        genome = read_genome(read_text(path), str(path), strict=strict)
        if evaluator is None:
            evaluator = _tasks(genome, path, include_path)
        space = genome.space
        return cls(
            name or Path(path).stem,
            MergeObjective(space, evaluator, device=device, dtype=dtype),
            n_trials,
            sampler=space.sampler(seed=seed),
            test=test,
            first=[space.start()],
            baselines=baselines,
        )

    @property
    def sources(self) -> dict[str, Checkpoint]:
        """The checkpoints of the space by name, for ``mo.export(study, folder, sources=)``.

        Empty if the space is a function.
        """
        space = self.objective.space
        return {c.name: c for c in space.leaves()} if isinstance(space, Recipe | Space) else {}

    @property
    def heads(self) -> dict[str, Checkpoint | None]:
        """The heads that the tasks of the evaluator have of their own, for ``mo.export(heads=)``.

        Empty where no task has one: then the merged model is written as it is.
        """
        heads = getattr(self.objective.evaluator, "heads", {})
        return dict(heads) if any(heads.values()) else {}

    def open(self, storage: str | optuna.storages.BaseStorage | None = None) -> optuna.Study:
        """Creates the study, or opens it again, and checks that it fits.

        Trials that a killed process of this machine left running are failed.

        Args:
            storage: A URL for :func:`mo.storage`, an Optuna storage, or None for memory.

        Raises:
            StorageError: If the storage cannot be opened.
            StudyError: If a study of this name has another direction or another space.
        """
        with quiet():
            study = optuna.create_study(
                study_name=self.name,
                storage=open_storage(storage) if isinstance(storage, str) else storage,
                sampler=self.sampler,
                pruner=self._pruner,
                directions=self.objective.directions,
                load_if_exists=True,
            )
        self.objective.check_study(study)
        self.objective.store_space(study)
        fail_dead_trials(study)
        enqueue(study, self.first)
        return study

    def run(
        self,
        storage: str | optuna.storages.BaseStorage | None = None,
        *,
        n_trials: int | None = None,
        timeout: float | None = None,
        trial_timeout: float | None = None,
        progress: bool = True,
    ) -> optuna.Study:
        """Runs the search until it has ``n_trials`` completed or pruned trials.

        It goes on where an earlier run, finished or killed, has stopped. Several processes may
        run it on one storage at the same time. A stop rule among the callbacks, or the timeout,
        can end it before. The baselines come first, and count as no trials.

        Args:
            storage: As for :meth:`open`.
            n_trials: Another total than the declared one.
            timeout: Another number of seconds than the declared one.
            trial_timeout: Another number of seconds for a trial than the declared one.
            progress: Whether to show a progress bar on standard error, see :func:`mo.optimize`.

        Returns:
            The study.

        Raises:
            StudyError: If ten candidates in a row fail, with the traceback of the first.
        """
        check_seconds("timeout", timeout)
        total = self.n_trials if n_trials is None else n_trials
        check_total(total)
        limit = self.trial_timeout if trial_timeout is None else trial_timeout
        check_limit(limit)
        study = self.open(storage)
        deadline = Deadline(self.timeout if timeout is None else timeout)
        if remaining(study, total) > 0:
            kinds = check_kinds(self.baselines)
            keep(study, self.objective, kinds, deadline, limit, progress=progress)
        search(
            study,
            self.objective,
            total,
            deadline,
            limit,
            self._callbacks(),
            progress=progress,
            reports=self.reports,
        )
        return study

    @property
    def _pruner(self) -> optuna.pruners.BasePruner:
        return self.pruner or optuna.pruners.NopPruner()

    def _callbacks(self) -> list[Callback]:
        """Those declared, and what keeps the best trials."""
        made = list(self.callbacks)
        if self.keep_best is not None and self.folder is not None:
            made.append(
                KeepBest(self.keep_best, self.folder, sources=self.sources, heads=self.heads)
            )
        elif (self.keep_best, self.folder) != (None, None):
            raise StudyError("keep_best= and folder= go together: how many to keep, and where.")
        return made

    def test_value(self, study: optuna.Study, recipe: Recipe) -> float | tuple[float, ...]:
        """Scores a recipe on the test data.

        What the best trial, a point of the front or a baseline scores is kept in the study, for
        ``merge-optuna report``.

        Raises:
            StudyError: If this study has none.
        """
        if self.test is None:
            raise StudyError(f"The study {study.study_name!r} was declared without test=.")
        found = score_held_out(self.test, self.objective.engine, recipe)
        keep_held_out(study, recipe, found, self.sources)
        space = self.objective.space
        note_again(study, space if isinstance(space, Recipe | Space) else None)
        return found.value


def _tasks(genome: Genome, path: str | Path, include_path: str | Path | None) -> Evaluator:
    """The tasks of a genome, by lm-eval."""
    if not genome.tasks or not has_lm_eval():
        raise StudyError(
            f"{path} maximises tasks of lm-eval ({', '.join(map(str, genome.tasks)) or 'none'}), "
            "which no evaluator runs. Pass data that stands for them: evaluator="
            "mo.evaluators.Classification('dev.jsonl'), or merge-optuna run --dev dev.jsonl. "
            "Tasks themselves need lm-eval: pip install 'merge_optuna[lm-eval]'."
        )
    return LmEval(
        [task.name for task in genome.tasks],
        metric={task.name: task.metric for task in genome.tasks},
        weights={task.name: task.weight for task in genome.tasks},
        limit=genome.limit,
        num_fewshot=genome.num_fewshot,
        chat=genome.chat,
        include_path=include_path,
    )
