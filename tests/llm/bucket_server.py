"""A server on loopback that speaks S3, for the real s3fs: buckets live in its memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import httpx2
import pytest
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

BUCKET = "artifacts-of-all"
SECRET = "not-to-be-told"


@contextmanager
def serve_buckets() -> Iterator[str]:
    """Serve one empty bucket until the block ends, and give the server's URL."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # which logs each request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    try:
        httpx2.put(f"{url}/{BUCKET}").raise_for_status()
        yield url
    finally:
        server.stop()


def use_buckets(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let s3fs in this process find the server, as it would find Amazon's."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-node")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@contextmanager
def refusing(server: str) -> Iterator[None]:
    """Let the server refuse every key that there is."""
    httpx2.post(f"{server}/moto-api/reset-auth", content=b"0").raise_for_status()
    try:
        yield
    finally:
        httpx2.post(f"{server}/moto-api/reset-auth", content=b"inf").raise_for_status()


def age_object(path: str, then: datetime) -> None:
    """Let `BUCKET/KEY` have been written at another time, which no request can."""
    bucket, _, key = path.partition("/")
    found = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].get_object(bucket, key)
    assert found is not None
    found.last_modified = then.replace(tzinfo=None)
