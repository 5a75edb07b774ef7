"""optuna-dashboard on a storage, for this machine alone."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, BinaryIO
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.artifacts import FileSystemArtifactStore

from merge_optuna import _dashboard_compat as compat
from merge_optuna.errors import DashboardError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

HOST = "127.0.0.1"


def serve(
    storage: BaseStorage,
    *,
    port: int = 8080,
    artifacts: Path | None = None,
    ready: Callable[[str], None] = print,
) -> None:
    """Shows a storage in the browser until ctrl-C; only this machine can see it.

    Args:
        storage: Of :func:`mo.storage`.
        port: Of this machine; 0 for any that is free.
        artifacts: Folder of the artifacts; none are shown if omitted.
        ready: Called with the address once it is served.

    Raises:
        DashboardError: If the port is in use or not allowed.
    """
    application = compat.application(storage, None if artifacts is None else _Artifacts(artifacts))
    with _listening(port, application) as server:
        ready(f"http://{HOST}:{server.server_port}")
        server.serve_forever()


class _Server(ThreadingMixIn, WSGIServer):
    """A browser asks for several things at once, and may keep a connection open."""

    daemon_threads = True
    allow_reuse_port = False  # of two dashboards on one port each would get half of the requests


class _Quiet(WSGIRequestHandler):
    """Without a line per request."""

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


class _Artifacts(FileSystemArtifactStore):
    """A folder in which files may be missing: somebody has tidied up."""

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The file, or a page that says where it was looked for."""
        from bottle import HTTPError
        from optuna.artifacts.exceptions import ArtifactNotFound

        try:
            return super().open_reader(artifact_id)
        except ArtifactNotFound as error:
            raise HTTPError(
                404,
                f"This artifact is no longer in {self._base_path}. The recipe of a trial is in "
                "the database: merge-optuna show STORAGE --trial N.",
            ) from error

    def remove(self, artifact_id: str) -> None:
        """Removes it, or what is left of it: the record in the study."""
        from optuna.artifacts.exceptions import ArtifactNotFound

        try:
            super().remove(artifact_id)
        except ArtifactNotFound:
            return


def _listening(port: int, application: Any) -> WSGIServer:
    try:
        return make_server(HOST, port, application, _Server, _Quiet)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise DashboardError(
                f"Port {port} of {HOST} is in use, maybe by another dashboard. End that one, or "
                f"choose another: --port {_another(port)}."
            ) from error
        raise DashboardError(
            f"Cannot listen on port {port} of {HOST}: {error.strerror}. Choose another, above "
            "1023: --port 8080."
        ) from error


def _another(port: int) -> int:
    return port + 1 if port < 65535 else 8080
