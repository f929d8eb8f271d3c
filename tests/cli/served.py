"""A real HTTP server in a thread of the tests, and one home folder seen with it and without."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.database import Database, connect_database
from models.settings import load_settings
from models.store.views import ServedModel
from models.store.workers import register_model
from tests.cli.console import Console
from tests.store.builders import MODEL
from tools.serving import serving


@dataclass(frozen=True, slots=True)
class Served:
    """`local` works on the database, `remote` has another home and asks the server over it."""

    url: str
    database: Database
    local: Console
    remote: Console

    def both(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run the command both ways, see that both say the same, and return what that is."""
        ended = [console.call(*arguments) for console in (self.local, self.remote)]
        here, there = [(end.returncode, end.stdout, end.stderr) for end in ended]
        assert there == here, f"{there} is not {here}"
        return ended[0]


@contextmanager
def serve_home(folder: Path, **limits: int) -> Iterator[Served]:
    """The API over the database of a new home folder, whose batches may name `demo:int8`."""
    home = folder / "home"
    home.mkdir()
    settings = load_settings({}, home=home, **limits)
    with connect_database(settings.resolved_database_url, create=True) as database:
        served = ServedModel(key=MODEL, artifact="a" * 64, architecture="llama", context_tokens=512)
        register_model(database, served)
        with serving(settings, database) as url:
            remote = Console(folder / "elsewhere", {"NIGHTSHIFT_URL": url})
            yield Served(url, database, Console(home), remote)
