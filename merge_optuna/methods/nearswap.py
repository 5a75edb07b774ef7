"""NearSwap: take from another model what lies near the base."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from merge_optuna.methods._spec import Method, Parameter


def nearswap(base: Tensor, models: Sequence[Tensor], *, t: float) -> Tensor:
    """NearSwap: each element of the base moves towards the expert's by at most ``t``.

    Elements nearer than that become the expert's. That is published as interpolation with the
    weight min(1, t / |θ − θ₀|).
    """
    return base + (models[0] - base).clamp(-t, t)


METHOD = Method(
    name="nearswap",
    kernel=nearswap,
    parameters=(
        Parameter(
            "t",
            1e-4,
            "how far an element may move",
            low=0.0,
            search=(0, 0.01),
            details="The unit is that of the weights.",
        ),
    ),
    models=(1, 1),
    elementwise=True,
    source="alchemonaut 2024, huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
)
