"""What the flags before the command say, handed to every command as `context.obj`.

Settings are read when a command asks for them, so that `--help` works whatever the environment
holds and stays fast.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from models.backend_name import BackendName
from models.errors import SettingsError

if TYPE_CHECKING:
    from models.database import Database
    from models.settings import Settings
    from worker.llm.registry import Registry, RegistryEntry
    from worker.llm.remote_registry import RemoteRegistry


SECRET = "api_key"  # of the settings, the one that no flag gives


@dataclass(frozen=True, slots=True)
class GlobalFlags:
    """The flags of `nightshift` itself; None where the environment or the default decides."""

    home: str | None = None
    database_url: str | None = None
    broker_url: str | None = None
    url: str | None = None
    log_level: str | None = None
    assignments: tuple[str, ...] = ()  # NAME=VALUE, for the settings without a flag of their own

    def assigned(self) -> dict[str, str]:
        """What `--set` gives, under the names of the environment; raises SettingsError."""
        from models.settings import variable_name

        values: dict[str, str] = {}
        for text in self.assignments:
            name, equals, value = text.partition("=")
            if not equals:
                raise SettingsError(f"--set {text!r} cannot be used: give NAME=VALUE")
            values[variable_name(name.strip().lower())] = value
        if variable_name(SECRET) in values:
            raise SettingsError(
                f"{variable_name(SECRET)} is read from the environment only: everybody on the "
                "machine can read a command line"
            )
        return values

    def named(self) -> dict[str, object]:
        """The settings that have a flag here."""
        return {
            "home": self.home,
            "database_url": self.database_url,
            "broker_url": self.broker_url,
            "url": self.url,
            "log_level": self.log_level,
        }


def load(context: typer.Context, **flags: object) -> Settings:
    """The settings of a command that works on this machine, whatever NIGHTSHIFT_URL is.

    Environment, then global flags, then the command's. Raises SettingsError for `--url`, which
    would do nothing.
    """
    before: GlobalFlags = context.obj
    if before.url is not None:
        raise SettingsError(f"`{context.command_path}` works on this machine: leave out --url")
    return load_for_server(context, **flags)


def load_for_server(context: typer.Context, **flags: object) -> Settings:
    """The same of a command that may ask a server."""
    from models.settings import load_settings

    before: GlobalFlags = context.obj
    environ = {**os.environ, **before.assigned()}
    settings = load_settings(environ, **{**before.named(), **flags})
    _configure_logging(settings)
    return settings


def open_database(settings: Settings, *, create: bool = False) -> Database:
    """Connect to the job store.

    The SQLite file of the home folder is made and upgraded as needed, another one with `create`.
    """
    from models.database import connect_database

    is_default = settings.database_url is None
    return connect_database(settings.resolved_database_url, create=create or is_default)


def open_registry(settings: Settings) -> Registry:
    """The registry of this machine, for the backend of the settings."""
    from worker.llm.registry import Registry

    return Registry(settings.registry_path, settings.backend)


def open_remote_registry(settings: Settings, url: str | None = None) -> RemoteRegistry | None:
    """The registry that nodes share, at `url` or where the settings say; None without one."""
    from worker.llm.remote_registry import RemoteRegistry

    chosen = url or settings.registry_url
    return None if chosen is None else RemoteRegistry(chosen, settings.backend)


def all_entries(settings: Settings) -> list[RegistryEntry]:
    """The registered models of all backends."""
    return [
        entry
        for backend in BackendName
        for entry in open_registry(settings.model_copy(update={"backend": backend})).entries()
    ]


def show_log(settings: Settings) -> None:
    """From now on log at the level of the settings: a service's log is all that it shows."""
    from worker.logs import configure_logging

    configure_logging(settings.log_level)


def _configure_logging(settings: Settings) -> None:
    """Log sentences, below `warning` only when asked, so that words and progress stay readable."""
    from worker.logs import configure_logging

    chosen = "log_level" in settings.model_fields_set
    configure_logging(settings.log_level if chosen else "warning")
    for handler in logging.getLogger().handlers:
        handler.setFormatter(logging.Formatter("nightshift: %(levelname)s: %(message)s"))
