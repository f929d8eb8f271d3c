"""`/metrics`: for Prometheus."""

from __future__ import annotations

from ipaddress import ip_address

from fastapi import APIRouter, Depends, Request
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import Response

from api.problems import Problem
from api.services import ServicesDep

router = APIRouter(tags=["health"])

# Whoever sends one of these stands for somebody else, who may be anywhere.
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-real-ip")


class _Answer(Response):
    media_type = CONTENT_TYPE_PLAIN_0_0_4


def may_scrape(request: Request, services: ServicesDep) -> None:
    """Only this machine, or everybody when a setting says so; nobody needs a key."""
    if not (services.settings.public_metrics or _is_from_here(request)):
        message = (
            "metrics are told to this machine alone: scrape from here, or set "
            "NIGHTSHIFT_PUBLIC_METRICS=true"
        )
        raise Problem(403, message, "metrics_not_public")


@router.get("/metrics", response_class=_Answer, dependencies=[Depends(may_scrape)])
def scrape(request: Request) -> Response:
    """Figures of this process and of the whole job store, in Prometheus' text format."""
    registry: CollectorRegistry = request.app.state.metrics
    return _Answer(generate_latest(registry))


def _is_from_here(request: Request) -> bool:
    if request.client is None or any(name in request.headers for name in _FORWARDED):
        return False
    try:
        return ip_address(request.client.host).is_loopback
    except ValueError:
        return False
