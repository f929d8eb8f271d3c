"""Request bodies: counted while they are read, strict JSON, one model each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import chain
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool

from api.problems import Problem
from models.wire.strict_json import StrictJsonError, loads

MAX_BODY_BYTES = 16 << 20  # of a JSON body; larger inputs are uploaded as files
_MAX_FIELDS = 100
_MAX_BYTES_AT_ONCE = 64 << 10  # what is parsed while all other requests wait

Body = TypeVar("Body", bound=BaseModel)


def json_body(kind: type[Body]) -> Callable[[Request], Awaitable[Body]]:
    """A dependency that reads the body as `kind`; what it says of a bad one names the field."""

    async def read(request: Request) -> Body:
        if media_type(request) != "application/json":
            raise Problem(415, "send the body as application/json", "unsupported_media_type")
        body = await read_body(request, MAX_BODY_BYTES)
        if len(body) > _MAX_BYTES_AT_ONCE:
            return await run_in_threadpool(_parse, kind, body)
        return _parse(kind, body)

    return read


def body_schema(kind: type[BaseModel]) -> dict[str, object]:
    """The request body in the OpenAPI document: `json_body` reads it, not FastAPI."""
    content = {"application/json": {"schema": kind.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body; raises Problem 413 as soon as it is longer than `limit_bytes`."""
    refuse_encoding(request)
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit_bytes:
            raise Problem(413, f"the body has more than {limit_bytes} bytes", "body_too_large")
    return bytes(body)


def refuse_encoding(request: Request) -> None:
    """A compressed body could grow without bounds."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Problem(415, "send the body without content-encoding", "unsupported_encoding")


def media_type(request: Request) -> str:
    """The content type without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _parse(kind: type[Body], body: bytes) -> Body:
    value = _load(body)
    _refuse_many_fields(value)
    try:
        return kind.model_validate(value)
    except ValidationError as exc:
        raise _invalid(exc) from exc


def _refuse_many_fields(value: object) -> None:
    """Each one that is wrong would take a kilobyte of memory, though only the first is told."""
    fields = value.items() if isinstance(value, dict) else ()
    for name, part in chain([("", value)], fields):
        if isinstance(part, dict) and len(part) > _MAX_FIELDS:
            message = f"{name or 'the body'}: an object has at most {_MAX_FIELDS} fields"
            raise Problem(400, message, "invalid_value", name or None)


def _load(body: bytes) -> object:
    try:
        return loads(body)
    except StrictJsonError as exc:
        raise Problem(400, f"the body cannot be used: {exc}", "invalid_json") from exc


def _invalid(exc: ValidationError) -> Problem:
    first = exc.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    message = f"{name}: {reason}" if name else reason
    return Problem(400, message, "invalid_value", name or None)
