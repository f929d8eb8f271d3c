"""Batches of fault tests, and what is expected of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from models.database import Database
from models.generation import TextPrompt
from models.model_key import ModelKey
from models.params import DecodingParams
from models.store.submit import submit_batch
from models.store.views import Submission
from models.wire.lines import AcceptedLine
from tests.faults.fake_engine import FAKE_MODEL

ENDPOINT = "/v1/completions"


def plain(n_requests: int) -> list[str]:
    """Prompts that do no harm."""
    return [f"prompt number {number}" for number in range(n_requests)]


def submit(
    database: Database,
    prompts: Sequence[str],
    *,
    model: ModelKey = FAKE_MODEL,
    max_tokens: int = 8,
    chunk_requests: int = 20,
    idempotency_key: str | None = None,
) -> str:
    """A batch with these prompts in this order; returns its id."""
    submission = Submission(
        model=model,
        endpoint=ENDPOINT,
        file_name="prompts.jsonl",
        file_bytes=sum(map(len, prompts)),
        body_sha256="0" * 64,
        chunk_requests=chunk_requests,
        idempotency_key=idempotency_key,
    )
    params = DecodingParams(max_tokens=max_tokens, ignore_eos=True)
    return submit_batch(database, submission, _lines(prompts, params)).batch.id


def _lines(prompts: Iterable[str], params: DecodingParams) -> Iterator[AcceptedLine]:
    for idx, prompt in enumerate(prompts):
        yield AcceptedLine(
            line_number=idx + 1,
            custom_id=f"r{idx}",
            prompt=TextPrompt(text=prompt),
            params=params,
            endpoint=ENDPOINT,
        )
