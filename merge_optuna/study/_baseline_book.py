"""Where baselines are kept while they are scored, and who scores which."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Protocol

import optuna

from merge_optuna import _optuna_compat as compat
from merge_optuna._records import check_type, decoding
from merge_optuna._schema import BASELINE_OWNER
from merge_optuna.samplers.plumbing import is_alive, this_process
from merge_optuna.study._baselines import Baseline, Baselines, drop, store, stored_baselines
from merge_optuna.study._objective import MergeObjective


class Book(Protocol):
    """Where baselines are kept, and who scores which."""

    @property
    def study(self) -> optuna.Study:
        """What keeps the scores that constraints refer to."""

    def baselines(self) -> Baselines:
        """Those that are kept."""

    def put(self, row: Baseline) -> None:
        """Keeps one."""

    def drop_others(self, of: str) -> None:
        """Forgets those of other models or data than ``of`` is the digest of."""

    def taken(self, name: str, *, doubtful: bool) -> contextlib.AbstractContextManager[int | None]:
        """A block in which this process scores one.

        It is given how many processes have died of that, or None if another is at it.

        Args:
            name: Of the baseline.
            doubtful: Whether also one that a process has begun of which nobody here can tell
                whether it is alive, on another machine.
        """


class InMemory:
    """Those of this process."""

    def __init__(self, objective: MergeObjective) -> None:
        self._objective = objective
        self._rows: dict[str, Baseline] = {}

    @cached_property
    def study(self) -> optuna.Study:
        return optuna.create_study(directions=self._objective.directions)

    def baselines(self) -> Baselines:
        one = self._objective
        return Baselines([*self._rows.values()], one.directions, one.metric_names)

    def put(self, row: Baseline) -> None:
        self._rows[row.name] = row

    def drop_others(self, of: str) -> None:
        pass  # it was empty

    @contextlib.contextmanager
    def taken(self, name: str, *, doubtful: bool) -> Iterator[int | None]:
        yield 0


class InStudy:
    """Those of a study, one attribute each.

    Storages cannot say who comes first: two processes may begin with the same one, and both then
    keep the same result.
    """

    def __init__(self, study: optuna.Study, *, again: bool = False) -> None:
        """Opens it.

        Args:
            study: Where they are kept.
            again: Whether those that have failed are tried once more.
        """
        self.study = study
        self._again = {row.name for row in stored_baselines(study) if again and row.values is None}

    def baselines(self) -> Baselines:
        found = stored_baselines(self.study)
        rows = [row for row in found if row.name not in self._again]
        return Baselines(rows, found.directions, found.metrics)

    def put(self, row: Baseline) -> None:
        store(self.study, row)
        self._again.discard(row.name)

    def drop_others(self, of: str) -> None:
        for row in stored_baselines(self.study):
            if row.of != of:
                drop(self.study, row.name)

    @contextlib.contextmanager
    def taken(self, name: str, *, doubtful: bool) -> Iterator[int | None]:
        key = BASELINE_OWNER + name
        owner = compat.study_system_attrs(self.study).get(key)
        with decoding(f"owner of the baseline {name!r}"):
            deaths, other = _standing(owner)
        if other or (other is None and not doubtful):
            yield None
            return
        deaths = 0 if name in self._again else deaths
        self._sign(key, this_process(), deaths)
        try:
            yield deaths
        finally:
            self._sign(key, None, deaths)

    def _sign(self, key: str, process: dict[str, Any] | None, deaths: int) -> None:
        value = {"process": process, "deaths": deaths}
        compat.set_study_system_attr(self.study, key, value)


def _standing(owner: Any) -> tuple[int, bool | None]:
    """How many processes have died of a baseline, and whether another is at it, if it is known."""
    if owner is None:
        return 0, False
    check_type("the number of deaths", owner["deaths"], int)
    process = owner["process"]
    if process is None or process == this_process():
        return owner["deaths"], False
    alive = is_alive(process)
    return owner["deaths"] + (alive is False), alive
