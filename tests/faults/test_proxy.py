"""The proxy does to a connection what a test says; other tests can only be trusted then."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.faults.proxy import Proxy, network
from tests.servers import HOST, RedisServer, wait_until

DELAY_S = 0.3
SILENCE_S = 0.3


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    redis_server.flushall()
    with network() as net:
        yield Proxy(net, redis_server.port)


@pytest.fixture
def client(proxy: Proxy) -> Iterator[redis.Redis]:
    """A client that reports every fault instead of trying again, and waits for every answer."""
    with redis.Redis(
        host=HOST, port=proxy.port, socket_timeout=None, retry=Retry(NoBackoff(), 0)
    ) as made:
        yield made


def connected(proxy: Proxy) -> socket.socket:
    return socket.create_connection((HOST, proxy.port))


def ask(connection: socket.socket, command: bytes) -> bytes:
    connection.sendall(command + b"\r\n")
    return connection.recv(100)


def is_silent(connection: socket.socket, command: bytes) -> bool:
    """Whether no answer comes for a while."""
    connection.settimeout(SILENCE_S)
    try:
        ask(connection, command)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(None)
    return False


def test_a_good_network_passes_everything_on(client: redis.Redis) -> None:
    big = b"x" * 1_000_000
    client.set("key", big)
    assert client.get("key") == big


def test_a_slow_network_takes_its_time_both_ways(proxy: Proxy, client: redis.Redis) -> None:
    client.ping()
    proxy.delay(DELAY_S)
    asked_at = time.monotonic()
    assert client.ping()
    assert time.monotonic() - asked_at >= 2 * DELAY_S
    proxy.pass_on()
    assert client.ping()


def test_a_black_hole_is_silent_and_gives_back_what_fell_in(
    proxy: Proxy, redis_server: RedisServer
) -> None:
    with connected(proxy) as connection, redis_server.client() as beside:
        assert ask(connection, b"PING") == b"+PONG\r\n"
        proxy.blackhole()
        assert is_silent(connection, b"SET key late")
        assert beside.get("key") is None
        proxy.pass_on()
        assert connection.recv(100) == b"+OK\r\n"
        assert beside.get("key") == b"late"


def test_a_reset_ends_connections_and_allows_new_ones(proxy: Proxy, client: redis.Redis) -> None:
    first = client.client_id()
    proxy.reset()
    assert client.client_id() != first  # the client has noticed and connected anew


def test_a_refusing_proxy_lets_nobody_in_until_it_passes_on(
    proxy: Proxy, client: redis.Redis
) -> None:
    proxy.refuse()
    for _ in range(2):
        with pytest.raises(redis.ConnectionError):
            client.ping()
    proxy.pass_on()
    assert client.ping()


def test_a_cut_lets_the_server_do_it_and_loses_the_answer_once(
    proxy: Proxy, client: redis.Redis
) -> None:
    proxy.cut_after(b"counter")
    with pytest.raises(redis.ConnectionError):
        client.incr("counter")
    assert proxy.cuts == 1
    assert client.incr("counter") == 2


def test_a_black_hole_can_open_after_what_the_server_still_gets(
    proxy: Proxy, redis_server: RedisServer
) -> None:
    proxy.blackhole_after(b"counter")
    with connected(proxy) as first, connected(proxy) as second, redis_server.client() as beside:
        assert ask(first, b"PING") == b"+PONG\r\n"
        assert is_silent(first, b"INCR counter")
        assert is_silent(second, b"INCR counter")
        wait_until(lambda: beside.get("counter") == b"1", "the server has got the first one")
        proxy.pass_on()
        assert first.recv(100) == b":1\r\n"
        assert second.recv(100) == b":2\r\n"


def test_a_server_that_is_down_is_down_behind_the_proxy(proxy: Proxy, client: redis.Redis) -> None:
    proxy._target_port = 1  # nobody listens there
    with pytest.raises(redis.ConnectionError):
        client.ping()
