"""A small Hugging Face Hub on loopback: enough of its HTTP API for the real client to download."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_" + "let_me_in"


@dataclass
class StandInHub:
    """Repositories by name; `gated` ones want TOKEN, `failing` ones answer 503."""

    repositories: dict[str, Path]
    gated: frozenset[str] = frozenset()
    failing: frozenset[str] = frozenset()
    requests: list[str] = field(default_factory=list)
    endpoint: str = ""

    @property
    def downloaded(self) -> set[str]:
        """Names of the files whose contents were asked for."""
        gets = [line for line in self.requests if line.startswith("GET") and "/resolve/" in line]
        return {line.split(f"/resolve/{COMMIT}/")[1] for line in gets}


@contextmanager
def serve_hub(hub: StandInHub) -> Iterator[StandInHub]:
    """Serve until the block ends."""
    with serving(_handler(hub)) as hub.endpoint:
        yield hub


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server on loopback until the block ends; gives its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(hub: StandInHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def _answer(self, with_body: bool) -> None:
            path = self.path.split("?")[0]
            hub.requests.append(f"{self.command} {path}")
            status, headers, body = _respond(hub, path, self.headers.get("Authorization"))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    return Handler


def _respond(hub: StandInHub, path: str, token: str | None) -> tuple[int, dict[str, str], bytes]:
    parts = path.strip("/").split("/")
    api = parts[:2] == ["api", "models"]
    repository, rest = "/".join(parts[2:4] if api else parts[:2]), parts[4:] if api else parts[2:]
    if repository in hub.failing:
        return 503, {}, b"busy"
    folder = hub.repositories.get(repository)
    if folder is None:
        return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b""
    if not api and repository in hub.gated and token != f"Bearer {TOKEN}":
        return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}, b""
    if len(rest) > 1 and rest[1] not in (COMMIT, "main"):
        return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "No revision"}, b""
    if not api:
        return _file(folder / "/".join(rest[2:]))
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    if rest[:1] == ["tree"]:
        tree = [{"type": "file", "path": n, "oid": "0" * 40, "size": (folder / n).stat().st_size}
                for n in names]  # fmt: skip
        return 200, {"Content-Type": "application/json"}, json.dumps(tree).encode()
    info = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}
    return 200, {"Content-Type": "application/json"}, json.dumps(info).encode()


def _file(path: Path) -> tuple[int, dict[str, str], bytes]:
    if not path.is_file():
        return 404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "No file"}, b""
    body = path.read_bytes()
    etag = hashlib.sha256(body).hexdigest()
    return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, body
