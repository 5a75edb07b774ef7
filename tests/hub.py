"""A model hub for tests: its cache on disk, and a server that the real client talks to."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

Files = dict[str, bytes]


def files_of(folder: Path) -> Files:
    """The content of a folder by relative path."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def commit_of(files: Files) -> str:
    """A commit hash."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


def put_into_cache(cache: Path, repo: str, files: Files, revision: str = "main") -> str:
    """Lays files out as huggingface_hub caches a downloaded model; returns the commit hash."""
    root, commit = cache / f"models--{repo.replace('/', '--')}", commit_of(files)
    for name, content in files.items():
        blob = root / "blobs" / hashlib.sha256(content).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link = root / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / revision).write_text(commit)
    return commit


@dataclass
class Hub:
    """What the server holds.

    Attributes:
        repos: Files by repository and revision; every commit is a revision, too.
        gated: Repositories whose terms nobody has accepted.
        token: The one token that is accepted, of the user ``me`` in the organisation ``lab``.
        requests: What was asked, as ``METHOD path``.
    """

    repos: dict[str, dict[str, Files]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str = "hf_secret"
    requests: list[str] = field(default_factory=list)

    def add(self, repo: str, files: Files, revision: str = "main") -> str:
        commit = commit_of(files)
        self.repos.setdefault(repo, {}).update({revision: files, commit: files})
        return commit

    @contextlib.contextmanager
    def serve(self) -> Iterator[str]:
        """The address under which the hub answers."""

        class Handler(_Handler):
            hub = self

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """The endpoints that snapshot_download, whoami, create_repo and upload_folder use."""

    hub: Hub
    protocol_version = "HTTP/1.0"  # no connection outlives the server

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self._noted()
        if path == "/api/whoami-v2":
            if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
                return self._error(401, "InvalidToken")
            return self._json({"name": "me", "type": "user", "orgs": [{"name": "lab"}]})
        if path.startswith("/api/models/"):
            for kind in ("/tree/", "/revision/"):
                repo, found, revision = path.removeprefix("/api/models/").partition(kind)
                if found:
                    return self._describe(repo, revision, tree=kind == "/tree/")
        repo, _, rest = path[1:].partition("/resolve/")
        revision, _, name = rest.partition("/")
        files = self._files(repo, revision)
        if files is not None and name in files:
            return self._send(200, files[name], "application/octet-stream", commit_of(files))
        return files and self._error(404, "EntryNotFound")

    def do_POST(self) -> None:
        path = self._noted()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._error(401, "InvalidToken")
        if path == "/api/validate-yaml":  # of a model card
            return self._json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.hub.add(repo, {".private": str(asked.get("visibility")).encode()})
            return self._json({"url": self._url(repo), "name": repo, "id": "1"})
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            return self._json({"files": modes})
        repo, _, revision = path.removeprefix("/api/models/").rpartition("/commit/")
        lines = [json.loads(line) for line in body.splitlines()]
        added = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        commit = self.hub.add(repo, {**self.hub.repos[repo][revision], **added}, revision)
        return self._json({"commitUrl": f"{self._url(repo)}/commit/{commit}", "commitOid": commit})

    def _noted(self) -> str:
        path = unquote(urlparse(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        return path

    def _url(self, repo: str) -> str:
        return f"http://{self.headers['Host']}/{repo}"

    def _files(self, repo: str, revision: str) -> Files | None:
        """The files of a revision; None once an error has been sent."""
        if repo in self.hub.gated:
            return self._error(403, "GatedRepo")
        if repo not in self.hub.repos:
            return self._error(404, "RepoNotFound")
        if revision not in self.hub.repos[repo]:
            return self._error(404, "RevisionNotFound")
        return self.hub.repos[repo][revision]

    def _describe(self, repo: str, revision: str, *, tree: bool) -> None:
        files = self._files(repo, revision)
        if files is None:
            return None
        if not tree:
            return self._json({"id": repo, "sha": commit_of(files), "siblings": []})
        return self._json(
            [
                {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                for n, c in files.items()
            ]
        )

    def _json(self, data: object) -> None:
        self._send(200, json.dumps(data).encode(), "application/json")

    def _error(self, status: int, code: str) -> None:
        self._send(status, b"{}", "application/json", code=code)

    def _send(
        self, status: int, body: bytes, kind: str, commit: str = "", *, code: str = ""
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if commit:
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", commit)
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
