"""docs/client.md: every Python example runs, in the order of the page, against a real server."""

from __future__ import annotations

import re

from models.store.views import Worker
from models.store.workers import register_worker
from tests.cli.served import Served
from tests.client.answered import MODEL, answering
from tests.documents import ROOT

PAGE = ROOT / "docs" / "client.md"


def examples() -> list[str]:
    fence = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return fence.findall(PAGE.read_text(encoding="utf-8"))


def test_the_examples_run(served: Served) -> None:
    assert len(examples()) >= 8
    register_worker(served.database, Worker(id="w", model=MODEL, host="node-1", pid=1))
    names: dict[str, object] = {"URL": served.url}
    with answering(served.database):
        for example in examples():
            exec(compile(example, str(PAGE), "exec"), names)
    for name in ("openai", "nightshift"):
        names[name].close()  # type: ignore[attr-defined]
    assert names["answers"] == {f"q-{n}": f"answer {n}" for n in range(3)}
