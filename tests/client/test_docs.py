"""docs/client.md: every Python example runs, in the order of the page, against a real server."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.database import Database
from models.model_key import ModelKey, Weights
from models.store.batches import finalize_batch
from models.store.leases import claim_next
from models.store.views import ServedModel
from models.store.workers import register_model
from tests.cli.served import serve_home
from tests.documents import ROOT
from tests.store.builders import TTL_S, finish

PAGE = ROOT / "docs" / "client.md"
MODEL = ModelKey("demo-model", Weights.INT8)


def examples() -> list[str]:
    fence = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return fence.findall(PAGE.read_text(encoding="utf-8"))


@contextmanager
def answering(database: Database) -> Iterator[None]:
    """Let a thread answer whatever is submitted, as a worker would."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(0.05):
            if (lease := claim_next(database, MODEL, "w", ttl_s=TTL_S)) is not None:
                finish(database, lease)
                finalize_batch(database, lease.batch_id)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        ended.set()
        worker.join()


def test_the_examples_run(tmp_path: Path) -> None:
    assert len(examples()) >= 8
    with serve_home(tmp_path) as served, answering(served.database):
        model = ServedModel(key=MODEL, artifact="a", architecture="llama", context_tokens=512)
        register_model(served.database, model)
        names: dict[str, object] = {"URL": served.url}
        for example in examples():
            exec(compile(example, str(PAGE), "exec"), names)
        for name in ("openai", "nightshift"):
            names[name].close()  # type: ignore[attr-defined]
    assert names["answers"] == {f"q-{n}": f"answer {n}" for n in range(3)}
