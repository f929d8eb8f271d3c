"""The scripted backend as a whole engine process, for `EngineProcess(…, module=…)`."""

from __future__ import annotations

from tests.backends.scripted_server import ScriptedBackend
from worker.backends.server import main

if __name__ == "__main__":
    main(lambda _: ScriptedBackend())
