"""A proxy on loopback that loses answers, as networks do: the client never learns what happened."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2

from tests.servers import HOST

TIMEOUT_S = 60
_OF_THE_CONNECTION = {"host", "connection", "content-length", "transfer-encoding", "date", "server"}


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it came; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Losing:
    """`calls` are the POSTs to the watched path, `answers` those that the server gave to them."""

    server_url: str
    path: str
    delayed: bool
    url: str = ""
    calls: list[Call] = field(default_factory=list)
    answers: list[httpx2.Response] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer_to(self, call: Call) -> httpx2.Response | None:
        """None: the client hears nothing."""
        if not self._is_watched(call):
            return self._forward(call)
        with self.lock:
            self.calls.append(call)
            number = len(self.calls)
        if number == 1:
            if not self.delayed:
                self._forward(call)
            return None
        if number == 2 and self.delayed:
            with ThreadPoolExecutor(2) as both:
                return list(both.map(self._forward, self.calls))[-1]
        return self._forward(call)

    def _is_watched(self, call: Call) -> bool:
        return (call.method, call.path) == ("POST", self.path)

    def _forward(self, call: Call) -> httpx2.Response:
        answer = httpx2.request(
            call.method,
            self.server_url + call.path,
            headers=_passed_on(call.headers),
            content=call.body,
            timeout=TIMEOUT_S,
        )
        if self._is_watched(call):
            self.answers.append(answer)
        return answer


@contextmanager
def losing(server_url: str, path: str, *, delayed: bool = False) -> Iterator[Losing]:
    """Loses the answer to the first POST to `path`, which the server has handled by then.

    `delayed`: that POST is what is held up; it reaches the server together with its repeat.
    """
    proxy = Losing(server_url, path, delayed)

    class Handler(_Handler):
        losing = proxy

    server = ThreadingHTTPServer((HOST, 0), Handler)
    proxy.url = f"http://{HOST}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="losing")
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    losing: Losing

    def _answer(self) -> None:
        self.close_connection = True
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.losing.answer_to(Call(self.command, self.path, headers, body))
        if answer is None:
            return
        self.send_response(answer.status_code)
        for name, value in _passed_on(answer.headers).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(answer.content)))
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(answer.content)

    do_GET = do_POST = do_DELETE = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


def _passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    """What is not the business of one connection alone."""
    return {name: value for name, value in headers.items() if name not in _OF_THE_CONNECTION}
