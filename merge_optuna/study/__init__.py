"""A search: objective, storage, and what comes out of it."""

from __future__ import annotations

from merge_optuna.study._baseline_scoring import baseline_evaluations, baselines
from merge_optuna.study._baselines import Baseline, Baselines, stored_baselines
from merge_optuna.study._board import Cost, Entry, Kind, Leaderboard, Row, Run
from merge_optuna.study._bootstrap import Draws, Estimate
from merge_optuna.study._callbacks import MaxFailures, Stagnation, StopRule, UnchangedGeneration
from merge_optuna.study._checkpoint import export
from merge_optuna.study._constraints import in_words, infeasible
from merge_optuna.study._counts import counts, remaining
from merge_optuna.study._export import best_trial, complete_trials, ranked, recipe_of
from merge_optuna.study._export_front import export_front
from merge_optuna.study._front import Front, Point, front_of, pareto, why_empty
from merge_optuna.study._keep_best import KeepBest
from merge_optuna.study._leaderboard import leaderboard
from merge_optuna.study._limit import fail_overdue
from merge_optuna.study._lineage import Ancestor, Lineage, lineage
from merge_optuna.study._objective import MergeObjective
from merge_optuna.study._outcome import failure
from merge_optuna.study._rehearsal import Rehearsal, rehearse
from merge_optuna.study._scores import scores, set_scores
from merge_optuna.study._shares import layer_shares
from merge_optuna.study._storage import storage

__all__ = [
    "Ancestor",
    "Baseline",
    "Baselines",
    "Cost",
    "Draws",
    "Entry",
    "Estimate",
    "Front",
    "KeepBest",
    "Kind",
    "Leaderboard",
    "Lineage",
    "MaxFailures",
    "MergeObjective",
    "Point",
    "Rehearsal",
    "Row",
    "Run",
    "Stagnation",
    "StopRule",
    "UnchangedGeneration",
    "baseline_evaluations",
    "baselines",
    "best_trial",
    "complete_trials",
    "counts",
    "export",
    "export_front",
    "fail_overdue",
    "failure",
    "front_of",
    "in_words",
    "infeasible",
    "layer_shares",
    "leaderboard",
    "lineage",
    "pareto",
    "ranked",
    "recipe_of",
    "rehearse",
    "remaining",
    "scores",
    "set_scores",
    "storage",
    "stored_baselines",
    "why_empty",
]
