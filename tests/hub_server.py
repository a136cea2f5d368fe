"""A small hub on localhost: enough of the protocol for the real client to fetch models from it.

    GET  /api/models/ORG/NAME[/revision/REV]      the commit and the files, with their sizes
    GET  /api/models/ORG/NAME/tree/REV            the files
    HEAD, GET  /ORG/NAME/resolve/REV/FILE         etag, commit, length; ranges

Written from what the client asks for and from the hub's public description of its API.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_right"


@dataclass
class Repo:
    """One model: its files at one commit, which all of `revisions` mean.

    Attributes:
        claims: sizes that are told instead of the true ones.
        cut_after: bytes of the first larger file, then its connection is cut; once.
        reset: cut it with an error rather than an end.
    """

    files: dict[str, bytes]
    revisions: tuple[str, ...] = ("main",)
    gated: bool = False
    claims: dict[str, int] = field(default_factory=dict)
    cut_after: int | None = None
    reset: bool = False

    @property
    def commit(self) -> str:
        return hashlib.sha1(b"".join(map(hash_of, self.files.values()))).hexdigest()


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    range: str | None


@dataclass
class Hub:
    """The repositories by name, and every request so far."""

    repos: dict[str, Repo] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    down: bool = False  # answers 503 to everything
    url: str = ""

    def add(self, name: str, files: Mapping[str, bytes], **traits: object) -> Repo:
        self.repos[name] = Repo(dict(files), **traits)  # type: ignore[arg-type]
        return self.repos[name]

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for, in order."""
        gets = [a.path for a in self.asked if a.method == "GET" and "/resolve/" in a.path]
        return [path.split("/resolve/")[1].partition("/")[2] for path in gets]


def hash_of(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """A hub that listens on a free port until the block is left."""
    hub = Hub()

    class Handler(_Handler):
        state = hub

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield hub
        server.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Tests look at `Hub.asked` instead."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.state.asked.append(Asked(self.command, path, self.headers.get("Range")))
        if self.state.down:
            return self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "")
        is_api = path.startswith("/api/models/")
        org, name, *rest = path.removeprefix("/api/models").strip("/").split("/")
        repo = self.state.repos.get(f"{org}/{name}")
        authorization = self.headers.get("Authorization")
        if authorization not in (None, f"Bearer {TOKEN}"):
            self._refuse(HTTPStatus.UNAUTHORIZED, "", "Invalid credentials in Authorization header")
        elif repo is None:
            self._refuse(HTTPStatus.NOT_FOUND, "RepoNotFound")
        elif len(rest) > 1 and rest[1] not in (*repo.revisions, repo.commit):
            self._refuse(HTTPStatus.NOT_FOUND, "RevisionNotFound")
        elif is_api:
            self._send_json(_tree(repo) if rest[:1] == ["tree"] else _info(f"{org}/{name}", repo))
        elif repo.gated and authorization is None:
            self._refuse(HTTPStatus.UNAUTHORIZED, "GatedRepo")
        elif (file := "/".join(rest[2:])) not in repo.files:
            self._refuse(HTTPStatus.NOT_FOUND, "EntryNotFound")
        else:
            self._send_file(repo, repo.files[file])

    def _send_file(self, repo: Repo, content: bytes) -> None:
        start = 0
        if asked := self.headers.get("Range"):
            start = int(asked.removeprefix("bytes=").partition("-")[0])
        self.send_response(HTTPStatus.PARTIAL_CONTENT if start else HTTPStatus.OK)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", f'"{hash_of(content).hex()}"')
        self.send_header("X-Repo-Commit", repo.commit)
        self.send_header("Accept-Ranges", "bytes")
        is_cut = repo.cut_after and self.command == "GET" and len(content) > repo.cut_after
        self._send_body(content[start : repo.cut_after if is_cut else None], len(content) - start)
        if is_cut:
            repo.cut_after = None
            self._cut(repo.reset)

    def _cut(self, reset: bool) -> None:
        self.close_connection = True
        if reset:
            self.wfile.flush()
            now = struct.pack("ii", 1, 0)  # linger for 0 seconds
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
            self.connection.close()

    def _send_json(self, value: object) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self._send_body(json.dumps(value).encode())

    def _refuse(self, status: HTTPStatus, code: str, message: str = "") -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self._send_body(b"{}")

    def _send_body(self, body: bytes, length: int | None = None) -> None:
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _info(name: str, repo: Repo) -> dict[str, object]:
    files = [
        {"rfilename": path, "size": repo.claims.get(path, len(content))}
        for path, content in repo.files.items()
    ]
    return {"id": name, "sha": repo.commit, "siblings": files}


def _tree(repo: Repo) -> list[dict[str, object]]:
    return [
        {"type": "file", "path": path, "size": len(content), "oid": hash_of(content).hex()[:40]}
        for path, content in repo.files.items()
    ]
