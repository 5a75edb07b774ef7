"""Results and facts as tables, or as one JSON object."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_optuna.cli.tables import in_words, say, table
from merge_optuna.errors import few

if TYPE_CHECKING:
    from merge_optuna.study import Front, Leaderboard, Lineage

_SHOWN_PARAMETERS = 6


def show(data: dict[str, Any], tables: Callable[[dict[str, Any]], None], *, as_json: bool) -> None:
    """Prints data as JSON, or as the tables that are made of them."""
    (print_json if as_json else tables)(data)


def print_json(data: dict[str, Any]) -> None:
    """One JSON object."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def run(result: dict[str, Any]) -> None:
    """What a search has come to."""
    rows: list[tuple[str, Any]] = []
    for best in [] if "front" in result else result["best"]:
        rows.append(("best trial", best["trial"]))
        for metric, value in zip(result["metrics"], best["values"], strict=True):
            rows.append((f"{metric} (dev)", value))
        rows += [(f"{name} (dev)", value) for name, value in best.get("breakdown", {}).items()]
        rows += [(name, one["note"]) for name, one in best.get("constraints", {}).items()]
    if "test" in result:
        rows.append((f"{result['metrics'][0]} (test)", result["test"]))
    if "test_baseline" in result:
        beside_it = result["test_baseline"]
        rows.append((f"{result['metrics'][0]} (test), {beside_it['name']}", beside_it["value"]))
    rows.append(("trials", _counts(result["trials"])))
    rows.append(("kept in", place(result["storage"])))
    rows += [("best trials in", path) for path in result.get("kept", [])]
    if "written" in result:
        rows.append(("written to", result["written"]))
    if "pushed" in result:
        rows.append(("pushed to", result["pushed"]))
    table(["", ""], rows, title=result["study"])
    if "front" in result:
        _points(result)
    _infeasible(result)
    beside(result)
    print(f"To look at it: {_dashboard(result['storage'])}")


def _points(result: dict[str, Any]) -> None:
    """The front, with what its points score on test data."""
    parts, best = _parts(result["best"], result["metrics"]), result["best"]
    tests = list(dict.fromkeys(name for b in best for name in b.get("test", ())))
    rows = [
        (b["trial"], *_numbers(b, parts), *(b.get("test", {}).get(name, "") for name in tests))
        for b in best
    ]
    names = [f"{name} (dev)" for name in (*result["metrics"], *parts)]
    table(["trial", *names, *(f"{name} (test)" for name in tests)], rows)
    say(*result["front"]["notes"])


def studies(results: dict[str, Any]) -> None:
    """All studies of a storage."""
    rows = [
        (r["study"], ", ".join(r["metrics"]), *r["trials"].values(), _values_of_best(r))
        for r in results["studies"]
    ]
    states = ("complete", "pruned", "failed", "running")
    table(["study", "metric", *states, "best"], rows)
    say("More of one: --study NAME.")


def _values_of_best(result: dict[str, Any]) -> Any:
    if len(result["metrics"]) > 1:
        return f"{len(result['best'])} on the front"
    if not result["best"]:
        return "none"
    best = result["best"][0]
    return f"{best['values'][0]:.4g}, infeasible" if best.get("infeasible") else best["values"][0]


def study(result: dict[str, Any]) -> None:
    """What won, against what, and how; why trials were pruned or have failed."""
    print(f"{result['study']}: {_counts(result['trials'])}")
    say(_what_is_better(result), "")
    if "front" in result:
        _best(result)
        say(*result["front"]["notes"], "")
    _infeasible(result)
    beside(result)
    if "held_out" in result:
        _scores("on held-out data", result["held_out"], "name")
    winner(result.get("winner"))
    if "front" not in result:
        _best(result)
    reasons = [
        (state, count, reason)
        for state in ("pruned", "failed")
        for reason, count in result[state].items()
    ]
    if reasons:
        table(["", "trials", "reason"], reasons)


def _best(result: dict[str, Any]) -> None:
    """The best trials, or the front, a line each."""
    if not result["best"]:
        say(
            "No trial is complete and feasible yet."
            if "front" in result
            else "No trial is complete yet.",
            "",
        )
        return
    parts = _parts(result["best"], result["metrics"])
    kept = list(dict.fromkeys(name for b in result["best"] for name in b.get("constraints", ())))
    rows = [
        (
            b["trial"],
            *_numbers(b, parts),
            *(b.get("constraints", {}).get(name, {}).get("note", "") for name in kept),
            b.get("path") or b.get("recipe") or _few_params(b["params"]),
        )
        for b in result["best"]
    ]
    found = {key for b in result["best"] for key in ("path", "recipe") if key in b}
    what = next((key for key in ("path", "recipe") if key in found), "parameters")
    table(["trial", *result["metrics"], *parts, *kept, what], rows, cut=True)


def winner(found: dict[str, Any] | None) -> None:
    """The recipe of the best trial: a line, and its numbers by layer and model."""
    if found is None:
        return
    if "missing" in found:
        say(f"The recipe of trial {found['trial']} cannot be shown: {found['missing']}", "")
        return
    about = f": {found['summary']}" if found["summary"] else ""
    say(f"Best recipe, trial {found['trial']}{about}")
    many = [panel for panel in found["panels"] if len(panel["rows"]) > 1]  # others are means
    print("Layer by layer:\n" if many else "")
    for rows, panels in groupby(many, key=lambda panel: panel["rows"]):
        _layers(rows, list(panels))


def _layers(rows: Sequence[str], panels: Sequence[dict[str, Any]]) -> None:
    """Panels with the same layers beside each other."""
    heads = [f"{one['parameter']} {name}" for one in panels for name in one["columns"]]
    cells = [
        [row, *("" if x is None else f"{x:.3g}" for one in panels for x in one["values"][i])]
        for i, row in enumerate(rows)
    ]
    table(["layer", *heads], cells)


def _what_is_better(result: dict[str, Any]) -> str:
    words = {"maximize": "higher is better", "minimize": "lower is better"}
    pairs = zip(result["metrics"], result["directions"], strict=True)
    return ", ".join(f"{metric}: {words[direction]}" for metric, direction in pairs)


def _infeasible(result: dict[str, Any]) -> None:
    """That no trial keeps the constraints, where the first one shown does not."""
    if said := next((b.get("infeasible") for b in result["best"]), None):
        say(said)


def beside(result: dict[str, Any]) -> None:
    """The baselines beside the best trial; of task arithmetic the best coefficient only."""
    rows = [row for row in result.get("baselines", ()) if row["headline"]]
    single = result["best"][:1] if "front" not in result else []
    best = [{"name": f"best trial {b['trial']}", "note": "", **b} for b in single]
    _baselines(result["metrics"], [*best, *rows] if rows else [])


def baselines(result: dict[str, Any]) -> None:
    """All baselines, and what they have cost."""
    _baselines(result["metrics"], result["baselines"])
    examples = sum(row["examples"] for row in result["baselines"])
    seconds = sum(row["seconds"] for row in result["baselines"])
    print(f"{examples} examples scored in {seconds:.1f} seconds.")


def _baselines(metrics: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    parts = _parts(rows, metrics)
    blank = [""] * len(metrics)
    cells = [
        (row["name"], *_numbers({**row, "values": row["values"] or blank}, parts), row["note"])
        for row in rows
    ]
    if cells:
        table(["against what", *metrics, *parts, ""], cells)


def _parts(rows: Sequence[dict[str, Any]], metrics: Sequence[str]) -> list[str]:
    """What values are made of, unless it is an objective of its own."""
    names = dict.fromkeys(name for row in rows for name in row.get("breakdown", ()))
    return [name for name in names if name not in metrics]


def _numbers(row: dict[str, Any], parts: Sequence[str]) -> list[Any]:
    """The values of a row, and what they are made of."""
    return [*row["values"], *(row.get("breakdown", {}).get(name, "") for name in parts)]


def evaluated(result: dict[str, Any]) -> None:
    """What models score."""
    _scores("model", result["models"], "model")


def _scores(title: str, found: Sequence[dict[str, Any]], name: str) -> None:
    """The values of each, a column for each of them that one has."""
    columns = list(dict.fromkeys(column for row in found for column in row["values"]))
    rows = [(row[name], *(row["values"].get(c, "") for c in columns)) for row in found]
    table([title, *columns], rows)


def lineage(found: Lineage, depth: int) -> None:
    """Whom a trial descends from."""
    one = found.trial
    say(
        f"{found.study}: trial {one.trial}, {len(found.ancestors) - 1} ancestors in "
        f"{one.generation} generations"
    )
    if found.shares is not None:
        say("shares: " + ", ".join(f"{name} {x:.1%}" for name, x in found.shares.items()))
    print(f"\n{found.tree(depth)}")


def front(found: Front) -> None:
    """The points of a front, and the baselines beside them."""
    table(*found.table(), title=found.study)
    say(*found.notes)


def leaderboard(board: Leaderboard) -> None:
    """Searches and baselines side by side."""
    table(*board.table())
    say(*board.notes)


def facts(found: dict[str, Any]) -> None:
    """What a file declares, and what a trial of it costs."""
    rows: list[tuple[str, Any]] = []
    for key, value in found.items():
        label = key.removesuffix("_bytes").replace("_", " ")
        if key == "left_out_tensors":
            rows += [(label, f"{few(names, 3)}: {why}") for why, names in value.items()]
        elif isinstance(value, dict):
            rows += [(label, f"{name}: {what}") for name, what in value.items()]
        elif key.endswith("_bytes") and value is not None:
            rows.append((label, _size(value)))
        elif key == "hours":
            rows.append((f"hours for {found['n_trials']} trials", f"{value:.2f}"))
        elif key == "float32_speedup" and value is not None:
            advice = "mo.MergeObjective(..., dtype='float32')"
            rows.append((f"{value:.1f} times faster in float32 here", advice))
        elif key == "hours_baselines":
            rows.append(("hours for the baselines", f"{value:.2f}"))
        elif value is not None:
            rows.append((label, value))
    table(["", ""], rows, title="Everything fits.")


def methods(found: dict[str, Any]) -> None:
    """Merge methods, each with its parameters."""
    for name, about in found.items():
        _method(name, about)


def _method(name: str, about: dict[str, Any]) -> None:
    rows = [
        (
            name,
            p["range"],
            p["default"],
            p["search"] or "",
            "each model" if p["per_model"] else "",
            p["summary"],
        )
        for name, p in about["parameters"].items()
    ]
    columns = ["parameter", "range", "default", "search", "for", ""]
    table(columns, rows, title=f"{name}: {about['sources']}")
    say(about["summary"], about["source"], "")


def _counts(trials: dict[str, int]) -> str:
    return ", ".join(f"{n} {state}" for state, n in trials.items() if n or state == "complete")


def _few_params(params: dict[str, Any]) -> str:
    shown = [f"{name}={in_words(value)}" for name, value in params.items()]
    return few(shown, _SHOWN_PARAMETERS)


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.0f} MB"


def place(url: str | None) -> str:
    """A storage as a person finds it again: the absolute path of a file, or the URL."""
    where = url or "memory"
    scheme, _, path = where.partition(":///")
    return str(Path(path).absolute()) if scheme in ("sqlite", "journal") else where


def _dashboard(url: str | None) -> str:
    """The command that shows a study in the browser."""
    return shlex.join(["merge-optuna", "dashboard", url or ""])
