"""The migrations, applied from zero, lead to the tables that the code declares."""

from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.command import downgrade
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from models.database import upgrade
from models.migrations import HEAD
from models.migrations.run import migration_config
from models.store.commit_log import follow_results
from models.tables import metadata
from tests.store.builders import claim, finish, submit, work_off


def test_migrations_from_zero_equal_the_tables(empty_url: str) -> None:
    with upgrade(empty_url) as database, database.read() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
        tables = set(inspect(connection).get_table_names())
    assert tables == {*metadata.tables, "alembic_version"}


def test_the_schema_check_knows_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(migration_config()).get_heads() == [HEAD]


def test_the_migrations_can_be_taken_back(empty_url: str) -> None:
    with upgrade(empty_url) as database:
        with database.begin() as connection:
            config = migration_config()
            config.attributes["connection"] = connection
            downgrade(config, "base")
        with database.read() as connection:
            assert inspect(connection).get_table_names() == ["alembic_version"]
    upgrade(empty_url).close()


def test_results_from_before_the_log_of_commits_can_be_followed(empty_url: str) -> None:
    with upgrade(empty_url) as database:
        batch = submit(database, 16)
        finish(database, claim(database))
        with database.begin() as connection:
            config = migration_config()
            config.attributes["connection"] = connection
            downgrade(config, "0001")
    with upgrade(empty_url) as database:
        work_off(database)
        followed = {number: record.idx for number, record in follow_results(database, batch.id)}
    assert list(followed) == list(range(1, 17))
    assert sorted(followed.values()) == list(range(16))
