"""The engine process as its parent sees it: start, send commands, receive events, stop, kill.

Torch-free. One thread starts the process and waits for its end, one reads, one writes:
- the kernel kills the engine when the *thread* that started it ends (PR_SET_PDEATHSIG), so that
  thread lives as long as the engine does;
- the reader never pauses, so the engine never blocks on a full socket;
- the writer may block, so `send` never does.
When the parent dies, however it dies, the kernel's signal and the end of the socket both end the
engine; the socket alone does on systems without that signal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence

import psutil

from models import errors
from models.errors import EngineCrashed, EngineStalled, NightshiftError
from worker.backends.machine import usable_cores
from worker.backends.messages import (
    EVENTS,
    Add,
    Cancel,
    Delta,
    Event,
    Failed,
    Finished,
    Progress,
    Ready,
    to_line,
)
from worker.backends.process_config import EngineProcessConfig
from worker.backends.process_environment import engine_environment
from worker.backends.signs_of_life import SignsOfLife
from worker.backends.threads import compute_threads

__all__ = ["EngineProcess", "EngineProcessConfig"]

SERVER_MODULE = "worker.backends.server"
_READ_BYTES = 1 << 18
_LAST_WORDS_S = 5.0  # reading what a dead process left in the socket takes less than this


class EngineProcess:
    """One running engine; all methods may be called from any thread.

    The constructor returns at once, while the model is being loaded: call `wait_ready`.
    Use it as a context manager, or call `stop` or `kill` in the end. `module` is the program that
    runs in the process; it has the arguments of worker.backends.server.
    """

    def __init__(self, config: EngineProcessConfig, *, module: str = SERVER_MODULE) -> None:
        self._config = config
        self._module = module
        self._socket, self._child_socket = socket.socketpair()
        self._changed = threading.Condition()
        self._events: deque[Finished | Delta | Progress] = deque()
        self._outbox: deque[bytes] = deque()
        self._first: Ready | Failed | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._start_error: Exception | None = None
        self._ended = False  # the process has ended and every event of it was read
        self._stopping = False
        self._peak_rss_bytes = 0
        self._forward_s = 0.0
        self._signs = SignsOfLife()
        self._spawned, self._read_all = threading.Event(), threading.Event()
        for target in (self._run, self._read, self._write):
            threading.Thread(target=target, name=f"engine-{target.__name__}", daemon=True).start()
        self._spawned.wait()
        if self._start_error is not None:
            raise EngineCrashed(
                f"the engine process cannot be started: {self._start_error}"
            ) from self._start_error

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id, valid until the process has ended."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs; False only after its last event was read."""
        with self._changed:
            return not self._ended

    @property
    def exit_code(self) -> int | None:
        """None while the process runs; the negative number of the signal that killed it."""
        return self._child.returncode

    @property
    def seconds_since_sign_of_life(self) -> float:
        """Seconds since the engine's last progress; see `SignsOfLife`.

        A healthy ready engine stays below about 1.5, or the length of a step.
        """
        with self._changed:
            return self._signs.seconds_since

    @property
    def peak_rss_bytes(self) -> int:
        """The most memory that the process held, as it last reported; 0 before it is ready."""
        with self._changed:
            return self._peak_rss_bytes

    @property
    def rss_bytes(self) -> int:
        """Memory that the process holds now; 0 when it has ended."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return 0

    @property
    def forward_s(self) -> float:
        """Seconds in the model's forward, as last reported: all of them once `stop` returned."""
        with self._changed:
            return self._forward_s

    def wait_ready(self, timeout_s: float) -> Ready:
        """Wait until the model is loaded; calling it again returns the same.

        Raises the error that the engine failed with (a ModelError or another NightshiftError),
        EngineCrashed when it died, EngineStalled after the timeout (the process is killed).
        """
        with self._changed:
            self._changed.wait_for(lambda: self._first is not None or self._ended, timeout_s)
            first, ended = self._first, self._ended
        if isinstance(first, Ready):
            return first
        if first is not None:
            raise error_of(first)
        if ended:
            raise self._crashed()
        self.kill()
        raise EngineStalled(
            f"the model was not loaded within {timeout_s:.0f} s; allow more with "
            "NIGHTSHIFT_LOAD_TIMEOUT_S, or look for a slow disk or a lack of memory"
        )

    def send(self, *commands: Add | Cancel) -> None:
        """Hand commands to the engine in this order; never blocks. Raises EngineCrashed."""
        lines = [to_line(command) for command in commands]
        with self._changed:
            if self._ended or self._stopping:
                raise self._crashed()
            self._signs.sent(commands)
            self._outbox.extend(lines)
            self._changed.notify_all()

    def receive(self, timeout_s: float) -> list[Finished | Delta | Progress]:
        """All events that have come, waiting for the first one up to `timeout_s`; else [].

        Raises EngineCrashed when the process has ended and its last event was taken.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._ended, timeout_s)
            events = list(self._events)
            self._events.clear()
            if not events and self._ended:
                raise self._crashed()
            return events

    def stop(self, timeout_s: float = 5) -> None:
        """End the process; kill it when that takes longer, or at once while it loads."""
        with self._changed:
            self._stopping = True
            loading = self._first is None
            self._changed.notify_all()
        with contextlib.suppress(OSError):  # it may have ended already
            self._socket.shutdown(socket.SHUT_WR)  # the engine exits at the end of its commands
        if loading or not self._wait_ended(timeout_s):
            self.kill()

    def kill(self) -> None:
        """End the process at once."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._child.kill()
        self._wait_ended(_LAST_WORDS_S)

    @property
    def _child(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise EngineCrashed("the engine process was never started")
        return self._process

    def _wait_ended(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._ended, timeout_s)

    def _crashed(self) -> EngineCrashed:
        return EngineCrashed(describe_end(self._child, asked=self._stopping))

    def _run(self) -> None:
        """Start the process, live as long as it does, then say that it has ended."""
        try:
            self._process = _spawn(self._module, self._config, self._child_socket)
        except Exception as exc:  # the constructor, which waits for this thread, raises it
            self._start_error = exc
        finally:
            self._child_socket.close()
            self._spawned.set()
        if self._process is not None:
            self._process.wait()
        self._read_all.wait(_LAST_WORDS_S)
        self._socket.close()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _read(self) -> None:
        """Take events until the process closes its end."""
        rest = b""  # of a line; a killed process may leave one like that
        try:
            while data := self._socket.recv(_READ_BYTES):
                *lines, rest = (rest + data).split(b"\n")
                self._take([EVENTS.validate_json(line) for line in lines])
        except OSError:
            pass  # a reset is an end as well
        except ValueError:
            self._child.kill()  # not the protocol of this version; nothing after it can be trusted
        self._read_all.set()

    def _take(self, events: Sequence[Event]) -> None:
        """Events that came together are given out together, so that nobody wakes up for each."""
        with self._changed:
            self._signs.note(events)
            for event in events:
                if isinstance(event, Ready | Progress):
                    self._peak_rss_bytes = max(self._peak_rss_bytes, event.peak_rss_bytes)
                if isinstance(event, Progress):
                    self._forward_s = event.forward_s
                if isinstance(event, Ready | Failed):
                    self._first = event
                else:
                    self._events.append(event)
            self._changed.notify_all()

    def _write(self) -> None:
        """Send what is in the outbox until the process has ended or shall end."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._outbox or self._ended or self._stopping)
                if self._ended or self._stopping:
                    return
                data = b"".join(self._outbox)
                self._outbox.clear()
            try:
                self._socket.sendall(data)
            except OSError:
                return  # the process is ending; `_run` will say so


def describe_end(process: subprocess.Popen[bytes], *, asked: bool) -> str:
    """Say in one sentence how the process ended."""
    code = process.returncode
    if asked:
        return f"the engine process {process.pid} was stopped"
    if code is None:
        return f"the engine process {process.pid} closed its connection"
    if code >= 0:
        return f"the engine process {process.pid} exited with code {code}; its log says why"
    name = signal.Signals(-code).name
    advice = (
        "; if nobody did that, memory ran out: lower NIGHTSHIFT_KV_CACHE_BYTES"
        if -code == signal.SIGKILL
        else "; its log may say why"
    )
    return f"the engine process {process.pid} was killed by {name}{advice}"


def _spawn(
    program: str, config: EngineProcessConfig, channel: socket.socket
) -> subprocess.Popen[bytes]:
    """Start the module with its end of the socket.

    A session of its own keeps Ctrl-C in the terminal away from it: its parent decides.
    """
    config, threads = with_threads(config)
    fd = channel.fileno()
    arguments = ["--fd", str(fd), "--parent", str(os.getpid()), "--config"]
    module = [sys.executable, "-P", "-m", program]
    return subprocess.Popen(
        [*module, *arguments, config.model_dump_json()],
        pass_fds=(fd,),
        stdin=subprocess.DEVNULL,
        env=engine_environment(os.environ, threads),
        start_new_session=True,
    )


def with_threads(config: EngineProcessConfig) -> tuple[EngineProcessConfig, int]:
    """The configuration with its number of threads decided, and that number."""
    threads = config.threads or compute_threads(config.artifact, usable_cores())
    return config.model_copy(update={"threads": threads}), threads


def error_of(failed: Failed) -> NightshiftError:
    """The error that the engine failed with, as the class that it was there."""
    kind = getattr(errors, failed.error, None)
    if isinstance(kind, type) and issubclass(kind, NightshiftError):
        return kind(failed.message)
    return EngineCrashed(f"the engine cannot start: {failed.error}: {failed.message}")
