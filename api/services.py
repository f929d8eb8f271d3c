"""What every endpoint works with, put together once by `create_app`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from api.estimator import Estimator
from api.gate import Gate
from api.watchers import Watchers
from models.database import Database
from models.disk_space import DiskSpace
from models.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """`wake` tells the background work that there is something new."""

    settings: Settings
    database: Database
    space: DiskSpace
    gate: Gate
    wake: Callable[[], None]
    watchers: Watchers
    estimator: Estimator


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]
