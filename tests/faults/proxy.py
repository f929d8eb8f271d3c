"""A TCP proxy on loopback that can be told to misbehave as networks do.

It stands between one worker and one server, so that a fault can hit a single worker.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tests.servers import HOST

_READ_BYTES = 1 << 16
_CALL_TIMEOUT_S = 10.0

Value = TypeVar("Value")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Network:
    """The event loop that all proxies of a test share, in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Value]) -> Value:
        """Run something in the loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_TIMEOUT_S)

    async def listen(self, serve: Serve) -> int:
        """Take connections on a free port until the network is closed; returns the port."""
        server = await asyncio.start_server(serve, HOST, 0)
        self._servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        """End everything that still runs in the loop, and the loop."""
        self.run(self._end_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end_all(self) -> None:
        for server in self._servers:
            server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


@contextmanager
def network() -> Iterator[Network]:
    """A network that is closed in the end."""
    made = Network()
    try:
        yield made
    finally:
        made.close()


class Proxy:
    """Passes everything on until it is told otherwise; `port` is where clients connect.

    Methods may be called from any thread and hold for connections that exist and that will come.
    """

    def __init__(self, network: Network, target_port: int) -> None:
        self._network = network
        self._target_port = target_port
        self._links: set[_Link] = set()
        self._delay_s = 0.0
        self._refuses = False
        self._awaited: list[re.Pattern[bytes]] = []
        self._swallows = False
        self.cuts = 0
        self.port = 0
        network.run(self._listen())

    def pass_on(self) -> None:
        """Be a good network again; data held in a black hole arrives late."""
        self._network.run(self._set(delay_s=0.0, is_open=True, refuses=False))

    def delay(self, seconds: float) -> None:
        """Hold every piece of data for so long, in both directions."""
        self._network.run(self._set(delay_s=seconds, is_open=True, refuses=False))

    def blackhole(self) -> None:
        """Let nothing through and say nothing: connections stay open, connecting succeeds."""
        self._network.run(self._set(delay_s=0.0, is_open=False, refuses=False))

    def refuse(self) -> None:
        """Break all connections, and new ones as soon as they are made."""
        self._network.run(self._set(delay_s=0.0, is_open=True, refuses=True))
        self.reset()

    def reset(self) -> None:
        """Break all present connections with a reset; new ones are welcome."""
        self._network.run(self._reset())

    def cut_after(self, *patterns: bytes) -> None:
        """Once, when a connection has sent these one after the other: lose the last one's answer.

        The server does what it was asked, and the client never hears of it.
        """
        self._swallows = False
        self._awaited = [re.compile(pattern) for pattern in patterns]

    def blackhole_after(self, *patterns: bytes) -> None:
        """A black hole for all, as soon as a connection has sent these one after the other.

        The server still gets the last one, so that a transaction can be left in the middle.
        """
        self._swallows = True
        self._awaited = [re.compile(pattern) for pattern in patterns]

    async def _listen(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self.port = await self._network.listen(self._serve)

    async def _set(self, *, delay_s: float, is_open: bool, refuses: bool) -> None:
        self._delay_s, self._refuses = delay_s, refuses
        if is_open:
            self._open.set()
        else:
            self._open.clear()

    async def _reset(self) -> None:
        for link in list(self._links):
            link.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        self._links.add(link)
        try:
            await self._open.wait()
            if not self._refuses:
                await self._connect(link, reader)
        except (OSError, asyncio.CancelledError):
            pass  # a server that is down is one of the faults; cancelled: the test is over
        finally:
            link.abort()
            self._links.discard(link)

    async def _connect(self, link: _Link, reader: asyncio.StreamReader) -> None:
        answers, link.upstream = await asyncio.open_connection(HOST, self._target_port)
        up = asyncio.ensure_future(self._pump(link, reader, link.upstream))
        down = asyncio.ensure_future(self._pump(link, answers, link.client))
        # Either end that closes ends the connection as a whole, as both protocols want it.
        ended, running = await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        for task in running:
            task.cancel()
        await asyncio.gather(*ended, *running, return_exceptions=True)

    async def _pump(
        self, link: _Link, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        while data := await source.read(_READ_BYTES):
            await asyncio.sleep(self._delay_s)
            await self._open.wait()
            if target is link.client and link.is_cut:
                return  # what the server answered is lost
            if target is link.upstream and self._is_last_awaited(link, data):
                if self._swallows:
                    self._open.clear()
                else:
                    link.is_cut = True
            target.write(data)
            await target.drain()

    def _is_last_awaited(self, link: _Link, data: bytes) -> bool:
        if link.watched is not self._awaited:
            link.watched, link.n_seen = self._awaited, 0
        if link.n_seen < len(self._awaited) and self._awaited[link.n_seen].search(data):
            link.n_seen += 1
        if not self._awaited or link.n_seen < len(self._awaited):
            return False
        self._awaited = []
        self.cuts += 1
        return True


class _Link:
    """One client's connection and the one to the server behind it."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.client = client
        self.upstream: asyncio.StreamWriter | None = None
        self.is_cut = False
        self.watched: list[re.Pattern[bytes]] = []
        self.n_seen = 0  # of what is watched for

    def abort(self) -> None:
        for writer in (self.client, self.upstream):
            if writer is not None:
                writer.transport.abort()
