"""Small networks for the gallery: a base that reads digits badly, and experts for some of them."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn

PIXELS, LABELS = (torch.tensor(part) for part in load_digits(return_X_y=True))
PIXELS = PIXELS.float() / 16
torch.set_num_threads(1)  # the networks are tiny: more threads only get in each other's way
TRAIN, DEV, TEST = slice(0, 1000), slice(1000, 1400), slice(1400, None)


class Network(nn.Module):
    """Four hidden layers with a shortcut each, so that there are layers to merge one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(64, 48)
        self.layers = nn.ModuleList(nn.Linear(48, 48) for _ in range(4))
        self.head = nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        return self.head(x)


def train(model: Network, digits: range, steps: int, lr: float = 2e-3) -> Network:
    """Trains on the digits given, 64 at a time."""
    rows = torch.isin(LABELS[TRAIN], torch.tensor(digits)).nonzero()[:, 0]
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (64,))]
        loss = nn.functional.cross_entropy(model(PIXELS[TRAIN][batch]), LABELS[TRAIN][batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def family(**experts: tuple[range, int]) -> dict[str, Network]:
    """A base and, by name, experts for some digits that were trained for some steps more."""
    torch.manual_seed(0)
    base = train(Network(), range(10), 25)
    made = {"base": base}
    for name, (digits, steps) in experts.items():
        made[name] = train(Network(), digits, 0)
        made[name].load_state_dict(base.state_dict())
        train(made[name], digits, steps)
    return made


def right(model: nn.Module, part: slice = DEV) -> list[bool]:
    """Which digits of a part of the data a model reads."""
    with torch.inference_mode():
        return (model(PIXELS[part]).argmax(1) == LABELS[part]).tolist()


class Shown:
    """A figure of plotly as a page of this site shows it; in a notebook it shows itself."""

    def __init__(self, figure: Any) -> None:
        self.figure = figure

    def _repr_html_(self) -> str:
        return self.figure.to_html(
            full_html=False, include_plotlyjs="../_static/plotly.min.js", default_width="100%"
        )
