"""Requests that come in the body of a batch: kept as the file that they would have been."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from api.problems import Problem
from api.services import Services
from api.uploads import PURPOSE
from models.store.files import StoredFile
from models.store.uploads import store_content
from models.wire.json_lines import json_line

FILE_NAME = "requests.jsonl"


def inline_content(services: Services, requests: Sequence[dict[str, Any]]) -> bytes:
    """One line per request; raises Problem for too many."""
    limit = services.settings.max_file_requests
    if len(requests) > limit:
        message = f"requests: {len(requests)} are more than {limit}: split them"
        raise Problem(413, message, "file_too_large", "requests")
    return "".join(f"{json_line(request)}\n" for request in requests).encode()


def inline_file(
    services: Services, tenant_id: str, requests: Sequence[dict[str, Any]]
) -> StoredFile:
    """Store these requests, which fit in memory; raises Problem for too many."""
    return store_content(
        services.database,
        tenant_id,
        inline_content(services, requests),
        name=FILE_NAME,
        purpose=PURPOSE,
        n_lines=len(requests),
    )
