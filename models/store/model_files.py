"""Files of served models that whoever has no artifact needs: their tokenizers.

Must not know what is in them.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import ColumnElement, Connection, and_, delete, select

from models.database import Database
from models.model_key import ModelKey
from models.store.transitions import insert_new
from models.tables import model_files


def keep_model_files(
    database: Database, key: ModelKey, artifact: str, files: Mapping[str, bytes]
) -> None:
    """Keep these files of a model, unless its artifact's are there; those of an older one go."""
    same = {"name": key.name, "weights": str(key.weights), "artifact": artifact}
    rows = [{**same, "file_name": name, "content": content} for name, content in files.items()]

    def keep(connection: Connection) -> None:
        connection.execute(delete(model_files).where(_is_model(key)))
        if rows:  # workers that start together keep the same
            names = ("name", "weights", "file_name")
            connection.execute(insert_new(connection.dialect.name, model_files, names), rows)

    if _kept(database, key) != dict.fromkeys(files, artifact):
        database.transact(keep, replayable=True)


def read_model_files(database: Database, key: ModelKey, artifact: str) -> dict[str, bytes]:
    """The files that were kept of this artifact, by name."""
    statement = select(model_files.c.file_name, model_files.c.content)
    of_artifact = statement.where(_is_model(key), model_files.c.artifact == artifact)
    with database.read() as connection:
        return {row.file_name: row.content for row in connection.execute(of_artifact)}


def _kept(database: Database, key: ModelKey) -> dict[str, str]:
    """Whose file is there, by name."""
    statement = select(model_files.c.file_name, model_files.c.artifact).where(_is_model(key))
    with database.read() as connection:
        return {row.file_name: row.artifact for row in connection.execute(statement)}


def _is_model(key: ModelKey) -> ColumnElement[bool]:
    return and_(model_files.c.name == key.name, model_files.c.weights == str(key.weights))
