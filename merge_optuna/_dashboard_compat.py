"""Every private name of optuna-dashboard, and of artifacts, that this package uses (0.21)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optuna.artifacts._upload import ARTIFACTS_ATTR_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna.artifacts import FileSystemArtifactStore
    from optuna.storages import BaseStorage


def application(storage: BaseStorage, artifacts: FileSystemArtifactStore | None) -> Any:
    """The dashboard as a WSGI application, its cards in the order of their names.

    It takes them out of a set, so that they would stand in another order in each process. Those
    that are empty were removed where a storage cannot delete.
    """
    import optuna_dashboard
    from optuna_dashboard import _app, _custom_plot_data

    _app.get_plotly_graph_objects = _in_order(_custom_plot_data.get_plotly_graph_objects)
    return optuna_dashboard.wsgi(storage, artifact_store=artifacts)


def _in_order(cards: Callable[[Any], dict[str, str]]) -> Callable[[Any], dict[str, str]]:
    return lambda attrs: {key: card for key, card in sorted(cards(attrs).items()) if card}


def pages(storage: BaseStorage) -> dict[str, str]:
    """The path of the page of each study, by its name, in the order of the names."""
    found = sorted(storage.get_all_studies(), key=lambda study: study.study_name)
    return {study.study_name: f"/dashboard/studies/{study._study_id}" for study in found}


def has_artifacts(storage: BaseStorage) -> bool:
    """Whether a study or one of its trials says that it has artifacts."""
    for study in storage.get_all_studies():
        trials = storage.get_all_trials(study._study_id, deepcopy=False)
        records = [study.system_attrs, *(trial.system_attrs for trial in trials)]
        if any(key.startswith(ARTIFACTS_ATTR_PREFIX) for attrs in records for key in attrs):
            return True
    return False
