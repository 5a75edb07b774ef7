"""How fast and in how much memory recipes merge, side by side with mergekit.

    python benchmarks/merge_speed.py --mergekit /path/to/python-with-mergekit

Makes a base and three models (270 M parameters, bfloat16, three shards each) below --folder, once.
Then, for each recipe in turn, mergekit and merge_optuna write it to disk, and merge_optuna refills
its live model with other weights and densities each time. It prints ratios of medians and writes
everything to --json. Times are those of a warm page cache.

    python benchmarks/merge_speed.py --shape 7b --device cuda     # refills only
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import _models
import torch
from _mergekit import Mergekit

import merge_optuna as mo

R = mo.recipes
Recipes = Callable[[Sequence[mo.Checkpoint], float], mo.Recipe]
WEIGHT, DENSITY = [0.3, 0.5, 0.4], 0.5

# For each recipe: mergekit's method and parameters, and ours; x in (0, 1) moves all numbers.
RECIPES: dict[str, tuple[str, dict[str, Any], Recipes]] = {
    "linear": ("linear", {"weight": WEIGHT}, lambda m, x: R.linear(m[1:], weight=_weight(x))),
    "slerp": ("slerp", {"t": 0.5}, lambda m, x: R.slerp(m[1], m[2], t=x)),
    "task_arithmetic": (
        "task_arithmetic",
        {"weight": WEIGHT},
        lambda m, x: R.task_arithmetic(m[0], m[1:], weight=_weight(x)),
    ),
    "ties": (
        "ties",
        {"weight": WEIGHT, "density": DENSITY},
        lambda m, x: R.ties(m[0], m[1:], weight=_weight(x), density=x),
    ),
    "dare_ties": (
        "dare_ties",
        {"weight": WEIGHT, "density": DENSITY},
        lambda m, x: R.dare_ties(m[0], m[1:], weight=_weight(x), density=x),
    ),
    "dare_ties, rescale=l1": (
        "dare_ties",
        {"weight": WEIGHT, "density": DENSITY},
        lambda m, x: R.dare_ties(m[0], m[1:], weight=_weight(x), density=x, rescale="l1"),
    ),
    "dare_linear": (
        "dare_linear",
        {"weight": WEIGHT, "density": DENSITY},
        lambda m, x: R.dare_linear(m[0], m[1:], weight=_weight(x), density=x),
    ),
}


def _weight(x: float) -> list[float]:
    """At x = 0.5 the weights of mergekit's configuration."""
    return [w + x - 0.5 for w in WEIGHT] if x != 0.5 else WEIGHT


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mergekit", help="Python that has mergekit; left out if omitted")
    parser.add_argument("--folder", type=Path, default=Path("runs/merge_speed"))
    parser.add_argument("--json", type=Path, default=Path("runs/merge_speed/result.json"))
    parser.add_argument("--shape", choices=_models.SHAPES, default="270m")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", action="store_true", help="measure memory as well")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # one memory figure, in a process
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        print(json.dumps(_memory_here(options)))
        return
    result: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "device": _device(options.device),
        "threads": options.threads,
        "shape": options.shape,
        "parameters": _models.elements(options.shape),
        "copy_gb_per_s": _bandwidth(options),
    }
    folders = _models.make(options.folder, options.shape)
    kit = Mergekit(options.mergekit, options.threads) if options.mergekit else None
    result["speed"] = {name: _speed(name, folders, kit, options) for name in options.recipes}
    if kit is not None:
        kit.close()
    if options.memory:
        result["memory_mb"] = _memory(options)
    _print(result)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=2))


# -- speed ------------------------------------------------------------------------------------


def _speed(name: str, folders: list[Path], kit: Mergekit | None, options: Any) -> dict[str, Any]:
    """Median seconds of each way, measured in turn so that all meet the same machine."""
    method, parameters, ours = RECIPES[name]
    models = [mo.Checkpoint(f, name=f.name) for f in folders]
    engine, on_cpu = mo.Engine(options.device), options.device == "cpu"
    engine.load(ours(models, 0.5))  # makes the model, compiles the kernels, warms the page cache
    out = options.folder / "out"
    times: dict[str, list[dict[str, float]]] = {"refill": []}
    for i in range(options.repeat):
        if kit is not None:
            config = _config(method, parameters, folders)
            times.setdefault("mergekit", []).append(kit.merge(config, out / "mergekit"))
        if on_cpu:
            shutil.rmtree(out / "ours", ignore_errors=True)
            write = lambda: mo.write(ours(models, 0.5), out / "ours")  # noqa: E731
            times.setdefault("write", []).append(_timed(write, options.device))
        recipe = ours(models, 0.31 + 0.4 * i / options.repeat)  # other numbers every time
        load = lambda: engine.load(recipe)  # noqa: B023, E731
        times["refill"].append(_timed(load, options.device))
    shutil.rmtree(out, ignore_errors=True)
    found: dict[str, Any] = {
        way: {key: statistics.median(t[key] for t in each) for key in each[0]}
        for way, each in times.items()
    }
    used = ours(models, 0.5).sources
    moved = 2 * _models.elements(options.shape) * (len(used) + 1)
    found["refill"]["times_copy"] = found["refill"]["wall"] / moved * _bandwidth(options) * 1e9
    for way in ("write", "refill"):
        if "mergekit" in found and way in found:
            found[way]["times_faster"] = found["mergekit"]["wall"] / found[way]["wall"]
    print(f"{name}: {_line(found)}", flush=True)
    return found


def _timed(work: Callable[[], object], device: str) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def _config(method: str, parameters: dict[str, Any], folders: list[Path]) -> dict[str, Any]:
    """The same recipe for mergekit."""
    experts = folders[1:3] if method == "slerp" else folders[1:]
    each = [
        {key: value[i] if isinstance(value, list) else value for key, value in parameters.items()}
        for i in range(len(experts))
    ]
    config: dict[str, Any] = {
        "merge_method": method,
        "dtype": "bfloat16",
        "models": [
            {"model": str(f), "parameters": {} if method == "slerp" else p}
            for f, p in zip(experts, each, strict=True)
        ],
    }
    if method == "slerp":
        return config | {"base_model": str(folders[1]), "parameters": parameters}
    return config if method == "linear" else config | {"base_model": str(folders[0])}


def _bandwidth(options: Any) -> float:
    """Gigabytes read plus written per second by a copy on the same threads or device."""
    size = 1 << 28
    source = torch.zeros(size, dtype=torch.bfloat16, device=options.device)
    target = torch.ones_like(source)
    seconds = [_timed(lambda: target.copy_(source), options.device)["wall"] for _ in range(7)]
    return 2 * source.nbytes / statistics.median(seconds) / 1e9


def _device(device: str) -> str:
    return torch.cuda.get_device_name(device) if device != "cpu" else "cpu"


# -- memory -----------------------------------------------------------------------------------


def _memory(options: Any) -> dict[str, Any]:
    """Peak anonymous memory beyond what the process has, each in a process of its own."""
    found: dict[str, Any] = {}
    for name in options.recipes:
        found[name] = {
            "refill": _measured(f"refill/{options.shape}/{name}", options),
            "write": _measured(f"write/{options.shape}/{name}", options),
        }
        if options.shape == "270m":
            longer = _measured(f"write/270m x4 layers/{name}", options)
            found[name]["write, 4 times the layers"] = longer
    return found


def _measured(what: str, options: Any) -> Any:
    command = [sys.executable, __file__, "--measure", what, "--folder", str(options.folder)]
    done = subprocess.run(
        [*command, "--threads", str(options.threads)], check=True, stdout=subprocess.PIPE
    )
    print(f"{what}: {done.stdout.decode().strip()}", flush=True)
    return json.loads(done.stdout)


def _memory_here(options: Any) -> dict[str, float]:
    way, shape, name = options.measure.split("/")
    folders = _models.make(options.folder, shape)
    small = [mo.Checkpoint(f, name=f.name) for f in _models.make(options.folder, "tiny")]
    recipe, out = RECIPES[name][2], options.folder / f"out-{way}"
    models = [mo.Checkpoint(f, name=f.name) for f in folders]
    mo.write(recipe(small, 0.5), out / "tiny", force=True)  # imports and compiles
    mo.Engine().load(recipe(small, 0.5))
    engine = mo.Engine()
    if way == "refill":
        engine.load(recipe(models, 0.5))
    before = _anonymous()
    with _Peak() as peak:
        if way == "refill":
            for x in (0.3, 0.4):
                engine.load(recipe(models, x))
        else:
            mo.write(recipe(models, 0.5), out / "large", force=True)
    shutil.rmtree(out)
    source = 2 * _models.elements(shape) / 2**20
    extra = peak.highest - before
    return {"extra": round(extra, 1), "share_of_one_source": round(extra / source, 4)}


def _anonymous() -> float:
    """RssAnon in MiB: mapped pages of the sources are not ours."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


class _Peak:
    """The highest anonymous memory while a block runs."""

    def __enter__(self) -> _Peak:
        self.highest, self._done = _anonymous(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self.highest = max(self.highest, _anonymous())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


# -- printing ---------------------------------------------------------------------------------


def _line(found: dict[str, Any]) -> str:
    ways = [
        f"{way} {times['wall']:.3f} s (CPU {times['cpu']:.3f})"
        + (f", {times['times_faster']:.1f} times faster" if "times_faster" in times else "")
        + (f", {times['times_copy']:.1f} times a copy" if "times_copy" in times else "")
        for way, times in found.items()
    ]
    return "; ".join(ways)


def _print(result: dict[str, Any]) -> None:
    print(f"\ncopy: {result['copy_gb_per_s']:.1f} GB/s read plus written")
    print(f"{'':24}{'to disk':>10}{'refill':>10}{'refill ÷ copy':>16}")
    for name, found in result["speed"].items():
        faster = [f"{found.get(w, {}).get('times_faster', 0):.1f}×" for w in ("write", "refill")]
        copy = f"{found['refill']['times_copy']:.1f}"
        print(f"{name:24}{faster[0]:>10}{faster[1]:>10}{copy:>16}")


if __name__ == "__main__":
    main()
