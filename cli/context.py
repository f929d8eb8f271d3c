"""What the flags before the command say, handed to every command as `context.obj`.

Settings are read when a command asks for them, so that `--help` works whatever the environment
holds and stays fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from models.errors import SettingsError

if TYPE_CHECKING:
    from models.database import Database
    from models.settings import Settings
    from worker.llm.registry import Registry


@dataclass(frozen=True, slots=True)
class GlobalFlags:
    """The flags of `nightshift` itself; None where the environment or the default decides."""

    home: str | None = None
    database_url: str | None = None
    broker_url: str | None = None
    log_level: str | None = None
    assignments: tuple[str, ...] = ()  # NAME=VALUE, for the settings without a flag of their own

    def overrides(self) -> dict[str, object]:
        """The settings that these flags fix; raises SettingsError for a malformed `--set`."""
        values: dict[str, object] = dict(_parse_assignment(text) for text in self.assignments)
        named = {
            "home": self.home,
            "database_url": self.database_url,
            "broker_url": self.broker_url,
            "log_level": self.log_level,
        }
        values.update({name: value for name, value in named.items() if value is not None})
        return values


def load(context: typer.Context, **overrides: object) -> Settings:
    """The settings of this command line: environment, then global flags, then `overrides`."""
    from models.settings import load_settings

    flags: GlobalFlags = context.obj
    given = {name: value for name, value in overrides.items() if value is not None}
    settings = load_settings(None, **{**flags.overrides(), **given})
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
    """The registry of this machine."""
    from worker.llm.registry import Registry

    return Registry(settings.registry_path)


def show_log(settings: Settings) -> None:
    """From now on log at the level of the settings: a service's log is all that it shows."""
    from worker.logs import configure_logging

    configure_logging(settings.log_level)


def _parse_assignment(text: str) -> tuple[str, str]:
    from models.settings import Settings

    name, equals, value = text.partition("=")
    name = name.strip().lower()
    if not equals or name not in Settings.model_fields:
        raise SettingsError(
            f"--set {text!r} cannot be used: give NAME=VALUE with one of "
            f"{', '.join(sorted(Settings.model_fields))}"
        )
    return name, value


def _configure_logging(settings: Settings) -> None:
    """Log on stderr; below `warning` only when asked, so that words and progress stay readable."""
    from worker.logs import configure_logging

    chosen = "log_level" in settings.model_fields_set
    configure_logging(settings.log_level if chosen else "warning")
