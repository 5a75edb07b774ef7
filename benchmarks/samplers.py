"""How good the samplers are, how well they use several workers, and what an ask costs.

    python benchmarks/samplers.py --part optimisers
    python benchmarks/samplers.py --part workers
    python benchmarks/samplers.py --part overhead
    python benchmarks/samplers.py --part fronts
    python benchmarks/samplers.py --part mixed [--hub FOLDER]

--quick runs a small version of a part. Prints a table and writes everything to --json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: one core per process

import _fronts
import _mixed
import _optimisers
import _overhead
import _workers
import optuna

PARTS = {
    "optimisers": _optimisers.measure,
    "workers": _workers.measure,
    "overhead": _overhead.measure,
    "fronts": _fronts.measure,
    "mixed": _mixed.measure,
}


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--folder", type=Path, default=Path("runs/samplers"))
    parser.add_argument("--json", type=Path, help="default: result.json in --folder")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--jobs", type=int, default=1, help="processes of all parts but overhead")
    optimisers = parser.add_argument_group("optimisers")
    pairs = list(_optimisers.PAIRS)
    optimisers.add_argument("--pairs", nargs="*", choices=pairs, default=pairs)
    optimisers.add_argument("--dimensions", type=int, nargs="+", default=[5, 20, 64])
    optimisers.add_argument(
        "--evaluations", type=int, nargs="+", default=[100, 100, 50], help="times the dimension"
    )
    optimisers.add_argument("--seeds", type=int, default=15)
    optimisers.add_argument(
        "--optuna", type=int, default=200, help="evaluations beside Optuna's samplers; 0: none"
    )
    optimisers.add_argument("--optuna-dimensions", type=int, nargs="+", default=[5, 20])
    optimisers.add_argument("--optuna-seeds", type=int, default=5)
    workers = parser.add_argument_group("workers")
    workers.add_argument("--workers", type=int, default=8, help="trials in flight")
    workers.add_argument("--samplers", nargs="+", default=list(_workers.SAMPLERS))
    workers.add_argument("--workers-seeds", type=int, default=15)
    workers.add_argument(
        "--workers-evaluations", type=int, default=200, help="to the target, times the dimension"
    )
    overhead = parser.add_argument_group("overhead")
    overhead.add_argument("--parameters", type=int, nargs="+", default=[10, 64, 300])
    overhead.add_argument("--at", type=int, nargs="+", default=[1000, 5000], help="trial numbers")
    overhead.add_argument("--storages", nargs="+", default=list(_overhead.STORAGES))
    overhead.add_argument("--rounds", type=int, default=55)
    fronts = parser.add_argument_group("fronts")
    fronts.add_argument("--fronts-at", type=int, nargs="+", default=[250, 1000])
    fronts.add_argument("--fronts-samplers", nargs="+", default=list(_fronts.SAMPLERS))
    mixed = parser.add_argument_group("mixed")
    mixed.add_argument("--mixed-at", type=int, nargs="+", default=[100, 300])
    mixed.add_argument("--hub", type=Path, help="package/samplers of OptunaHub's registry")
    options = parser.parse_args()
    if options.quick:
        options.dimensions, options.evaluations, options.seeds = [5, 20], [40, 20], 5
        options.optuna, options.optuna_dimensions, options.optuna_seeds = 40, [5], 1
        options.workers_seeds, options.workers_evaluations = 5, 100
        options.fronts_at, options.mixed_at = [100, 200], [50, 100]
        options.parameters, options.at, options.rounds = [10, 64], [200, 1000], 25
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    for known in ("Heartbeat of storage", ".*samples were clipped"):
        warnings.filterwarnings("ignore", known)
    result: dict[str, Any] = {"machine": platform.processor() or platform.machine()}
    path = options.json or options.folder / "result.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    for part in options.part:
        began = time.perf_counter()
        for so_far in PARTS[part](options):
            result[part] = so_far
            result[f"{part}_seconds"] = round(time.perf_counter() - began)
            path.write_text(json.dumps(result, default=_plain))


def _plain(array: Any) -> Any:
    return array.tolist()


if __name__ == "__main__":
    main()
