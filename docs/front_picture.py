"""The picture of docs/fronts.md, from the database that examples/front.py writes.

Usage: python docs/front_picture.py sqlite:///front.db > docs/front.svg
"""

import sys
from html import escape

import optuna

import merge_optuna as mo

LEFT, TOP, WIDTH, HEIGHT = 60, 20, 560, 360
TOKENS, ACCURACY = (0.5, 5.0), (0.2, 0.9)  # from, to
KEY = {
    "all": "a trial",
    "out": "a trial that forgets too much Japanese",
    "sweep": "one weight for all layers, from fast to thinker",
    "sweep off": "the same, forgetting too much",
    "front": "the front that was found",
    "alone": "unmerged models",
}
STYLE = """
text{font:12px sans-serif}.tick{text-anchor:middle;fill:#666}
.all{fill:#bcd}.out{fill:none;stroke:#ddd}.front{fill:#159}.sweep{fill:#e70}
.off{fill:none;stroke:#e70}.alone{fill:#000}
path{fill:none;stroke:#159;stroke-width:1.5}.grid{stroke:#eee;stroke-width:1}
"""


def at(values):
    """Where accuracy and tokens are in the picture: more right is above, shorter to the left."""
    shares = [
        (value - low) / (high - low)
        for value, (low, high) in zip(values, (ACCURACY, TOKENS), strict=True)
    ]
    return round(LEFT + WIDTH * shares[1], 1), round(TOP + HEIGHT * (1 - shares[0]), 1)


def dot(kind, values, size=3):
    """A point of one kind."""
    x, y = at(values)
    return f'<circle class="{kind}" cx="{x}" cy="{y}" r="{size}"/>'


def axes():
    """Lines at round numbers, and what they are."""
    bottom = TOP + HEIGHT
    for tokens in range(1, 6):
        x, _ = at((0, tokens))
        yield f'<path class="grid" d="M{x} {TOP}V{bottom}"/>'
        yield f'<text class="tick" x="{x}" y="{bottom + 16}">{tokens}</text>'
    for percent in range(20, 91, 10):
        _, y = at((percent / 100, 0))
        yield f'<path class="grid" d="M{LEFT} {y}h{WIDTH}"/>'
        yield f'<text class="tick" x="{LEFT - 20}" y="{y + 4}">{percent} %</text>'
    middle = f'x="{LEFT + WIDTH / 2}" y="{bottom + 34}"'
    yield f'<text class="tick" {middle}>tokens of a reply; upwards: right answers on dev</text>'


def kinds(study):
    """The completed trials of a study that keep its constraints, and those that do not."""
    found = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    kept = [t.values for t in found if max(t.constraints.values()) <= 0]
    return kept, [t.values for t in found if t.values not in kept]


def main(url):
    """Prints the picture."""
    names = "front", "sweep"
    search, sweep = (optuna.load_study(study_name=n, storage=mo.storage(url)) for n in names)
    front, parts = mo.pareto(search), [*axes()]
    kept, lost = kinds(search)
    parts += [dot("out", values) for values in lost] + [dot("all", values) for values in kept]
    (right, highest), *_ = corners = [at(point.values) for point in front]
    steps = "".join(f"V{y}H{x}" for x, y in corners)  # below and to the right is dominated
    parts.append(f'<path d="M{right} {highest}{steps}"/>')
    parts += [dot("front", point.values) for point in front]
    kept, lost = kinds(sweep)
    parts += [dot("sweep off", values, 4) for values in lost]
    parts += [dot("sweep", values, 4) for values in kept]
    for name, label in (("base", "base"), ("source thinker", "thinker"), ("source fast", "fast")):
        values = front.baselines[name].values
        x, y = at(values)
        parts += [dot("alone", values, 4), f'<text x="{x + 8}" y="{y - 6}">{label}</text>']
    for n, (kind, meaning) in enumerate(KEY.items()):
        x, y = LEFT + n % 2 * 300, TOP + HEIGHT + 60 + n // 2 * 20
        parts.append(f'<circle class="{kind}" cx="{x}" cy="{y - 4}" r="4"/>')
        parts.append(f'<text x="{x + 10}" y="{y}">{escape(meaning)}</text>')
    size = f'width="{LEFT + WIDTH + 40}" height="{TOP + HEIGHT + 115}"'
    body = "\n".join([f"<style>{STYLE}</style>", f'<rect {size} fill="white"/>', *parts])
    print(f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{body}\n</svg>')


if __name__ == "__main__":
    main(*sys.argv[1:])
