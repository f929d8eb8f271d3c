"""Every error as the API tells it: OpenAI's envelope, all four keys, and never anything else."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.routing import Match, Route

from api.request_ids import HEADER, SCOPE_KEY
from models.errors import (
    DatabaseUnavailable,
    IdempotencyConflict,
    InputError,
    InputFileError,
    NightshiftError,
    NotFoundError,
    QueueFull,
    RequestRefused,
    StateError,
    StorageFull,
)

RETRY_AFTER_S = 5
QUEUE_RETRY_AFTER_S = 60

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)  # not frozen: whoever handles it sets its traceback
class Problem(Exception):
    """An answer other than the one that was hoped for; raise it anywhere below a route."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def type(self) -> str:
        """OpenAI's word for whose fault it is."""
        if self.status == 401:
            return "authentication_error"
        if self.status == 403:
            return "permission_error"
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def response(self) -> JSONResponse:
        """The envelope."""
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return JSONResponse({"error": error}, self.status, headers=dict(self.headers))


def problem_of(exc: NightshiftError) -> Problem:
    """What the API says of an error of Nightshift."""
    message = str(exc)
    match exc:
        case RequestRefused():
            return Problem(exc.http_status, message, exc.code, exc.param)
        case InputFileError():
            return Problem(413 if exc.code == "file_too_large" else 400, message, exc.code, "file")
        case IdempotencyConflict():
            return Problem(409, message, "idempotency_conflict")
        case InputError():
            return Problem(400, message, "invalid_value")
        case NotFoundError():
            return Problem(404, message, "not_found")
        case QueueFull():
            # Nothing that the official client would do within its two repeats frees room.
            headers = {"retry-after": str(QUEUE_RETRY_AFTER_S), "x-should-retry": "false"}
            return Problem(429, message, "queue_full", headers=headers)
        case StateError():
            return Problem(409, message, "invalid_state")
        case DatabaseUnavailable():
            message = "the database is away for the moment: try again"
            headers = {"retry-after": str(RETRY_AFTER_S)}
            return Problem(503, message, "database_unavailable", headers=headers)
        case StorageFull():
            return Problem(507, message, "storage_full")
    return Problem(500, "something went wrong here: the server's log says what", "internal_error")


def add_problem_handlers(app: FastAPI) -> None:
    """Let every way to fail end in the envelope, those of the framework too."""
    app.add_exception_handler(Problem, _answer_problem)
    app.add_exception_handler(NightshiftError, _answer_known)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(Exception, _answer_unknown)


def _answer_problem(_request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, Problem)  # the handler is registered for nothing else
    return exc.response()


def _answer_known(_request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, NightshiftError)
    problem = problem_of(exc)
    if problem.status >= 500:
        _log.error("a request failed: %s", exc)
    return problem.response()


def _answer_http(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)
    messages = {
        404: f"there is nothing at {request.url.path}: see /docs",
        405: f"{request.method} is not allowed at {request.url.path}: see /docs",
    }
    message = messages.get(exc.status_code, str(exc.detail))
    codes = {404: "not_found", 405: "method_not_allowed"}
    headers = {"allow": _allowed(request)} if exc.status_code == 405 else exc.headers or {}
    return Problem(exc.status_code, message, codes.get(exc.status_code), None, headers).response()


def _allowed(request: Request) -> str:
    """Every method of the path; the framework names those of one route alone."""
    methods: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    return ", ".join(sorted(methods))


def _answer_invalid(_request: Request, exc: Exception) -> JSONResponse:
    """A path or query parameter that is not what the endpoint takes."""
    assert isinstance(exc, RequestValidationError)
    first = exc.errors()[0]
    name = str(first["loc"][-1])
    return Problem(400, f"{name}: {first['msg']}", "invalid_value", name).response()


def _answer_nobody(_request: Request, _exc: Exception) -> JSONResponse:
    """The client broke off in the middle of its request: nobody reads this, and it is no fault."""
    return Problem(400, "the request broke off", "incomplete_request").response()


def _answer_unknown(request: Request, exc: Exception) -> JSONResponse:
    """Sent around every middleware, so that the request's id has to be put in here."""
    request_id = request.scope.get(SCOPE_KEY, "")
    _log.error("a request failed", exc_info=exc, extra={"request": request_id})
    problem = problem_of(NightshiftError())
    problem.headers = {HEADER: request_id}
    return problem.response()
