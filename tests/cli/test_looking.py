"""``merge-optuna dashboard`` and ``report``, as a user calls them."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna_dashboard import save_plotly_graph_object

import merge_optuna as mo
from merge_optuna.reports import artifacts_beside, serve
from tests.cli.conftest import Cli
from tests.cli.test_commands import words
from tests.study import test_postgres
from tests.trained import Task, read_rows, right

optuna.logging.set_verbosity(optuna.logging.ERROR)

Make = Callable[[str], optuna.Study]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A study of plain Optuna in a new storage."""

    def made(url: str) -> optuna.Study:
        study = optuna.create_study(study_name="plain", storage=mo.storage(url))
        study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=3)
        return study

    return made


@pytest.fixture
def busy() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("url", "file"), [("sqlite:///s.db", "s.db"), ("journal:///s.log", "s.log")]
)
def test_report_of_a_url_and_of_a_file(url: str, file: str, cli: Cli, make: Make) -> None:
    make(url)
    for place in (url, file):
        code, out, err = cli("report", place, "report.html")
        assert (code, out) == (0, "Written to report.html\n"), err
        assert "merges no models" in Path("report.html").read_text()


def test_what_run_scores_on_test_data_is_on_the_page(task: Task, cli: Cli) -> None:
    """The best trial and, so that its number says something, the best baseline."""
    file = task.file(Path("search.py"), n_trials=3, baselines=["base", "source"])
    code, out, err = cli("run", file, "--json")
    assert code == 0, err
    study = optuna.load_study(study_name="toy", storage="sqlite:///toy.db")
    best = max(mo.baselines(study), key=lambda row: row.values or ())
    data, result = read_rows(task.test), json.loads(out)
    for value, recipe in (
        (result["test"], mo.recipe_of(study)),
        (result["test_baseline"]["value"], mo.recipe_of(study, baseline=best.name)),
    ):
        assert value == right(mo.Engine().load(recipe), data).mean()
    assert result["test_baseline"]["name"] == best.name
    assert cli("report", "toy.db", "report.html")[0] == 0
    page = Path("report.html").read_text()
    assert f"On held-out data its accuracy is {result['test']:.3f} [" in page
    assert f"against the best baseline, {best.name}" in page


def test_report_says_what_is_wrong(cli: Cli, make: Make) -> None:
    make("sqlite:///s.db")
    Path("notes.txt").write_text("no storage")
    for argv, told in [
        (["s.db"], "last argument is the page to write"),
        (["s.db", "other.db"], "last argument is the page to write, e.g. report.html, not 'other"),
        (["s.db", "r.html", "--study", "other"], "There is no study other in s.db"),
        (["none.db", "r.html"], "is not a storage URL"),
        (["sqlite:///none.db", "r.html"], "there is no file"),
        (["notes.txt", "r.html"], "neither an SQLite database nor a journal"),
        (["s.db", "none/r.html"], "there is no folder none"),
    ]:
        code, _, err = cli("report", *argv)
        assert code != 0
        assert told in words(err).replace("│ ", "")
    assert Path("s.db").read_bytes().startswith(b"SQLite format 3"), "nothing is overwritten"


def test_an_empty_storage(cli: Cli) -> None:
    mo.storage("sqlite:///s.db")
    code, _, err = cli("report", "s.db", "report.html")
    assert (code, "There is no study in s.db" in err) == (1, True)


def test_dashboard_says_what_is_wrong(cli: Cli, make: Make, busy: int) -> None:
    make("sqlite:///s.db")
    for argv, told in [
        (["s.db", "--port", busy], f"Port {busy} of 127.0.0.1 is in use"),
        (["s.db", "--artifacts", "none"], "there is no folder"),
        (["none.db"], "'none.db' is not a storage URL, and there is no file /"),
    ]:
        code, out, err = cli("dashboard", *argv)
        assert (code != 0, out) == (True, "")
        assert told in words(err).replace("│ ", "")


# -- a dashboard that runs ------------------------------------------------------------------------


@pytest.fixture
def served() -> Callable[..., str]:
    """Serves a storage in a thread that ends with this process; returns the address."""

    def start(storage: optuna.storages.BaseStorage, folder: Path | None = None) -> str:
        told: queue.Queue[str] = queue.Queue()
        options = {"port": 0, "artifacts": folder, "ready": told.put}
        threading.Thread(target=serve, args=(storage,), kwargs=options, daemon=True).start()
        return told.get(timeout=120)

    return start


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=120) as answer:
        return bytes(answer.read())


def test_cards_in_their_order(make: Make, served: Callable[..., str], tmp_path: Path) -> None:
    import plotly.graph_objects as go

    study = make(f"sqlite:///{tmp_path}/s.db")
    names = ["4-examples", "1-winner", "5-lineage", "3-importance", "2-progress"]
    for name in names:
        save_plotly_graph_object(study, go.Figure(), graph_object_id=name)
    address = served(mo.storage(f"sqlite:///{tmp_path}/s.db"))
    shown = json.loads(get(f"{address}/api/studies/1?after=0"))
    assert [card["id"] for card in shown["plotly_graph_objects"]] == sorted(names)
    assert len(shown["trials"]) == 3


def test_artifacts_and_those_that_are_gone(
    make: Make, served: Callable[..., str], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    study, folder = make(url), artifacts_beside(url)
    assert folder == tmp_path / "s.db.artifacts"
    folder.mkdir()
    (tmp_path / "recipe.yaml").write_text("method: linear\n")
    stored = upload_artifact(
        artifact_store=FileSystemArtifactStore(folder),
        file_path=str(tmp_path / "recipe.yaml"),
        study_or_trial=study,
    )
    address = served(mo.storage(url), folder)
    assert get(f"{address}/artifacts/1/{stored}") == b"method: linear\n"
    (folder / stored).unlink()
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(f"{address}/artifacts/1/{stored}")
    assert caught.value.code == 404
    assert "no longer in" in caught.value.read().decode()


def test_what_the_command_prints(
    cli: Cli, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its address, and that the folder of the artifacts is gone; ctrl-C ends it."""

    def interrupted(storage: object, *, ready: Callable[[str], None], **_: object) -> None:
        ready("http://127.0.0.1:1")
        raise KeyboardInterrupt

    monkeypatch.setattr("merge_optuna.reports.serve", interrupted)
    study = make("sqlite:///s.db")
    code, out, _ = cli("dashboard", "s.db")
    assert code == 0
    assert out == "plain: http://127.0.0.1:1/dashboard/studies/1\nCtrl-C ends it.\n"
    (tmp_path / "a.txt").write_text("a")
    store = FileSystemArtifactStore(tmp_path)
    upload_artifact(artifact_store=store, file_path=str(tmp_path / "a.txt"), study_or_trial=study)
    _, out, _ = cli("dashboard", "s.db")
    assert f"{tmp_path}/s.db.artifacts is not there. Name its new place with --artifacts" in out
    _, out, _ = cli("dashboard", "s.db", "--artifacts", ".")
    assert "cannot be opened" not in out


# -- a database server ----------------------------------------------------------------------------


@pytest.mark.skipif(
    test_postgres.PROGRAMS is None or find_spec("psycopg") is None,
    reason="needs PostgreSQL's programs and psycopg",
)
def test_a_database_server(cli: Cli, make: Make, served: Callable[..., str]) -> None:
    """Show, report and dashboard on one server; no password is shown anywhere."""
    with contextlib.contextmanager(test_postgres.server.__wrapped__)() as server:
        url = server.url()
        code, _, err = cli("report", url, "report.html")
        assert (code, "There is no study in postgresql://me:***@" in err) == (1, True)
        study = make(url)
        code, out, _ = cli("show", url)
        assert (code, f"{study.best_value:.4g}" in out) == (0, True)
        assert cli("report", url, "report.html")[0] == 0
        page = Path("report.html").read_text()
        assert f"dashboard postgresql://me@127.0.0.1:{server.port}/postgres" in page
        assert test_postgres.SECRET not in page
        code, _, err = cli("report", url, "report.html", "--study", "other")
        assert (code, "There is no study other in postgresql://me:***@" in err) == (1, True)
        address = served(mo.storage(url))
        assert len(json.loads(get(f"{address}/api/studies/1?after=0"))["trials"]) == 3
        code, _, err = cli("dashboard", server.url(password="wrong-word"))
        assert (code, "password authentication failed" in err) == (1, True)
        assert "wrong-word" not in err
