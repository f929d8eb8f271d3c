"""From an input file and the flags to a stored batch; `run` and `submit` both go through here."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from models.model_key import ModelKey

if TYPE_CHECKING:
    from models.database import Database
    from models.settings import Settings
    from models.store.views import Submitted
    from models.wire.lines import Line

GREEDY: Final = {"temperature": 0.0}  # a default: what a request says itself wins


@dataclass(frozen=True, slots=True, kw_only=True)
class InputOptions:
    """What the flags say about the requests of a file."""

    path: Path
    defaults: Mapping[str, object] = field(default_factory=dict)  # decoding parameters
    system: str | None = None
    completions: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the file alone says everything."""
        return not self.defaults and self.system is None and not self.completions

    def check_readable(self) -> None:
        """Raise InputFileError now, before anything slow begins."""
        from models.wire.raw_lines import file_errors

        with file_errors(self.path), self.path.open("rb"):
            pass

    def digest(self) -> str:
        """SHA-256 of the file and these flags: equal ones ask for the same answers.

        Raises InputFileError for a file that cannot be read.
        """
        from models.wire.input import file_digest

        flags = {
            "file": file_digest(self.path)[0],
            "defaults": dict(self.defaults),
            "system": self.system,
            "completions": self.completions,
        }
        return hashlib.sha256(json.dumps(flags, sort_keys=True).encode()).hexdigest()


def submit_input(
    database: Database,
    settings: Settings,
    options: InputOptions,
    *,
    model: ModelKey,
    digest: str,
    idempotency_key: str | None,
    priority: int = 0,
) -> Submitted:
    """Store the file as a batch, or find the batch that the same key made before.

    Raises InputFileError when nothing of the file can be used, IdempotencyConflict.
    """
    from models.store.submit import submit_batch
    from models.store.views import Submission
    from models.wire.input import file_digest

    file_sha256, file_bytes = file_digest(options.path)
    endpoint, lines = open_lines(settings, options, model)
    submission = Submission(
        model=model,
        endpoint=endpoint,
        file_name=options.path.name,
        file_bytes=file_bytes,
        file_sha256=file_sha256,
        body_sha256=hashlib.sha256(f"{digest} {model}".encode()).hexdigest(),
        chunk_requests=settings.chunk_requests,
        idempotency_key=idempotency_key,
        priority=priority,
    )
    return submit_batch(database, submission, lines)


def open_lines(
    settings: Settings, options: InputOptions, model: ModelKey
) -> tuple[str, Iterator[Line]]:
    """The endpoint of the batch, and all lines of the file as they are read.

    Raises InputFileError here, when nothing of it can be used, and while it is read.
    """
    from models.wire.input import read_lines
    from models.wire.limits import InputLimits

    lines = read_lines(
        options.path,
        model_name=str(model),
        defaults=dict(options.defaults),
        limits=InputLimits.from_settings(settings),
        system=options.system,
        as_completion=options.completions,
    )
    return _peek_endpoint(lines)


def _peek_endpoint(lines: Iterator[Line]) -> tuple[str, Iterator[Line]]:
    """The endpoint of the first usable request, and all lines from the first on."""
    from models.wire.endpoints import Endpoint
    from models.wire.lines import AcceptedLine

    read: list[Line] = []
    for line in lines:
        read.append(line)
        if isinstance(line, AcceptedLine):
            return line.endpoint, itertools.chain(read, lines)
    return Endpoint.CHAT, iter(read)
