"""A worker's tie to the program that started it: a pipe, of which that program holds the other end.

When that end is closed the worker drains, whether its program wanted that or is dead. A pipe says
so as often as one looks, so nothing is lost that happens while the worker still starts.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

_READ_BYTES = 4096
_EXIT_GRACE_S = 10.0


def watch_lifeline(fd: int, on_end: Callable[[], None], *, drain_timeout_s: float) -> None:
    """Call `on_end` once, in a thread of its own, when the pipe `fd` has ended.

    A process that then takes much longer to drain is ended: nobody may be left who would do that.
    """
    arguments = (fd, on_end, drain_timeout_s + _EXIT_GRACE_S)
    threading.Thread(target=_watch, args=arguments, name="lifeline", daemon=True).start()


def _watch(fd: int, on_end: Callable[[], None], limit_s: float) -> None:
    while _read(fd):
        continue
    on_end()
    time.sleep(limit_s)
    os._exit(1)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _READ_BYTES)
    except OSError:
        return b""  # a terminal that was hung up
