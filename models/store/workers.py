"""Workers and the models that they serve: who is alive, and what batches may name."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, delete, insert, select, update

from models.clock import db_now
from models.database import Database
from models.model_key import ModelKey, Weights, choose_served
from models.store.rows import model_key
from models.store.transitions import insert_new
from models.store.views import ServedModel, Worker
from models.tables import served_models, workers

LIVE_FOR_S: Final = 60.0  # a worker without a sign of life for so long is not counted


def register_worker(database: Database, worker: Worker) -> None:
    """Enter the worker as alive; an entry of the same id is replaced."""
    values = {
        "id": worker.id,
        "model_name": worker.model.name,
        "weights": str(worker.model.weights),
        "artifact": worker.artifact,
        "backend": worker.backend,
        "host": worker.host,
        "pid": worker.pid,
        "threads": worker.threads,
        "load_s": worker.load_s,
        "versions": dict(worker.versions),
        "rss_bytes": worker.rss_bytes,
        "peak_rss_bytes": worker.peak_rss_bytes,
        "draining": worker.draining,
        "started_at": db_now(),
        "beat_at": db_now(),
    }

    def register(connection: Connection) -> None:
        connection.execute(delete(workers).where(workers.c.id == worker.id))
        connection.execute(insert(workers).values(values))

    database.transact(register, replayable=True)


def beat(
    database: Database,
    worker_id: str,
    *,
    draining: bool = False,
    rss_bytes: int | None = None,
    peak_rss_bytes: int | None = None,
) -> bool:
    """A sign of life; False when the worker is not registered."""
    given = {"rss_bytes": rss_bytes, "peak_rss_bytes": peak_rss_bytes}
    values = {name: value for name, value in given.items() if value is not None}
    return _update(database, worker_id, beat_at=db_now(), draining=draining, **values)


def leave(database: Database, worker_id: str) -> bool:
    """The worker stops; its entry stays, because results name it."""
    return _update(database, worker_id, left_at=db_now())


def live_workers(database: Database, model: ModelKey | None = None) -> list[Worker]:
    """Workers that beat within the last minute and do not drain; of one model or of all."""
    statement = select(workers).where(is_live()).order_by(workers.c.started_at, workers.c.id)
    if model is not None:
        of_model = (workers.c.model_name == model.name, workers.c.weights == str(model.weights))
        statement = statement.where(*of_model)
    with database.read() as connection:
        return [worker_view(row) for row in connection.execute(statement).mappings()]


def is_live() -> ColumnElement[bool]:
    """Whether the worker of the enclosing query takes new chunks."""
    return and_(
        workers.c.left_at.is_(None),
        ~workers.c.draining,
        workers.c.beat_at > db_now() - LIVE_FOR_S,
    )


def register_model(database: Database, model: ServedModel) -> None:
    """Let batches name this model; an entry of the same key is replaced."""
    values = {
        "name": model.key.name,
        "weights": str(model.key.weights),
        "artifact": model.artifact,
        "architecture": model.architecture,
        "context_tokens": model.context_tokens,
        "source": model.source,
        "max_new_tokens": model.max_new_tokens,
        "registered_at": db_now(),
    }

    def register(connection: Connection) -> None:
        connection.execute(delete(served_models).where(_is_model(model.key)))
        # Workers that start together register together: the row of whoever is first will do.
        inserting = insert_new(connection.dialect.name, served_models, ("name", "weights"))
        connection.execute(inserting.values(values))

    database.transact(register, replayable=True)


def find_model(database: Database, name: str, weights: Weights | None = None) -> ServedModel:
    """The model of that name; without `weights` its only variant.

    Raises NotFoundError with the known names, InputError when several variants fit.
    """
    known = {model.key: model for model in list_models(database)}
    return known[choose_served(known, name, weights)]


def list_models(database: Database) -> list[ServedModel]:
    """Every model that was ever registered, by name."""
    statement = select(served_models).order_by(served_models.c.name, served_models.c.weights)
    with database.read() as connection:
        return [_model_view(row) for row in connection.execute(statement).mappings()]


def worker_view(row: RowMapping) -> Worker:
    """A row of workers."""
    names = ("id", "host", "pid", "backend", "artifact", "threads", "load_s", "versions")
    more = ("rss_bytes", "peak_rss_bytes", "draining", "started_at", "beat_at")
    return Worker(model=model_key(row), **{name: row[name] for name in (*names, *more)})


def _update(database: Database, worker_id: str, **values: Any) -> bool:
    statement = update(workers).where(workers.c.id == worker_id).values(**values)
    return database.transact(
        lambda connection: connection.execute(statement).rowcount == 1, replayable=True
    )


def _is_model(key: ModelKey) -> ColumnElement[bool]:
    return and_(served_models.c.name == key.name, served_models.c.weights == str(key.weights))


def _model_view(row: RowMapping) -> ServedModel:
    about = ("artifact", "architecture", "context_tokens", "source")
    names = (*about, "max_new_tokens", "registered_at")
    key = ModelKey(row["name"], Weights(row["weights"]))
    return ServedModel(key=key, **{name: row[name] for name in names})
