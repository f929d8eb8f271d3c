"""The socket that the API listens on."""

from __future__ import annotations

import socket

import pytest

from api.server import listen
from models.errors import InputError
from tests.servers import HOST


def test_no_answer_waits_for_an_acknowledgement() -> None:
    """An answer is written in two pieces, and the second would wait 40 ms for a slow one."""
    with (
        listen(HOST, 0) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_that_is_taken_is_told() -> None:
    with listen(HOST, 0) as listening, pytest.raises(InputError, match="choose another --host"):
        listen(HOST, listening.getsockname()[1])
