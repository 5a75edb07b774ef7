"""Values for every method, made from its spec, so that a new method needs none of its own."""

from __future__ import annotations

from typing import Any

from merge_optuna import methods
from merge_optuna.methods import Keys

# Where it is not the default that makes a parameter matter.
_OTHER = {
    "weight": [0.5, 0.25, 0.5],
    "density": [0.3, 1.0, 0.6],
    "gamma": [0.1, 0.2, 0.05],
    "epsilon": [0.1, 0.2, 0.4],
    "tall": [0.2, 0.5, 0.4],
    "select_topk": 0.6,
    "lambda_": 0.7,
    "t": 0.3,
    "scale": 0.5,
}
_OF = {"dare_ties": {"rescale": "l1", "elect": "count"}}


def most_models(method: str) -> int:
    """Three models, or as many as the method merges: one where layers are stacked."""
    return 1 if method == "passthrough" else int(min(3, methods.get(method).models[1]))


def example(method: str, n: int, **changes: Any) -> dict[str, Any]:
    """Arguments of a kernel that merges ``n`` models."""
    spec = methods.get(method)
    values: dict[str, Any] = {}
    for parameter in spec.parameters:
        value = _OTHER.get(parameter.name, parameter.default)
        if parameter.per_model:
            value = (value if isinstance(value, list) else [value] * 3)[:n]
        elif isinstance(value, list):
            value = parameter.default
        values[parameter.name] = value
    keys = {"keys": [11, 12, 13][:n]} if any(isinstance(need, Keys) for need in spec.needs) else {}
    return values | keys | _OF.get(method, {}) | changes
