"""Searches in several processes that are killed at random: is the number of trials exact?

    python benchmarks/processes.py
    python benchmarks/processes.py --processes 4 --runs 2 --kinds plain

Every run starts so many processes at the same instant, each the same script. Now and then one of
them is killed (SIGKILL) and started again. At the end there must be exactly --trials completed
and pruned trials, every process that was not killed must have ended with exit code 0, and no
trial may be running, except those whose process died before it could sign them.

Kinds: "plain" is Optuna's TPE on a function that sleeps 5 ms, is sometimes pruned and sometimes
raises; "merging" is the script of the README; "declared" a mo.MergeStudy with trials to begin
with. Exits with 1 on any fault.
"""

from __future__ import annotations

import argparse
import functools
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import TrialState

sys.path.insert(0, str(Path(__file__).parents[1]))

from merge_optuna._schema import SURPLUS
from merge_optuna.samplers.plumbing import owner_of
from tests import processes, trained
from tests.study import workers

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Outcome:
    """What a run has come to.

    Attributes:
        finished: Completed and pruned trials.
        surplus: Trials that were asked for and not evaluated.
        orphans: Running trials that nobody has signed.
        faults: What must not be, in words.
        kills: Processes killed.
        seconds: From the first process to the end of the last.
    """

    finished: int
    surplus: int
    orphans: int
    faults: list[str]
    kills: int
    seconds: float


def main() -> None:
    """Runs what the command line asks for, and prints a row for each kind of run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=workers.KINDS, default=list(workers.KINDS))
    parser.add_argument("--storages", nargs="+", default=["sqlite", "journal"])
    parser.add_argument("--processes", nargs="+", type=int, default=[4, 8])
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--kills", type=int, default=3, help="in a run")
    parser.add_argument("--seed", type=int, default=0, help="of the random instants")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    faults = 0
    print("| search | storage | processes | exact | kills | not evaluated | orphans | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        task = trained.make(Path(folder) / "models")
        for kind in options.kinds:
            for storage in options.storages:
                for number in options.processes:
                    outcomes = [
                        _run(kind, storage, number, task.root, options, rng)
                        for _ in range(options.runs)
                    ]
                    print(_row(kind, storage, number, outcomes, options.trials), flush=True)
                    faults += sum(len(outcome.faults) for outcome in outcomes)
    sys.exit(faults > 0)


def _run(
    kind: str,
    storage: str,
    number: int,
    root: Path,
    options: argparse.Namespace,
    rng: random.Random,
) -> Outcome:
    with tempfile.TemporaryDirectory() as name:
        folder, began = Path(name), time.monotonic()
        start = functools.partial(
            processes.call, workers.run, kind, storage, folder, options.trials, root, cwd=folder
        )
        running = [start(number) for _ in range(number)]
        while len(list(folder.glob("ready-*"))) < number:
            time.sleep(0.01)
        kills = 0
        for _ in range(options.kills):
            time.sleep(rng.uniform(0, 2))
            victim = rng.randrange(number)
            if running[victim].alive:
                running[victim].kill()
                kills += 1
                running[victim] = start(0)
        ended = [process.wait() for process in running]
        seconds = time.monotonic() - began
        trials = optuna.load_study(
            study_name=workers.NAME, storage=workers.storage(storage, folder)
        ).trials
    left = [t for t in trials if t.state == TrialState.RUNNING]
    finished = sum(t.state in COUNTED for t in trials)
    faults = [f"exit code {result.code}: {result.err[-500:]}" for result in ended if result.code]
    faults += [f"trial {t.number} is still running" for t in left if owner_of(t) is not None]
    if finished != options.trials:
        faults.append(f"{finished} trials instead of {options.trials}")
    for fault in faults:
        print(fault, file=sys.stderr)
    return Outcome(
        finished=finished,
        surplus=sum(SURPLUS in t.system_attrs for t in trials),
        orphans=sum(owner_of(t) is None for t in left),
        faults=faults,
        kills=kills,
        seconds=seconds,
    )


def _row(kind: str, storage: str, number: int, outcomes: list[Outcome], trials: int) -> str:
    exact = sum(outcome.finished == trials and not outcome.faults for outcome in outcomes)
    cells = [
        *(kind, storage, number, f"{exact} of {len(outcomes)}"),
        sum(outcome.kills for outcome in outcomes),
        sum(outcome.surplus for outcome in outcomes),
        sum(outcome.orphans for outcome in outcomes),
        f"{statistics.median(outcome.seconds for outcome in outcomes):.1f}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
