"""``kill -9`` while a search is shown: nothing of the search changes."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects

import merge_optuna as mo
from tests import processes
from tests.reports import killed

optuna.logging.set_verbosity(optuna.logging.ERROR)

POINTS = [
    ("before _write", 2),  # an artifact is there of which nothing says so
    ("before set_attrs", 2),
    ("after set_attrs", 2),
    ("before replace_study_system_attrs", 3),
    ("after replace_study_system_attrs", 3),
    ("before replace_study_system_attrs", 1),
]


def start(folder: Path, scheme: str, point: str, call: int, reports: bool) -> processes.Running:
    folder.mkdir(exist_ok=True)
    url = f"{scheme}:///{folder}/s"
    return processes.call(killed.run, url, point, call, reports, cwd=folder)


@pytest.mark.parametrize("scheme", ["sqlite", "journal"])
def test_a_search_that_is_killed_while_it_is_shown_goes_on_as_if_nothing_were(
    scheme: str, tmp_path: Path
) -> None:
    unseen = start(tmp_path / "unseen", scheme, "", 0, False)
    points = POINTS[scheme == "journal" :: 2]
    folders = [tmp_path / str(n) for n in range(len(points))]
    dead = [start(f, scheme, *point, True) for f, point in zip(folders, points, strict=True)]
    assert [running.wait().code for running in dead] == [-9] * len(points)
    again = [start(folder, scheme, "", 0, True) for folder in folders]
    for running in (unseen, *again):
        result = running.wait()
        assert result.code == 0, result.err
    wanted = killed.trials(tmp_path / "unseen", scheme)
    assert len(wanted) == killed.TRIALS
    for folder in folders:
        assert killed.trials(folder, scheme) == wanted, "bit for bit"
        storage = mo.storage(f"{scheme}:///{folder}/s")
        study = optuna.load_study(study_name=killed.NAME, storage=storage)
        attrs = study._storage.get_study_system_attrs(study._study_id)
        shown = get_plotly_graph_objects(attrs)
        made = mo.reports.figures(study)
        assert shown == {key: figure.to_json() for key, figure in made.items()}
