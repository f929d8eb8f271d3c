"""From a request's body to a stored file, part by part: nothing of it lies in memory as a whole."""

from __future__ import annotations

import hashlib
import re

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from api.bodies import refuse_encoding
from api.gate import Caller
from api.multipart import UploadParser
from api.problems import Problem
from api.services import Services
from models.store.files import PART_BYTES, StoredFile
from models.store.uploads import abandon_upload, begin_upload, end_upload, store_part

PURPOSE = "batch"
EXPIRY_ANCHOR, EXPIRY_SECONDS = "expires_after[anchor]", "expires_after[seconds]"
FIELDS = ("purpose", EXPIRY_ANCHOR, EXPIRY_SECONDS)
MIN_EXPIRY_S, MAX_EXPIRY_S = 3600, 30 * 24 * 3600  # as in OpenAI's API
_SECONDS = re.compile(r"[0-9]{1,12}")


class _Receiver:
    """Cuts the file's bytes into parts and counts them."""

    def __init__(self, limit_bytes: int) -> None:
        self.rest = bytearray()
        self.n_bytes = 0
        self.n_parts = 0
        self._n_line_ends = 0
        self._ends_whole = True
        self.digest = hashlib.sha256()
        self._limit_bytes = limit_bytes

    @property
    def n_lines(self) -> int:
        """The last one may have no line end."""
        return self._n_line_ends + (not self._ends_whole)

    def take(self, piece: bytes) -> None:
        self.n_bytes += len(piece)
        if self.n_bytes > self._limit_bytes:
            message = f"the file has more than {self._limit_bytes} bytes: split it"
            raise Problem(413, message, "file_too_large", "file")
        self._n_line_ends += piece.count(b"\n")
        self._ends_whole = piece.endswith(b"\n")
        self.digest.update(piece)
        self.rest += piece

    def next_part(self, *, whole: bool = True) -> bytes | None:
        """A part that is ready to be stored; with `whole` false also the short last one."""
        if not self.rest or (whole and len(self.rest) < PART_BYTES):
            return None
        part = bytes(self.rest[:PART_BYTES])
        del self.rest[:PART_BYTES]
        self.n_parts += 1
        return part


async def receive_file(request: Request, services: Services, caller: Caller) -> StoredFile:
    """Store the upload of this request; a broken one leaves nothing.

    Raises Problem, and StorageFull before anything is read.
    """
    services.space.check()
    refuse_encoding(request)
    receiver = _Receiver(services.settings.max_file_bytes)
    parser = UploadParser(request.headers.get("content-type", ""), receiver.take)
    database = services.database
    file_id = await run_in_threadpool(begin_upload, database, caller.tenant_id)

    async def store(part: bytes) -> None:
        number, limits = receiver.n_parts - 1, caller.limits
        await run_in_threadpool(store_part, database, file_id, number, part, limits=limits)

    try:
        async for piece in request.stream():
            parser.write(piece)
            while (part := receiver.next_part()) is not None:
                await store(part)
        parser.end()
        _refuse_unknown(parser.fields)
        purpose, expires_after_s = _purpose(parser.fields), _expiry_s(parser.fields)
        if receiver.n_bytes == 0:
            raise Problem(400, "the file is empty: give one request per line", "empty_file", "file")
        while (part := receiver.next_part(whole=False)) is not None:
            await store(part)
        return await run_in_threadpool(
            end_upload,
            database,
            caller.tenant_id,
            file_id,
            name=parser.file_name or "",
            purpose=purpose,
            n_bytes=receiver.n_bytes,
            n_lines=receiver.n_lines,
            sha256=receiver.digest.hexdigest(),
            expires_after_s=expires_after_s,
        )
    except BaseException:
        await run_in_threadpool(abandon_upload, database, file_id)
        raise


def _refuse_unknown(fields: dict[str, str]) -> None:
    for name in fields:
        if name not in FIELDS:
            message = f"field {name!r} is unknown: give {', '.join(FIELDS)}"
            raise Problem(400, message, "unsupported_parameter", name)


def _purpose(fields: dict[str, str]) -> str:
    purpose = fields.get("purpose")
    if purpose != PURPOSE:
        given = "missing" if purpose is None else repr(purpose)
        message = f"purpose is {given}: give {PURPOSE!r}, files are of no other use here"
        raise Problem(400, message, "invalid_value", "purpose")
    return purpose


def _expiry_s(fields: dict[str, str]) -> float | None:
    """`expires_after[anchor]` and `expires_after[seconds]`; None: the file does not expire."""
    anchor, seconds = fields.get(EXPIRY_ANCHOR), fields.get(EXPIRY_SECONDS)
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        message = f"{EXPIRY_ANCHOR} should be created_at"
        raise Problem(400, message, "invalid_value", EXPIRY_ANCHOR)
    if (
        seconds is None
        or not _SECONDS.fullmatch(seconds)
        or not MIN_EXPIRY_S <= int(seconds) <= MAX_EXPIRY_S
    ):
        message = f"{EXPIRY_SECONDS} should be {MIN_EXPIRY_S} to {MAX_EXPIRY_S}"
        raise Problem(400, message, "invalid_value", EXPIRY_SECONDS)
    return float(seconds)
