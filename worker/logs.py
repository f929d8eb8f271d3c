"""How a worker writes its log: lines of JSON for machines, plain lines on a terminal.

The one place that configures logging. It never sees prompts or outputs: who logs passes ids.
Passwords and tokens are blanked.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import TextIO

from pythonjsonlogger.json import JsonFormatter

_FIELDS = "{asctime} {levelname} {name} {message}"
_QUIET_LIBRARIES = ("kombu", "amqp", "celery", "redis", "sqlalchemy", "alembic")


# Nobody means to log these. A library's message or a traceback may hold one all the same.
_SECRET = re.compile(
    r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"  # user and password of a URL
    r"|\bhf_[A-Za-z0-9]{8,}"
    r"|\bns_[0-9a-f]{16}_[0-9a-f]{64}"
)


class _WithoutSecrets(logging.Formatter):
    """Blanks passwords and tokens in whatever another formatter makes of a record."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return _SECRET.sub("***", self._inner.format(record))


def configure_logging(level: str, *, stream: TextIO | None = None) -> None:
    """Send records of `level` and worse to the stream (standard error unless given).

    Fields given as `extra` become JSON keys; libraries are heard from warning on.
    """
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    handler.setFormatter(_WithoutSecrets(_terminal_format() if target.isatty() else _json_format()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for library in _QUIET_LIBRARIES:
        logging.getLogger(library).setLevel(max(logging.WARNING, root.level))


def _json_format() -> logging.Formatter:
    return JsonFormatter(
        _FIELDS,
        style="{",
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
    )


def _terminal_format() -> logging.Formatter:
    return logging.Formatter("{asctime} {levelname:<7} {message}", style="{", datefmt="%H:%M:%S")
