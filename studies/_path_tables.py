"""Tables and the picture of ``dfs_*.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from _passages import LENGTH, PASSAGES, Array, Pool
from _path_methods import METHODS
from _path_picture import Drawn

from merge_optuna.study import Cost, Entry, Estimate, Kind, Leaderboard, Run

BEST, SIMPLE = "the best source", "uniform average"
GREEDY = "DFS: greedy exchange of layers"
TUNED = GREEDY, "ta"  # baselines, though tuned on dev


@dataclass(frozen=True)
class Result:
    """What one run has found.

    Attributes:
        dev: Nats per token on dev.
        test: The same of every test passage, (domains, n).
        path: If it is one.
        models: The models that the letters of the path stand for, and their depths.
        evaluations: How many models were scored.
        seconds: They took.
        reached: The best dev value after so many evaluations, those of the last search.
    """

    dev: float
    test: list[list[float]]
    path: str = ""
    models: tuple[tuple[str, int], ...] = ()
    evaluations: int = 1
    seconds: float = 0.0
    reached: dict[str, float] = field(default_factory=dict)


def nats(rows: Array) -> float:
    """Nats per token, the mean over the domains, of (n, 2) nats and number of the domain."""
    domains = rows[:, 1].astype(np.int64)
    passages = np.bincount(domains)
    return float(np.mean(np.bincount(domains, rows[:, 0])[passages > 0] / passages[passages > 0]))


def run_of(result: Result, seed: int | None) -> Run:
    """As a leaderboard takes it."""
    test = np.array(result.test)  # (domains, passages)
    domain = np.repeat(np.arange(len(test)), test.shape[1])
    cost = Cost(evaluations=result.evaluations, seconds=result.seconds or None)
    return Run(result.dev, np.column_stack([test.ravel(), domain]), seed, cost)


def kind_of(name: str) -> Kind:
    """Of a row: what is as simple as task arithmetic is a baseline, even tuned on dev."""
    if name in TUNED:
        return "tuned baseline"
    return "search" if name in METHODS else "baseline"


def board(single: dict[str, Result], found: dict[str, list[Result]]) -> Leaderboard:
    """Everything, side by side."""
    entries = [
        Entry(name, [run_of(result, None)], kind_of(name)) for name, result in single.items()
    ]
    for method, results in found.items():
        runs = [run_of(result, seed) for seed, result in enumerate(results)]
        entries.append(Entry(METHODS[method].label, runs, kind_of(method)))
    return Leaderboard.of(entries, value=nats, metric="nats", direction="minimize")


PATHS = (
    *("dfs", GREEDY, "by_depth", "largest", "ea", "path_ga", "path_tpe", "path_three"),
    *("path_none", "path_blocks", "prior", "from_greedy", "dfs_128"),
)
ORDERS = {  # the first is expected to be better
    "Choices by depth against every other path:": [("path", other) for other in PATHS],
    "Weights, paths, and both, with the same evaluations:": [
        ("ps_path", "ps"),
        ("ps_path_kept", "ps"),
        ("ps_path_last", "ps"),
        ("joint", "ps"),
        ("ps", "path"),
        ("path", BEST),
        ("path", SIMPLE),
    ],
    "The orderings of the paper, with CMA-ES:": [
        ("ps_dfs", "ps"),
        ("ps_dfs", "ps_half"),
        ("ps", "dfs"),
        ("dfs", BEST),
        ("dfs", "dfs_none"),
    ],
    "The same, paths by the genetic algorithm:": [
        ("ps_dfs_ga", "ps"),
        ("ps_dfs_ga", "ps_half"),
        ("ps", "dfs_ga"),
        ("dfs_ga", BEST),
        ("dfs_ga", "dfs_ga_none"),
    ],
    "And others:": [
        ("dfs_ga", "dfs"),
        ("dfs", GREEDY),
        ("dfs_ga", GREEDY),
        ("dfs_base", "dfs"),
        ("dfs_ga", SIMPLE),
        ("ps", BEST),
        ("ps", "untuned DARE-TIES"),
        ("ps", SIMPLE),
        ("ps", "ta"),
        ("ta", SIMPLE),
    ],
}


def verdict(difference: Estimate) -> str:
    """Whether the first is better, by the interval of the difference."""
    if difference.high < 0:
        found = "holds"
    elif difference.low > 0:
        found = "does not hold, it is the other way round"
    else:
        found = "not shown: too close to tell"
    return found if difference.seeds else f"one seed only: {found}"


def judged(pairs: Sequence[tuple[str, str]], table: Leaderboard, best: str) -> list[str]:
    """Lines of differences on test, of what was run.

    Args:
        pairs: Of methods or baselines.
        table: Where they stand.
        best: The name of the best source.
    """
    values = {row.name: row.test.value for row in table.rows if row.test is not None}
    lines = []
    for pair in pairs:
        first, second = (METHODS[name].label if name in METHODS else name for name in pair)
        rival = best if second == BEST else second
        if first in values and rival in values:
            difference = table.difference(first, rival)
            share = 100 * difference.value / values[rival]
            lines.append(
                f"- {first} − {second}: {difference:+.3f}, {share:+.1f} %: "
                f"**{verdict(difference)}**"
            )
    return lines


def tables(
    pool: Pool, single: dict[str, Result], found: dict[str, list[Result]], title: str
) -> str:
    """Markdown."""
    table = board(single, found)
    best = min((name for name, _ in pool.models), key=lambda name: single[name].dev)
    lines = [f"# {title}", "", caption(pool, found), "", table.to_markdown()]
    lines += [*by_domain(pool, single, found), ""]
    lines += [f"Differences on test; below 0 the first is better. The best source is {best}."]
    for heading, pairs in ORDERS.items():
        if judgements := judged(pairs, table, best):
            lines += ["", heading, "", *judgements]
    lines += early(found)
    lines += ["", "Paths of the searches, seed by seed:", ""]
    lines += [f"- {name}: `{result.path}`" for name, result in single.items() if result.path]
    for method, results in found.items():
        for seed, result in enumerate(results):
            if result.path:
                names = ", ".join(f"{'ABC'[i]} {n}" for i, (n, _) in enumerate(result.models))
                lines.append(f"- {METHODS[method].label}, seed {seed} ({names}): `{result.path}`")
    return "\n".join([*lines, "", "![paths](paths.svg)", ""])


def early(found: dict[str, list[Result]]) -> list[str]:
    """Lines of a table: the best on dev after so many evaluations, the mean over seeds."""
    rows = {name: results for name, results in found.items() if all(r.reached for r in results)}
    counts = sorted({int(n) for results in rows.values() for r in results for n in r.reached})
    counts = [n for n in counts if n % 25 == 0 and n <= 400]
    if not rows or not counts:
        return []
    lines = [
        f"| best on dev after | {' | '.join(map(str, counts))} |",
        "|---" * (1 + len(counts)) + "|",
    ]
    for name, results in rows.items():
        means = [np.mean([r.reached.get(str(n), np.nan) for r in results]) for n in counts]
        cells = " | ".join("" if np.isnan(mean) else f"{mean:.3f}" for mean in means)
        lines.append(f"| {METHODS[name].label} | {cells} |")
    return lines


def by_domain(pool: Pool, single: dict[str, Result], found: dict[str, list[Result]]) -> list[str]:
    """Lines of a table: test by domain, the mean over the seeds, and by seed."""
    lines = [f"| test | {' | '.join(pool.domains)} | by seed |"]
    lines.append("|---" * (2 + len(pool.domains)) + "|")
    rows = {name: [result] for name, result in single.items()}
    rows |= {METHODS[method].label: results for method, results in found.items()}
    for name, results in rows.items():
        scores = np.array([result.test for result in results])  # (seeds, domains, passages)
        domains = " | ".join(f"{value:.2f}" for value in scores.mean((0, 2)))
        seeds = ", ".join(f"{value:.3f}" for value in scores.mean((1, 2)) if len(scores) > 1)
        lines.append(f"| {name} | {domains} | {seeds} |")
    return lines


def caption(pool: Pool, found: dict[str, list[Result]]) -> str:
    """What the numbers are."""
    seconds = [r.seconds / r.evaluations for results in found.values() for r in results]
    n = len(pool.domains)
    return (
        f"Nats per token, lower is better: the mean over {n} domains, on {n * PASSAGES['dev']} "
        f"dev and {n * PASSAGES['test']} test passages of {LENGTH} tokens; searches see the dev "
        "passages only. Rows of searches are means over seeds of the sampler (and of DARE's "
        "masks). An ordering holds if the whole interval of the difference says so, over seeds "
        "and passages; where DFS without scales collapses in the paper, it only has to be worse "
        "here. "
        f"A trial took {np.median(seconds):.2f} s (median of the runs)."
    )


def drawn(found: dict[str, list[Result]]) -> list[list[Drawn]]:
    """All paths, a row for every method."""
    return [
        [
            Drawn(f"{METHODS[method].label}, seed {seed}", result.path, result.models)
            for seed, result in enumerate(results)
            if result.path
        ]
        for method, results in found.items()
    ]
