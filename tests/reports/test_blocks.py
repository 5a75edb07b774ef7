"""The card ``5-blocks`` of a scan whose values are known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import optuna
import pytest
from optuna.distributions import IntDistribution

from merge_optuna.reports import figures
from tests.reports import stored

KEY = "5-blocks"
SPACE = {f"block/1/{name}": IntDistribution(0, 9) for name in ("times", "start", "length", "at")}


def scanned(sign: float = 1.0, **others: int) -> optuna.Study:
    """The best block has three layers from the second on; without any it is 0."""
    study = stored.study("maximize" if sign > 0 else "minimize")
    add(study, 0.0, {"times": 0})
    for start in range(6):
        for length in range(1, 7 - start):
            block = {"times": 1, "start": start, "length": length, "at": start + length}
            add(study, sign * (1.0 - abs(start - 2) - abs(length - 3)), {**block, **others})
    return study


def add(study: optuna.Study, value: float, gene: Mapping[str, int]) -> None:
    params = {f"block/1/{name}": number for name, number in gene.items()}
    stored.trial(study, value, params=params, space={name: SPACE[name] for name in params})


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_map_has_every_value_and_its_best(sign: float) -> None:
    figure = figures(scanned(sign))[KEY]
    (heat,), (mark,) = figure.data, figure.layout.shapes
    values = np.array(heat.z, dtype=float)
    for start in range(6):
        for length in range(1, 7):
            expected = sign * (1.0 - abs(start - 2) - abs(length - 3))
            found = values[list(heat.y).index(start), list(heat.x).index(length)]
            assert np.isnan(found) if start + length > 6 else found == expected
    assert (mark.y0, mark.y1, mark.x0, mark.x1) == (1.5, 2.5, 2.5, 3.5)
    assert heat.text[2][2] == f"{sign:+.2g}"  # without any it is 0
    share = heat.colorscale[1][0]  # of the scale, where the model as it is has its colour
    assert heat.zmin + share * (heat.zmax - heat.zmin) == pytest.approx(0, abs=1e-9)
    assert (heat.zmax if sign > 0 else -heat.zmin) == 1  # the largest gain is the bluest
    blue = heat.colorscale[2 if sign > 0 else 0][1]
    assert int(blue[5:], 16) > int(blue[1:3], 16)
    title = figure.layout.title.text.replace("<br>", " ")
    assert "Repeating layers 2 to 4 helps most" in title
    assert "the best of 21 blocks; 0 as it is" in title


def test_a_block_that_does_not_help_is_said_to_hurt() -> None:
    study = scanned()
    better = stored.study("maximize")
    add(better, 2.0, {"times": 0})
    better.add_trials(study.trials[1:])
    title = figures(better)[KEY].layout.title.text.replace("<br>", " ")
    assert "Repeating layers 2 to 4 hurts least" in title
    assert "2 as it is" in title


def test_other_searches_have_no_such_map() -> None:
    assert KEY not in figures(scanned(at=0))
    study = scanned()
    extra = {**SPACE, "other": IntDistribution(0, 9)}
    params = {"block/1/times": 0, "other": 1}
    stored.trial(study, 0.0, params=params, space={name: extra[name] for name in params})
    assert KEY not in figures(study)
