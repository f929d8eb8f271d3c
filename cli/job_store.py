"""Where batches are kept, as the commands see it: a database, or a server that is asked over HTTP.

Both tell a batch in the shape of the API, so that a command prints the same of both. The commands
must not know which one it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import typer

from cli.context import GlobalFlags, load_for_server, open_database
from cli.submission import InputOptions
from models.errors import SettingsError
from models.model_key import Weights
from models.states import ResultStatus

if TYPE_CHECKING:
    from nightshift import Batch, Json

ResultLine = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitOrder:
    """What `submit` asks for beside the requests themselves."""

    model: str
    weights: Weights | None
    idempotency_key: str | None
    priority: int


class JobStore(Protocol):
    """Raises NotFoundError for an unknown batch, UnavailableError when it cannot be reached."""

    def batch(self, batch_id: str) -> Batch:
        """The batch as it stands."""

    def newest(self, limit: int) -> list[Batch]:
        """The newest batches, newest first."""

    def canaries(self) -> list[Json]:
        """Every model's newest canary, by name."""

    def await_end(self, batch_id: str, timeout_s: float | None) -> Batch:
        """The batch when it has ended, or as it stands after the timeout."""

    def submit(self, given: InputOptions, order: SubmitOrder) -> Batch:
        """A new batch, or the one that the same idempotency key made before.

        Raises InputFileError when nothing of the file can be used, IdempotencyConflict, and
        NotFoundError or InputError for the model.
        """

    def lines(self, batch: Batch, status: ResultStatus) -> Iterator[ResultLine]:
        """The lines of all requests that ended with `status` so far, in the order of the input."""

    def follow(self, batch: Batch, status: ResultStatus) -> Iterator[ResultLine]:
        """The same lines as they come, until the batch has ended; every line once."""

    def cancel(self, batch_id: str) -> Batch:
        """Stop the batch; raises StateError when it has ended otherwise."""

    def retry(self, batch_id: str) -> Batch:
        """A new batch of the failed requests.

        Raises StateError while it runs, InputError when there is nothing to retry.
        """

    def pause(self, batch_id: str) -> Batch:
        """Start nothing more of the batch; raises StateError when it has ended."""

    def resume(self, batch_id: str) -> Batch:
        """Go on with a paused batch; raises StateError when it has ended."""


@contextmanager
def open_job_store(context: typer.Context, *, create: bool = False) -> Iterator[JobStore]:
    """The store that the flags and the environment name; `create` makes a database as needed.

    A flag wins over the environment, and there a server over a database.
    """
    flags: GlobalFlags = context.obj
    if flags.url is not None and flags.database_url is not None:
        raise SettingsError("--url and --database-url name two places for batches: give only one")
    settings = load_for_server(context)
    if settings.url is not None and flags.database_url is None:
        from cli.remote_store import open_remote_store

        with open_remote_store(settings) as remote:
            yield remote
        return
    from cli.database_store import DatabaseStore

    with open_database(settings, create=create) as database:
        yield DatabaseStore(settings, database)
