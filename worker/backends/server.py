"""The engine process: `python -m worker.backends.server --fd N --parent PID --config JSON`.

Started by worker.backends.process. Commands come through the socket, a line each, and events go
back the same way; nothing else can reach that channel. One thread reads and tokenizes, the main
thread computes. The end of the socket ends the process at once: the parent wants that, or is dead.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

from models.backend_name import BackendName
from models.errors import EngineError, NightshiftError, RequestRefused
from models.generation import Frozen, Refusal
from worker.backends.base import Backend, Prepared
from worker.backends.machine import peak_rss_bytes
from worker.backends.messages import (
    COMMANDS,
    Add,
    Cancel,
    Failed,
    Finished,
    Progress,
    Ready,
    to_line,
)
from worker.backends.paged_models import load_paged_model, open_for
from worker.backends.process_config import EngineProcessConfig
from worker.llm.artifact import Artifact, read_manifest

_WORKING_PERIOD_S = 0.5
_IDLE_PERIOD_S = 1.0
_NEW_OBJECTS_BETWEEN_COLLECTIONS = 20_000
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

log = logging.getLogger(__name__)


class Server:
    """Moves commands to a backend and its events to the parent."""

    def __init__(self, channel: socket.socket, load: Callable[[], Backend], threads: int) -> None:
        self._channel = channel
        self._load = load
        self._threads = threads
        self._changed = threading.Condition()
        self._inbox: deque[Prepared | Cancel] = deque()
        self._refused: deque[Finished] = deque()
        self._progress_at = 0.0

    def serve(self) -> None:
        """Load, then compute until the socket ends."""
        backend = self._start()
        if backend is None:
            return
        reader = threading.Thread(target=self._read, args=(backend,), name="reader", daemon=True)
        reader.start()
        while True:
            self._apply(backend)
            events: list[Frozen] = list(backend.step()) if backend.has_work else []
            events.extend(self._take_refused())
            if time.monotonic() >= self._progress_at or (events and not backend.has_work):
                events.append(progress_of(backend))
                self._progress_at = time.monotonic() + _WORKING_PERIOD_S
            self._send(events)

    def _start(self) -> Backend | None:
        """Load the backend and say so; None when it cannot be loaded."""
        begin_s = time.monotonic()
        try:
            backend = self._load()
        except NightshiftError as exc:
            self._send([Failed(error=type(exc).__name__, message=str(exc))])
            return None
        except Exception as exc:
            log.exception("the model cannot be loaded")
            message = f"the model cannot be loaded ({type(exc).__name__}: {exc}); see the log"
            self._send([Failed(error=EngineError.__name__, message=message)])
            return None
        # Looking through all of torch's objects, or those of requests, takes longer than a step.
        gc.freeze()
        gc.set_threshold(_NEW_OBJECTS_BETWEEN_COLLECTIONS)
        self._send([ready_of(backend, self._threads, time.monotonic() - begin_s)])
        return backend

    def _apply(self, backend: Backend) -> None:
        """Hand what was read to the backend; with nothing to do, wait for more."""
        with self._changed:
            if not backend.has_work:
                self._changed.wait_for(lambda: self._inbox or self._refused, _IDLE_PERIOD_S)
            commands = list(self._inbox)
            self._inbox.clear()
        for command in commands:
            if isinstance(command, Cancel):
                backend.cancel(command.keys)
            else:
                self._add(backend, command)

    def _add(self, backend: Backend, prepared: Prepared) -> None:
        try:
            backend.add(prepared)
        except RequestRefused as exc:
            self._refuse(prepared.key, exc)

    def _take_refused(self) -> list[Finished]:
        with self._changed:
            refused = list(self._refused)
            self._refused.clear()
        return refused

    def _refuse(self, key: str, exc: RequestRefused) -> None:
        refusal = Refusal(
            code=exc.code, message=str(exc), param=exc.param, http_status=exc.http_status
        )
        with self._changed:
            self._refused.append(Finished(key=key, refusal=refusal))
            self._changed.notify()

    def _send(self, events: list[Frozen]) -> None:
        """Write all events of a step at once; the parent always reads, so this does not block."""
        try:
            self._channel.sendall(b"".join(map(to_line, events)))
        except OSError:
            end_process(0)  # nobody is left to hear it

    def _read(self, backend: Backend) -> None:
        """Parse, tokenize and queue commands until the socket ends, then end the process."""
        try:
            with self._channel.makefile("rb") as lines:
                for line in lines:
                    if line.endswith(b"\n"):
                        self._take(backend, line)
        except OSError:
            end_process(0)
        except Exception:
            log.exception("a command cannot be read")
            end_process(1)
        end_process(0)

    def _take(self, backend: Backend, line: bytes) -> None:
        command = COMMANDS.validate_json(line)
        queued = self._prepare(backend, command) if isinstance(command, Add) else command
        if queued is not None:
            with self._changed:
                self._inbox.append(queued)
                self._changed.notify()

    def _prepare(self, backend: Backend, command: Add) -> Prepared | None:
        """None when the request was refused; one that breaks the tokenizer ends alone, too."""
        try:
            return backend.prepare(command, time.monotonic())
        except RequestRefused as exc:
            self._refuse(command.key, exc)
        except Exception as exc:
            log.exception("a request cannot be prepared")
            reason = f"the prompt cannot be turned into tokens ({type(exc).__name__})"
            self._refuse(command.key, RequestRefused(reason, code="server_error", http_status=500))
        return None


def ready_of(backend: Backend, threads: int, load_s: float) -> Ready:
    """What was loaded, as an event."""
    facts = backend.describe()
    return Ready(
        architecture=facts.architecture,
        weights=facts.weights,
        artifact_digest=facts.artifact_digest,
        vocab_size=facts.vocab_size,
        context_tokens=facts.context_tokens,
        kv_cache_tokens=facts.kv_cache_tokens,
        kv_cache_bytes=facts.kv_cache_bytes,
        max_sequences=facts.max_sequences,
        kernels=facts.kernels,
        threads=threads,
        load_s=load_s,
        peak_rss_bytes=peak_rss_bytes(),
    )


def progress_of(backend: Backend) -> Progress:
    """The backend's counters, as an event."""
    counters = backend.counters
    return Progress(
        steps=counters.steps,
        prompt_tokens=counters.prompt_tokens,
        cached_prompt_tokens=counters.cached_prompt_tokens,
        output_tokens=counters.output_tokens,
        preemptions=counters.preemptions,
        forward_s=counters.forward_s,
        running=counters.running,
        waiting=counters.waiting,
        kv_blocks_used=counters.kv_blocks_used,
        peak_rss_bytes=peak_rss_bytes(),
    )


def load_backend(config: EngineProcessConfig) -> Backend:
    """Import the backend's libraries and load the model.

    The artifact is looked at first: without a good one the libraries' seconds would be lost.
    """
    while True:
        artifact = open_for(config)
        backend = _load(config, artifact)
        if read_manifest(artifact.folder).digest == artifact.digest:
            return backend
        del backend  # another artifact has taken its place meanwhile: this may be of both


def _load(config: EngineProcessConfig, artifact: Artifact) -> Backend:
    if config.backend is BackendName.IPEX:
        from worker.backends.static_backend import load_ipex

        return load_ipex(config, artifact)
    from worker.backends.engine_backend import build_backend

    return build_backend(config, artifact, load_paged_model(config, artifact))


def end_process(code: int) -> None:
    """End now, whatever the other threads compute."""
    os._exit(code)


def tie_to_parent(parent_pid: int) -> None:
    """Die with the parent, and by nobody else's signal short of SIGKILL.

    The kernel watches the parent's thread that started us; worker.backends.process keeps it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the call above
        end_process(0)


def main(load: Callable[[EngineProcessConfig], Backend] = load_backend) -> None:
    """Parse the arguments, protect the channel, serve what `load` gives."""
    parser = argparse.ArgumentParser(description="Engine process; started by its worker.")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--config", required=True)
    arguments = parser.parse_args()
    tie_to_parent(arguments.parent)
    os.dup2(2, 1)  # what libraries print goes to the log
    logging.basicConfig(level=logging.INFO, format="engine: %(levelname)s %(message)s")
    config = EngineProcessConfig.model_validate_json(arguments.config)
    channel = socket.socket(fileno=arguments.fd)
    Server(channel, lambda: load(config), config.threads or 1).serve()


if __name__ == "__main__":
    main()
