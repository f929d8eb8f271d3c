"""The proxy does to a connection what a test says; other tests can only be trusted then."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.faults.proxy import Proxy, network
from tests.servers import HOST, RedisServer

TIMEOUT_S = 0.3
AWAY = (redis.ConnectionError, redis.TimeoutError)


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    redis_server.flushall()
    with network() as net:
        yield Proxy(net, redis_server.port)


@pytest.fixture
def client(proxy: Proxy) -> Iterator[redis.Redis]:
    """A client that reports every fault instead of trying again."""
    with redis.Redis(
        host=HOST, port=proxy.port, socket_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
    ) as made:
        yield made


def test_a_good_network_passes_everything_on(client: redis.Redis) -> None:
    big = b"x" * 1_000_000
    client.set("key", big)
    assert client.get("key") == big


def test_a_slow_network_is_slower_than_the_client_waits(proxy: Proxy, client: redis.Redis) -> None:
    client.ping()
    proxy.delay(2 * TIMEOUT_S)
    with pytest.raises(AWAY):
        client.ping()
    proxy.pass_on()
    assert client.ping()


def test_a_black_hole_is_silent_and_gives_back_what_fell_in(
    proxy: Proxy, client: redis.Redis, redis_server: RedisServer
) -> None:
    client.ping()
    proxy.blackhole()
    with pytest.raises(AWAY):
        client.set("key", "late")
    with redis_server.client() as beside:
        assert beside.get("key") is None
    proxy.pass_on()
    assert client.ping()


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
    proxy: Proxy, client: redis.Redis, redis_server: RedisServer
) -> None:
    proxy.blackhole_after(b"counter")
    client.ping()
    with pytest.raises(AWAY):
        client.incr("counter")
    with pytest.raises(AWAY):
        client.incr("counter")
    with redis_server.client() as beside:
        assert beside.get("counter") == b"1"
    proxy.pass_on()
    assert client.ping()


def test_a_server_that_is_down_is_down_behind_the_proxy(proxy: Proxy, client: redis.Redis) -> None:
    proxy._target_port = 1  # nobody listens there
    with pytest.raises(redis.ConnectionError):
        client.ping()
