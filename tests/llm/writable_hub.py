"""A Hub on loopback with one repository that the real client reads, uploads to and commits to.

Uploads of large files go by the LFS protocol; what is not text is large here, as on the Hub.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.llm.hub_server import serving

REPOSITORY = "all-nodes/artifacts"
READER, WRITER = "hf_" + "reader", "hf_" + "writer"

_TIME = "%Y-%m-%dT%H:%M:%S.000Z"

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class WritableHub:
    """The repository's files now, with the time of the last commit of each."""

    files: dict[str, bytes] = field(default_factory=dict)
    changed: dict[str, datetime] = field(default_factory=dict)
    commits: list[str] = field(default_factory=lambda: ["initial commit"])
    uploaded: dict[str, bytes] = field(default_factory=dict)  # by SHA-256
    uploads: int = 0
    before_commit: Callable[[], None] = lambda: None
    gated: bool = False
    endpoint: str = ""

    @property
    def head(self) -> str:
        """The newest commit's name."""
        return hashlib.sha1(str(len(self.commits)).encode()).hexdigest()

    def write(self, name: str, content: bytes) -> None:
        """Change a file by a commit of its own."""
        self.files[name], self.changed[name] = content, datetime.now(UTC)
        self.commits.append(f"write {name}")


@contextmanager
def serve_writable_hub() -> Iterator[WritableHub]:
    """Serve until the block ends."""
    hub = WritableHub()
    with serving(_handler(hub)) as hub.endpoint:
        yield hub


def _handler(hub: WritableHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        do_HEAD = do_POST = do_PUT = do_GET

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", "0")))
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        def _answer(self) -> None:
            body = self._body()
            status, headers, answer = _respond(hub, self, body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

    return Handler


def _respond(hub: WritableHub, request: BaseHTTPRequestHandler, body: bytes) -> Answer:
    path = urlsplit(request.path).path.strip("/")
    if path.startswith("lfs/"):  # of another server, which the links alone open
        return _upload(hub, path.removeprefix("lfs/"), body)
    token = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
    if token not in ("", READER, WRITER):
        return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b""
    api, repository = f"api/models/{REPOSITORY}", REPOSITORY
    if not token or not path.startswith((api, repository)):  # nobody is told of private ones
        return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b""
    if path.startswith(f"{repository}/resolve/"):
        return _content(hub, path.split("/", 4)[4], request.headers.get("Range"))
    if path == f"{repository}.git/info/lfs/objects/batch":
        return _json(_batch(hub, json.loads(body)))
    what, _, rest = path.removeprefix(api).strip("/").partition("/")
    match what:
        case "" | "revision":
            if rest not in ("", "main"):
                return 404, {"X-Error-Code": "RevisionNotFound"}, b""
            return _json({"id": REPOSITORY, "sha": hub.head, "siblings": []})
        case "tree":
            return _tree(hub, unquote(rest.partition("/")[2]))
        case "paths-info":
            asked = parse_qs(body.decode())["paths"]
            return _json([_described(hub, name) for name in asked if name in hub.files])
    if token != WRITER:
        return 403, {"X-Error-Message": "you must use a write token"}, b""
    if what == "preupload":
        return _json({"files": [_upload_mode(file) for file in json.loads(body)["files"]]})
    assert what == "commit"
    return _commit(hub, [json.loads(line) for line in body.splitlines()])


def _json(said: Any) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(said).encode()


def _described(hub: WritableHub, name: str) -> dict[str, Any]:
    return {
        "type": "file",
        "path": name,
        "size": len(hub.files[name]),
        "oid": hashlib.sha1(hub.files[name]).hexdigest(),
        "lastCommit": {"id": "0" * 40, "title": "", "date": f"{hub.changed[name]:{_TIME}}"},
    }


def _tree(hub: WritableHub, folder: str) -> Answer:
    prefix = f"{folder}/" if folder else ""
    below = [name for name in sorted(hub.files) if name.startswith(prefix)]
    if folder and not below:
        return 404, {"X-Error-Code": "EntryNotFound"}, b""
    folders = {
        name[len(prefix) :].split("/")[0] for name in below if "/" in name.removeprefix(prefix)
    }
    said = [{"type": "directory", "path": prefix + each, "oid": "0" * 40} for each in folders]
    return _json(
        [*said, *(_described(hub, name) for name in below if "/" not in name[len(prefix) :])]
    )


def _content(hub: WritableHub, name: str, asked: str | None) -> Answer:
    content = hub.files.get(name)
    if content is None:
        return 404, {"X-Error-Code": "EntryNotFound"}, b""
    if hub.gated:
        return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}, b""
    headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": hub.head}
    if asked is None:
        return 200, headers, content
    first, last = asked.removeprefix("bytes=").split("-")
    return 206, headers, content[int(first) : int(last) + 1]


def _upload_mode(file: dict[str, Any]) -> dict[str, Any]:
    is_text = file["size"] < 10_000 and b"\0" not in base64.b64decode(file["sample"])
    mode = "regular" if is_text else "lfs"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}


def _batch(hub: WritableHub, asked: dict[str, Any]) -> dict[str, Any]:
    objects = []
    for each in asked["objects"]:
        link = {"upload": {"href": f"{hub.endpoint}/lfs/{each['oid']}"}}
        objects.append(each if each["oid"] in hub.uploaded else each | {"actions": link})
    return {"transfer": "basic", "objects": objects}


def _upload(hub: WritableHub, sha256: str, body: bytes) -> Answer:
    assert hashlib.sha256(body).hexdigest() == sha256
    hub.uploaded[sha256], hub.uploads = body, hub.uploads + 1
    return 200, {}, b""


def _commit(hub: WritableHub, lines: list[dict[str, Any]]) -> Answer:
    hub.before_commit()
    header = lines[0]["value"]
    if header.get("parentCommit", hub.head) != hub.head:
        return 412, {"X-Error-Message": "A commit has happened since. Please refresh."}, b""
    for line in lines[1:]:
        value = line["value"]
        if line["key"] == "deletedFile":
            del hub.files[value["path"]]
            continue
        is_large = line["key"] == "lfsFile"
        content = hub.uploaded[value["oid"]] if is_large else base64.b64decode(value["content"])
        hub.files[value["path"]], hub.changed[value["path"]] = content, datetime.now(UTC)
    hub.commits.append(header["summary"])
    url = f"{hub.endpoint}/{REPOSITORY}/commit/{hub.head}"
    return _json({"commitUrl": url, "commitOid": hub.head})
