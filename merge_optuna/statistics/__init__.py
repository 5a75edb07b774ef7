"""What merge methods need to know of models besides their weights, computed from data.

Each function returns a checkpoint whose tensors have the names of the model's, for
``mo.recipes.<method>(models, statistics=[...])``. They are computed once: a folder keeps them
beside the digests of model and data, and they are computed again only when one of these changes.
"""

from __future__ import annotations

from merge_optuna.statistics._fisher import fisher
from merge_optuna.statistics._gram import gram

__all__ = ["fisher", "gram"]
