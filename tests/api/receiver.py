"""A receiver of webhooks on loopback: it keeps what it gets and answers as a test says."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.servers import HOST


@dataclass(frozen=True, slots=True)
class Received:
    """One request; header names are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


Answer = Callable[[BaseHTTPRequestHandler], None]


def status(code: int, **headers: str) -> Answer:
    """An answer without a body."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("content-length", "0")
        handler.end_headers()

    return answer


@dataclass
class Receiver:
    """`answer` may be exchanged at any time; `over` is set when the receiver ends."""

    scheme: str
    port: int = 0
    received: list[Received] = field(default_factory=list)
    server_names: list[str] = field(default_factory=list)  # by SNI
    answer: Answer = field(default_factory=lambda: status(204))
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{HOST}:{self.port}/hook?key=1"

    def hang(self, _handler: BaseHTTPRequestHandler) -> None:
        """An answer that does not come before the receiver ends."""
        self.over.wait(60)


@contextmanager
def receiving(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Listens until the block ends."""
    receiver = Receiver("http" if tls is None else "https")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.received.append(Received(self.path, headers, body))
            receiver.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # who calls may hang up at any time

    server = Server((HOST, 0), Handler)
    receiver.port = server.server_port
    if tls is not None:

        def note(_socket: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
            receiver.server_names.append(name or "")

        tls.sni_callback = note
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="receiver")
    thread.start()
    try:
        yield receiver
    finally:
        receiver.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
