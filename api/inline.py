"""Requests that come in the body of a batch: kept as the file that they would have been."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from api.problems import Problem
from api.services import Services
from api.uploads import PURPOSE
from models.store.files import (
    PART_BYTES,
    StoredFile,
    abandon_upload,
    begin_upload,
    end_upload,
    store_part,
)
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
    content = inline_content(services, requests)
    database = services.database
    file_id = begin_upload(database, tenant_id)
    try:
        for number, start in enumerate(range(0, len(content), PART_BYTES)):
            store_part(database, file_id, number, content[start : start + PART_BYTES])
        return end_upload(
            database,
            tenant_id,
            file_id,
            name=FILE_NAME,
            purpose=PURPOSE,
            n_bytes=len(content),
            n_lines=len(requests),
            sha256=hashlib.sha256(content).hexdigest(),
        )
    except BaseException:
        abandon_upload(database, file_id)
        raise
