"""`/v1/files`: upload, list, read, delete; output files of batches are files too."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.access import CallerDep
from api.contents import content_response
from api.pages import page_of
from api.services import Services, ServicesDep
from api.shapes import Deleted, FileObject, Page
from api.uploads import MAX_EXPIRY_S, MIN_EXPIRY_S, receive_file
from models.projections import OutputFile, describe_output, read_output
from models.store.batches import get_batch
from models.store.files import StoredFile, delete_file, get_file, list_files, read_content

router = APIRouter(prefix="/v1/files", tags=["files"])

UPLOAD_SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "additionalProperties": False,
                    "dependentRequired": {
                        "expires_after[anchor]": ["expires_after[seconds]"],
                        "expires_after[seconds]": ["expires_after[anchor]"],
                    },
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": ["batch"]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": MIN_EXPIRY_S,
                            "maximum": MAX_EXPIRY_S,
                        },
                    },
                }
            }
        },
    }
}


@router.post("", openapi_extra=UPLOAD_SCHEMA)
async def upload_file(request: Request, services: ServicesDep, caller: CallerDep) -> FileObject:
    """Upload a JSON Lines file of requests; it is stored while it arrives."""
    return file_object(await receive_file(request, services, caller))


@router.get("")
def list_uploaded_files(
    services: ServicesDep,
    caller: CallerDep,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> Page[FileObject]:
    """The files, newest first."""
    found = list_files(
        services.database,
        caller.tenant_id,
        limit=limit + 1,
        after=after,
        purpose=purpose,
        oldest_first=order == "asc",
    )
    return page_of([file_object(file) for file in found], limit)


@router.get("/{file_id}")
def read_file(file_id: str, services: ServicesDep, caller: CallerDep) -> FileObject:
    """One file."""
    return file_object(_describe(services, caller.tenant_id, file_id))


@router.delete("/{file_id}")
def drop_file(file_id: str, services: ServicesDep, caller: CallerDep) -> Deleted:
    """Delete a file's bytes; batches made of it keep their requests and answers."""
    _describe(services, caller.tenant_id, file_id)
    delete_file(services.database, caller.tenant_id, file_id)
    return Deleted(id=file_id)


@router.get("/{file_id}/content", response_class=Response)
def read_file_content(
    file_id: str, request: Request, services: ServicesDep, caller: CallerDep
) -> Response:
    """The bytes, streamed; `Range` and `If-None-Match` are understood."""
    file = _describe(services, caller.tenant_id, file_id)
    output = OutputFile.of_id(file_id)
    if output is None:
        return content_response(
            request,
            file,
            lambda start, stop: read_content(services.database, file_id, start=start, stop=stop),
        )
    batch = get_batch(services.database, output.batch_id, caller.tenant_id)
    return content_response(
        request,
        file,
        lambda start, stop: read_output(
            services.database, batch, output.kind, start=start, stop=stop
        ),
    )


def file_object(file: StoredFile) -> FileObject:
    """The file as the API shows it."""
    return FileObject(
        id=file.id,
        bytes=file.n_bytes,
        created_at=int(file.created_at),
        expires_at=None if file.expires_at is None else int(file.expires_at),
        filename=file.name,
        purpose="batch_output" if OutputFile.of_id(file.id) else "batch",
    )


def _describe(services: Services, tenant_id: str, file_id: str) -> StoredFile:
    """The file, an output file counted if need be; raises NotFoundError."""
    output = OutputFile.of_id(file_id)
    if output is None:
        return get_file(services.database, tenant_id, file_id)
    return describe_output(services.database, tenant_id, output)
