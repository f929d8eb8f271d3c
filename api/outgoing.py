"""Calls to addresses that users give: to public hosts alone, each with hard limits.

The name is resolved once, every address of it is checked, and the connection goes to one of those
addresses: a name that changes its mind leads nowhere else. No redirects, no proxies, no cookies.
Must not know webhooks' events or the job store.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final

import httpcore2

from models.errors import NightshiftError
from models.ip_addresses import Address
from models.webhooks import WebhookUrl

TOTAL_S: Final = 5.0  # resolving, connecting, TLS, sending and the answer together
MAX_ANSWER_BYTES: Final = 64 << 10

_LATE: Final = (httpcore2.TimeoutException, TimeoutError)
_BROKEN: Final = (httpcore2.NetworkError, httpcore2.ProtocolError)

Resolve = Callable[[str, int], Sequence[Address]]


class CallFailed(NightshiftError):
    """The call did not succeed; the message is for the user who gave the URL."""


class Outgoing:
    """Makes such calls; safe to share between threads."""

    def __init__(
        self,
        *,
        private_addresses: bool = False,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
        total_s: float = TOTAL_S,
    ) -> None:
        self._private_addresses = private_addresses
        self._resolve = resolve or addresses_of
        self._tls = tls or ssl.create_default_context()
        self._total_s = total_s

    def post(self, url: WebhookUrl, body: bytes, headers: Mapping[str, str]) -> None:
        """POST the body; returns when the answer is a 2xx, and raises CallFailed otherwise."""
        deadline = _Deadline(self._total_s)
        try:
            status = self._send(url, body, headers, deadline)
        except _LATE as exc:
            raise CallFailed(f"no answer within {self._total_s:g} s") from exc
        except _BROKEN as exc:
            raise CallFailed(f"the connection failed: {exc}") from exc
        if not 200 <= status < 300:
            note = ", and redirects are not followed" if 300 <= status < 400 else ""
            raise CallFailed(f"the answer was {status}{note}")

    def _send(
        self, url: WebhookUrl, body: bytes, headers: Mapping[str, str], deadline: _Deadline
    ) -> int:
        addresses = self._addresses(url, deadline)
        origin = httpcore2.Origin(
            b"https" if url.is_encrypted else b"http", url.host.encode(), url.port
        )
        request = httpcore2.Request(
            "POST",
            httpcore2.URL(
                scheme=origin.scheme, host=origin.host, port=url.port, target=url.target.encode()
            ),
            headers=[
                ("host", _authority(url)),
                ("content-length", str(len(body))),
                ("connection", "close"),
                *headers.items(),
            ],
            content=body,
        )
        network = _Pinned(addresses, deadline)
        with httpcore2.HTTPConnection(
            origin, ssl_context=self._tls, network_backend=network
        ) as connection:
            answer = connection.handle_request(request)
            # The status has said it all. The rest is read so that the receiver can finish.
            with contextlib.suppress(*_LATE, *_BROKEN):
                for _ in answer.iter_stream():
                    continue
            return answer.status

    def _addresses(self, url: WebhookUrl, deadline: _Deadline) -> Sequence[Address]:
        """What the host's name leads to, all of it allowed."""
        addresses = _within(deadline, lambda: self._resolve(url.host, url.port))
        for address in addresses:
            if not url.is_allowed(address, private_addresses=self._private_addresses):
                kind = "a public" if url.is_encrypted else "this machine's"
                raise CallFailed(f"{url.host} leads to {address}, which is not {kind} address")
        return addresses


def addresses_of(host: str, port: int) -> Sequence[Address]:
    """The addresses of a name by the system's resolver; raises CallFailed for none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except OSError as exc:
        raise CallFailed(f"the name {host} cannot be resolved") from exc
    return list(dict.fromkeys(ip_address(entry[4][0]) for entry in found))


class _Deadline:
    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def left_s(self) -> float:
        """Raises TimeoutError when the time is over."""
        left = self._at - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def _within(deadline: _Deadline, resolve: Callable[[], Sequence[Address]]) -> Sequence[Address]:
    """Resolve in a thread that may be left behind: the system's resolver knows no time limit."""
    answers: queue.SimpleQueue[Sequence[Address] | CallFailed] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put(resolve())
        except CallFailed as exc:
            answers.put(exc)

    threading.Thread(target=run, name="resolver", daemon=True).start()
    try:
        answer = answers.get(timeout=deadline.left_s())
    except queue.Empty as exc:
        raise TimeoutError from exc
    if isinstance(answer, CallFailed):
        raise answer
    return answer


class _Pinned(httpcore2.NetworkBackend):
    """Connects to the addresses that were checked, whatever the host is called."""

    def __init__(self, addresses: Sequence[Address], deadline: _Deadline) -> None:
        self._addresses = addresses
        self._deadline = deadline
        self._sockets = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        """The first address that lets itself be connected to."""
        failed: httpcore2.ConnectError | None = None
        for address in self._addresses:
            try:
                stream = self._sockets.connect_tcp(
                    str(address), port, self._deadline.left_s(), local_address, socket_options
                )
            except httpcore2.ConnectError as exc:
                failed = exc
            else:
                return _Bounded(stream, self._deadline)
        raise failed or httpcore2.ConnectError(f"{host} has no address")


class _Bounded(httpcore2.NetworkStream):
    """A connection that ends at the deadline, or when the answer grows too long."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline
        self._n_read = 0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        data = self._stream.read(max_bytes, self._deadline.left_s())
        self._n_read += len(data)
        if self._n_read > MAX_ANSWER_BYTES:
            raise httpcore2.ReadError(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._stream.write(buffer, self._deadline.left_s())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore2.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left_s())
        return _Bounded(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _authority(url: WebhookUrl) -> str:
    host = f"[{url.host}]" if ":" in url.host else url.host
    is_default = url.port == (443 if url.is_encrypted else 80)
    return host if is_default else f"{host}:{url.port}"
