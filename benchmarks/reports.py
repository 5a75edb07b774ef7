"""What cards, notes and artifacts cost a search: seconds and bytes, beside the same one without.

    python benchmarks/reports.py
    python benchmarks/reports.py --trials 100 --kinds free --storages sqlite --seconds 0.5

A trial merges small models (24 numbers, or natural niches), scores 160 examples, and waits until
its evaluation has taken --seconds. Two searches run one after the other on storages of their own,
first without reports, then with them. They must find the same, trial by trial. Printed are

- share: seconds spent in the reporter, of those of the whole search with it; behind it those of
  the processor, which a busy machine does not make more of;
- processor: by how much the seconds of the processor grow, of those of the whole search: what
  other parts of the search lose by reading what is stored counts as well;
- bytes per trial of the storage (SQLite after a checkpoint of its log), without and with reports;
- bytes of cards and note, which do not grow with the trials, and of the artifacts.

With --simulate nobody waits: the clock by which the reporter holds its share, and the seconds
printed, are put forward instead. The search without reports never waits.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

import merge_optuna as mo
from merge_optuna.reports import _budget, _reporter
from tests import toys

EXAMPLES = 160
KINDS = ("free", "evolved")
_STEPS = ("evaluated", "__call__", "finish")


class Slow:
    """How far random projections of the weights are from targets, after some seconds."""

    directions = ("minimize",)
    metric_names = ("distance",)

    def __init__(self, recipe: mo.Recipe, wait: Callable[[float], None]) -> None:
        self._wait = wait
        self._rng = torch.Generator().manual_seed(0)
        self._rows: torch.Tensor | None = None
        best = recipe.bind(
            {k: 0.4 + 0.3 * math.sin(i) for i, k in enumerate(recipe.distributions())}
        )
        self._targets = self._projected(mo.Engine().load(best))

    def __len__(self) -> int:
        return EXAMPLES

    def __call__(self, model: nn.Module) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields all examples."""
        began = time.monotonic()
        scores = (self._projected(model) - self._targets).abs().double().numpy()
        self._wait(time.monotonic() - began)
        yield np.arange(EXAMPLES), scores

    def value(self, scores: np.ndarray) -> float:
        """The mean."""
        return float(np.mean(scores))

    def _projected(self, model: nn.Module) -> torch.Tensor:
        weights = torch.cat([p.detach().flatten()[:400] for p in model.parameters()])
        if self._rows is None:
            self._rows = torch.randn(EXAMPLES, len(weights), generator=self._rng)
        return self._rows @ weights


class Clock:
    """Lets an evaluation take its time, really or by putting itself forward."""

    def __init__(self, seconds: float, simulated: bool) -> None:
        self._seconds, self._simulated = seconds, simulated
        self.waited = 0.0

    def wait(self, spent: float) -> None:
        """The rest of an evaluation."""
        rest = max(0.0, self._seconds - spent)
        if self._simulated:
            self.waited += rest
        else:
            time.sleep(rest)  # the trial of so many seconds that is measured

    def monotonic(self) -> float:
        """Seconds, as ``time.monotonic``."""
        return time.monotonic() + self.waited


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        models = toys.family(Path(folder) / "models")
        _measured("free", "sqlite", 2, models, Path(folder), options)  # whatever is loaded once
        for kind in options.kinds:
            for scheme in options.storages:
                for n in options.trials:
                    row = _measured(kind, scheme, n, models, Path(folder), options)
                    print(_line(row), flush=True)
                    if options.json:
                        with options.json.open("a") as file:
                            file.write(json.dumps(row) + "\n")


def _measured(
    kind: str, scheme: str, n: int, models: list[mo.Checkpoint], root: Path, options: Any
) -> dict[str, Any]:
    folder = root / f"{kind}-{scheme}-{n}"
    folder.mkdir()
    at_once, clock = Clock(0, simulated=False), Clock(options.seconds, options.simulate)
    off, before = _run(kind, models, n, at_once, f"{scheme}:///{folder}/off", False)
    on, after = _run(kind, models, n, clock, f"{scheme}:///{folder}/on", True)
    found = [[(t.params, t.values) for t in study.trials] for study in (before, after)]
    if found[0] != found[1]:
        raise SystemExit(f"{kind} on {scheme}: reports have changed the search.")
    shown = sum(len(str(x)) for k, x in _attrs(after) if k.startswith("dashboard:"))
    artifacts = [*(folder / "on.artifacts").iterdir()]
    return {
        "kind": kind,
        "storage": scheme,
        "trials": n,
        "seconds": on["seconds"],
        "share": on["reporter"] / on["seconds"],
        "own_processor": on["reporter_processor"] / on["seconds"],
        "processor": (on["processor"] - off["processor"]) / on["seconds"],
        "refreshes": on["refreshes"],
        "bests": len({k.split(":")[1] for k, _ in _attrs(after) if k.endswith(":note_ver")}) - 1,
        "bytes_off": (folder / "off").stat().st_size,
        "bytes_on": (folder / "on").stat().st_size,
        "shown": shown,
        "artifacts": sum(file.stat().st_size for file in artifacts),
        "files": len(artifacts),
    }


def _attrs(study: optuna.Study) -> list[tuple[str, Any]]:
    return [*study._storage.get_study_system_attrs(study._study_id).items()]


def _run(
    kind: str, models: list[mo.Checkpoint], n: int, clock: Clock, url: str, reports: bool
) -> tuple[dict[str, float], optuna.Study]:
    search = _search(kind, models, n, clock, reports)
    _budget.time = clock  # type: ignore[assignment]
    spent, restore = _timed()
    began, processor = time.perf_counter(), time.process_time()
    try:
        study = search.run(mo.storage(url), progress=False)
    finally:
        restore()
    took = time.perf_counter() - began + clock.waited, time.process_time() - processor
    _settle(study)
    return {"seconds": took[0], "processor": took[1], **spent}, study


def _search(
    kind: str, models: list[mo.Checkpoint], n: int, clock: Clock, reports: bool
) -> mo.MergeStudy:
    base, *experts = models
    free = {"weight": mo.free(0, 1, per="layer"), "density": mo.free(0.1, 1, per="layer")}
    recipe = mo.recipes.dare_ties(base, experts, **free)
    evaluator, options = Slow(recipe, clock.wait), {"reports": reports, "baselines": ["base"]}
    if kind == "evolved":
        return mo.presets.m2n2(base, experts, evaluator, n_trials=n, **options)
    return mo.MergeStudy("free", mo.MergeObjective(recipe, evaluator), n, **options)


def _settle(study: optuna.Study) -> None:
    backend = getattr(study._storage, "_backend", None)
    if (engine := getattr(backend, "engine", None)) is not None:
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")


def _timed() -> tuple[dict[str, float], Callable[[], None]]:
    """Seconds in the reporter while this is in force, and what ends it."""
    spent = {"reporter": 0.0, "reporter_processor": 0.0, "refreshes": 0.0}
    kind = _reporter._Reporter
    before = {step: getattr(kind, step) for step in (*_STEPS, "_refresh")}

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            began, processor = time.perf_counter(), time.process_time()
            try:
                return method(*args)
            finally:
                spent["reporter"] += time.perf_counter() - began
                spent["reporter_processor"] += time.process_time() - processor

        return call

    def counted(*args: Any) -> Any:
        spent["refreshes"] += 1
        return before["_refresh"](*args)

    for step in _STEPS:
        setattr(kind, step, timed(before[step]))
    kind._refresh = counted  # type: ignore[method-assign]
    return spent, lambda: [setattr(kind, *pair) for pair in before.items()] and None


def _line(row: dict[str, Any]) -> str:
    n = row["trials"]
    off, on, shown = (row[key] / n for key in ("bytes_off", "bytes_on", "shown"))
    return (
        f"{row['kind']:8}{row['storage']:8}{n:>5} trials {row['seconds']:>7.1f} s"
        f"  share {row['share']:6.2%} ({row['own_processor']:.2%})"
        f"  processor {row['processor']:+6.2%}"
        f"  refreshes {row['refreshes']:>3.0f}  bests {row['bests']:>3}"
        f"  bytes/trial {off:7.0f} -> {on:7.0f} ({on / off - 1:+.1%}; "
        f"{(on - shown) / off - 1:+.1%} without {row['shown'] / 1000:.0f} kB of cards and notes)"
        f"  artifacts {row['artifacts'] / 1000:.0f} kB in {row['files']} files"
    )


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 2000])
    parser.add_argument("--seconds", type=float, default=0.5, help="of an evaluation")
    parser.add_argument("--simulate", action="store_true", help="put clocks forward instead")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--storages", nargs="+", default=["sqlite", "journal"])
    parser.add_argument("--json", type=Path, help="a file to which a line per row is added")
    return parser.parse_args()


if __name__ == "__main__":
    main()
