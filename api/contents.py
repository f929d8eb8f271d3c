"""Streaming a file's bytes: whole, or the one range that was asked for (RFC 9110, section 14)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import chain
from urllib.parse import quote

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from api.problems import Problem
from models.store.files import StoredFile

Reader = Callable[[int, int], Iterator[bytes]]

MEDIA_TYPE = "application/jsonl"
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def content_response(request: Request, file: StoredFile, read: Reader) -> Response:
    """The answer to a GET of the file's content; `read(start, stop)` gives its bytes.

    Raises Problem 416 for a range that lies behind the file's end, and what `read` raises.
    """
    tag = f'"{file.sha256}"'
    headers = {
        "etag": tag,
        "accept-ranges": "bytes",
        "content-disposition": f"attachment; filename*=utf-8''{quote(file.name, safe='')}",
    }
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    size = file.n_bytes
    wanted = _wanted(request, size, tag)
    if wanted is None:
        return _stream(read, 0, size, 200, headers)
    start, stop = wanted
    if start >= stop:
        message = f"range: the file has {size} bytes and none of those"
        beside = {"content-range": f"bytes */{size}", "etag": tag}
        raise Problem(416, message, "range_not_satisfiable", "range", beside)
    headers["content-range"] = f"bytes {start}-{stop - 1}/{size}"
    return _stream(read, start, stop, 206, headers)


def _stream(
    read: Reader, start: int, stop: int, status: int, headers: dict[str, str]
) -> StreamingResponse:
    sized = {**headers, "content-length": str(stop - start)}
    pieces = read(start, stop)
    first = next(pieces, b"")  # while it can still be said that there is none
    return StreamingResponse(chain([first], pieces), status, headers=sized, media_type=MEDIA_TYPE)


def _wanted(request: Request, size: int, tag: str) -> tuple[int, int] | None:
    """Start and stop of the range that was asked for; None: everything, also for odd ranges."""
    match = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if match is None or request.headers.get("if-range", tag) != tag:
        return None
    first, last = match.groups()
    if first:
        stop = min(size, int(last) + 1) if last else size
        return (int(first), stop) if not last or int(last) >= int(first) else None
    return (max(0, size - int(last)), size) if last else None
