"""A recipe as people look at it: a table of layers and models per parameter, and one line."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Panel(NamedTuple):
    """The numbers of one parameter, or of anything else that layers and models have.

    Attributes:
        parameter: What they are, e.g. ``"weight"``; of a nested recipe with its name before it.
        rows: Labels of the layers, first to last; one where a parameter is the same in all.
        columns: Names of the models; one where a parameter is the same for all.
        values: Shape (rows, columns); NaN where there is none.
    """

    parameter: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: NDArray[np.float64]
