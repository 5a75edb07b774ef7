"""Which block of one decoder is worth running twice: every block, scored on dev, the best on test.

    python studies/scan.py --data DIR NAME=FOLDER [NAME=FOLDER ...] [--trials N] [--passages N]

DIR has texts of four domains (see ``_passages.py``). A model is scored by its nats per token on
held-out passages, the mean over the domains. The scan (``mo.scan``) sees the dev passages; of its
blocks the best is scored on the test passages in the end, beside the model as it is and beside the
middle third repeated, which nobody has chosen. A scan is kept in ``runs/scan/NAME.db`` and gone
on with. Tables and heat maps go to ``studies/scan``.
"""

from __future__ import annotations

import argparse
import json
import os
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from _passages import DATA, TEXTS, Nats, passages
from _rows import by_rows
from numpy.typing import NDArray
from transformers import AutoTokenizer

import merge_optuna as mo
from merge_optuna.study import Entry, Leaderboard, Run

OUT = Path(__file__).with_suffix("")
RUNS = Path("runs/scan")
PLAIN, MIDDLE, BEST = "the model as it is", "its middle third twice", "the best block of the scan"


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", help="NAME=FOLDER")
    parser.add_argument("--data", type=Path, default=os.environ.get(DATA))
    parser.add_argument(
        "--trials", type=int, help="blocks to score, and the model; all if omitted"
    )
    parser.add_argument("--passages", type=int, default=12, help="dev passages of each domain")
    arguments = parser.parse_args()
    if arguments.models and arguments.data is None:
        parser.error(f"--data or {DATA} must say where the texts are")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for model in arguments.models:
        name, _, folder = model.partition("=")
        scanned(name, Path(folder), arguments)
    report()


def nats(folder: Path, data: Path, split: str, count: int | None = None) -> Nats:
    """Of so many passages of every domain."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = {domain: passages(data, domain, split, tokenizer) for domain in TEXTS}
    return Nats({domain: even(ids, count) for domain, ids in texts.items()})


def even(ids: torch.Tensor, count: int | None) -> torch.Tensor:
    """Some of the rows, evenly spread."""
    return ids if count is None else ids[:: max(len(ids) // count, 1)][:count]


def scanned(name: str, folder: Path, arguments: argparse.Namespace) -> None:
    """Scans a model, scores what it found on test, and keeps that."""
    RUNS.mkdir(parents=True, exist_ok=True)
    model = mo.Checkpoint(folder, name=name)
    dev = nats(folder, arguments.data, "dev", arguments.passages)
    study = mo.scan(
        model,
        dev,
        storage=f"sqlite:///{RUNS / name}.db",
        n_trials=arguments.trials,
        dtype="float32",
    )
    depth = model.depth
    first, stop = (depth - depth // 3) // 2, (depth - depth // 3) // 2 + depth // 3
    middle = mo.recipes.path(f"A[0:{stop}] A[{first}:{depth}]", [model])
    blocks = [t for t in study.trials if t.value is not None and t.params["block/1/times"]]
    found = min(blocks, key=lambda trial: trial.value or 0.0)
    recipes = {PLAIN: mo.recipe_of(study, 0), MIDDLE: middle, BEST: mo.recipe_of(study, found)}
    test, engine = nats(folder, arguments.data, "test"), mo.Engine(dtype="float32")
    rows = {}
    for label, recipe in recipes.items():
        print(f"{name}: {label} on test", flush=True)
        rows[label] = {
            "dev": float(dev.scores(engine.load(recipe)).mean()),
            "test": test.scores(engine.load(recipe)).ravel().tolist(),
            "path": str(recipe.path),
        }
    values = [
        [*(t.params.get(f"block/1/{key}", 0) for key in ("start", "length")), t.value]
        for t in study.trials
        if t.state == optuna.trial.TrialState.COMPLETE
    ]
    OUT.mkdir(exist_ok=True)
    data: dict[str, Any] = {"depth": depth, "dev": len(dev), "blocks": values, "rows": rows}
    (OUT / f"{name}.json").write_text(by_rows(data))


def report() -> None:
    """Writes the tables and heat maps from what was kept."""
    lines = ["# One model, a block of it twice", ""]
    for file in sorted(OUT.glob("*.json")):
        data = json.loads(file.read_text())
        (OUT / f"{file.stem}.svg").write_text(heat_map(data))
        lines += section(file.stem, data)
    (OUT / "results.md").write_text("\n".join(lines))


def section(name: str, data: dict[str, Any]) -> list[str]:
    """Lines of one model."""
    depth, blocks = data["depth"], [b for b in data["blocks"] if b[1]]
    plain = next(b[2] for b in data["blocks"] if not b[1])
    better = sum(value < plain for *_, value in blocks)
    board = Leaderboard.of(
        [
            Entry(label, [Run(row["dev"], np.array(row["test"]))], kind_of(label))
            for label, row in data["rows"].items()
        ],
        value=mean,
        metric="nats",
        direction="minimize",
    )
    found = data["rows"][BEST]["path"]
    return [
        f"## {name}, {depth} layers",
        "",
        f"Nats per token, lower is better, on {data['dev']} dev and "
        f"{len(data['rows'][PLAIN]['test'])} test passages of 128 tokens. Scored were "
        f"{len(blocks)} of {depth * (depth + 1) // 2} blocks; {better} are better on dev than the "
        "model as it is.",
        "",
        board.to_markdown(),
        "",
        f"The best block: `{found}`.",
        "",
        f"![{name}]({name}.svg)",
        "",
    ]


def kind_of(label: str) -> Any:
    """Of a row."""
    return "search" if label == BEST else "baseline"


def mean(scores: NDArray[np.float64]) -> float:
    """Nats per token."""
    return float(scores.mean())


CELL, LEFT, TOP = 18, 46, 34
STYLE = "text{font:11px sans-serif;fill:#333}.t{text-anchor:middle}.e{text-anchor:end}"


def heat_map(data: dict[str, Any]) -> str:
    """Starts downwards, lengths to the right; blue is better than without, red worse."""
    depth = data["depth"]
    plain = next(value for _, length, value in data["blocks"] if not length)
    blocks = [block for block in data["blocks"] if block[1]]
    most = sorted(abs(value - plain) for *_, value in blocks)[len(blocks) // 2] or 1.0
    parts = []
    for start, length, value in blocks:
        share = float(np.clip((value - plain) / most, -1, 1))
        color = f"rgb({255 - max(-share, 0) * 200:.0f},{255 - abs(share) * 130:.0f},"
        color += f"{255 - max(share, 0) * 200:.0f})"
        x, y = LEFT + CELL * (length - 1), TOP + CELL * start
        told = escape(f"layers {start} to {start + length - 1}: {value:.3f}")
        parts.append(
            f'<rect x="{x}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" fill="{color}">'
            f"<title>{told}</title></rect>"
        )
    start, length, _ = min(blocks, key=lambda block: block[2])
    x, y = LEFT + CELL * (length - 1), TOP + CELL * start
    size = f'width="{CELL - 1}" height="{CELL - 1}"'
    parts.append(f'<rect x="{x}" y="{y}" {size} fill="none" stroke="#000" stroke-width="2"/>')
    for i in range(0, depth, max(depth // 6, 1)):
        middle = CELL * i + CELL / 2
        parts.append(f'<text class="e" x="{LEFT - 6}" y="{TOP + middle + 4}">{i}</text>')
        parts.append(f'<text class="t" x="{LEFT + middle}" y="{TOP - 6}">{i + 1}</text>')
    side = CELL * depth
    parts.append(
        f'<text x="4" y="14">first layer ↓, layers in the block →; plain {plain:.3f}</text>'
    )
    view = f'viewBox="0 0 {LEFT + side + 6} {TOP + side + 6}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {view}><style>{STYLE}</style>'
    return "\n".join([head, *parts, "</svg>", ""])


if __name__ == "__main__":
    main()
