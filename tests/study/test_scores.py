"""Per-example scores, packed into a trial."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import merge_optuna as mo
from merge_optuna.errors import StudyError

optuna.logging.set_verbosity(optuna.logging.ERROR)

_real = npst.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32))
_binary = npst.arrays(np.bool_, st.integers(0, 40)).map(lambda bits: bits.astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(_real | _binary)
def test_every_array_comes_back(array: np.ndarray) -> None:
    study = optuna.create_study()
    trial = study.ask()
    mo.set_scores(trial, array)
    for asked in (0, study.trials[0]):
        back = mo.scores(study, asked)
        assert back.dtype == np.float32
        np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(
    ("array", "limit"),
    [
        (np.random.default_rng(0).integers(0, 2, 8000), 1500),  # one bit each, and base64
        (np.random.default_rng(0).random(1000), 6000),
    ],
)
@pytest.mark.filterwarnings("ignore:Heartbeat")  # asked without optimize
def test_from_the_database_of_another_process(
    tmp_path: Path, array: np.ndarray, limit: int
) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    study = optuna.create_study(storage=mo.storage(url), study_name="s")
    mo.set_scores(study.ask(), array)
    again = optuna.load_study(study_name="s", storage=mo.storage(url))
    np.testing.assert_array_equal(mo.scores(again, 0), array.astype(np.float32))
    packed = again.trials[0].system_attrs["merge_optuna:scores"]
    assert len(str(packed)) < limit


def test_refused() -> None:
    study = optuna.create_study(study_name="s")
    trial = study.ask()
    with pytest.raises(StudyError, match=r"shape \(n,\), not \(2, 2\)"):
        mo.set_scores(trial, np.zeros((2, 2)))
    with pytest.raises(StudyError, match="Trial 0 of 's' has no per-example scores"):
        mo.scores(study, 0)
    with pytest.raises(StudyError, match="no trial 7"):
        mo.scores(study, 7)
