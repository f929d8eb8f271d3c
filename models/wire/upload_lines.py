"""Writing requests as OpenAI's JSONL, the file that a server takes: the reverse of reading them.

Read again, the file gives the same lines: same numbers, custom_ids, prompts, parameters and
refusals. Must not know where it goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from models.generation import Prompt
from models.params import DecodingParams
from models.wire.endpoints import Endpoint
from models.wire.json_lines import json_line
from models.wire.lines import AcceptedLine, Line
from models.wire.refused_lines import write_refused

_PIECE_BYTES = 64 << 10


def upload_pieces(lines: Iterable[Line], model_name: str) -> Iterator[bytes]:
    """The file in pieces of some size; blank lines keep every request at its line's number."""
    piece, written = bytearray(), 0
    for line in lines:
        piece += b"\n" * (line.line_number - written - 1)
        piece += f"{json_line(upload_line(line, model_name))}\n".encode()
        written = line.line_number
        if len(piece) >= _PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


def upload_line(line: Line, model_name: str) -> dict[str, object]:
    """One line of the file."""
    if not isinstance(line, AcceptedLine):
        return write_refused(line, model_name)
    body = {"model": model_name, **_prompt(line.prompt), **_params(line.params, line.endpoint)}
    return {"custom_id": line.custom_id, "method": "POST", "url": line.endpoint, "body": body}


def _prompt(prompt: Prompt) -> dict[str, object]:
    if prompt.kind == "chat":
        return {"messages": [message.model_dump() for message in prompt.messages]}
    return {"prompt": prompt.text if prompt.kind == "text" else list(prompt.token_ids)}


def _params(params: DecodingParams, endpoint: str) -> dict[str, object]:
    given: dict[str, object] = params.model_dump(mode="json", exclude_defaults=True)
    if endpoint == Endpoint.COMPLETIONS and given.pop("logprobs", False):
        given["logprobs"] = given.pop("top_logprobs", 0)  # one integer instead of two fields
    return given
