"""How often a key may be used: a moving window of a minute, shared by API processes over Redis.

Without a broker, and while it is away, each process counts for itself: a count never stops the API.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Final

from limits import RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from api.problems import Problem

_TIMEOUT_S: Final = 0.25  # of one exchange with Redis, which every call would wait for
_AWAY_FOR_S: Final = 5.0  # Redis is not asked again so soon after it failed

_log = logging.getLogger(__name__)


class RequestRates:
    """Counts the calls of every key; safe to share between threads."""

    def __init__(self, broker_url: str | None) -> None:
        self._own = MovingWindowRateLimiter(MemoryStorage())
        self._shared = None if broker_url is None else _shared_limiter(broker_url)
        self._away_until = 0.0

    def count(self, key_id: str, requests_per_minute: int) -> None:
        """Count one call; raises Problem 429 when it is one too many."""
        item = RateLimitItemPerMinute(requests_per_minute)
        wait_s = self._wait_s(item, key_id)
        if wait_s is not None:
            message = f"this key may be used {requests_per_minute} times a minute: wait {wait_s} s"
            headers = {"retry-after": str(wait_s)}
            raise Problem(429, message, "rate_limit_exceeded", headers=headers)

    def _wait_s(self, item: RateLimitItemPerMinute, key_id: str) -> int | None:
        if self._shared is not None and time.monotonic() > self._away_until:
            try:
                return _hit(self._shared, item, key_id)
            except StorageError as exc:
                self._away_until = time.monotonic() + _AWAY_FOR_S
                _log.warning("Redis is away, calls are counted here alone: %s", exc.storage_error)
        return _hit(self._own, item, key_id)


def _hit(limiter: MovingWindowRateLimiter, item: RateLimitItemPerMinute, key_id: str) -> int | None:
    """None when the call is within the limit, else the seconds until another may be."""
    if limiter.hit(item, key_id):
        return None
    reset_at = limiter.get_window_stats(item, key_id).reset_time
    return max(1, math.ceil(reset_at - time.time()))


def _shared_limiter(url: str) -> MovingWindowRateLimiter:
    from limits.storage import RedisStorage
    from redis import ConnectionPool
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    pool = ConnectionPool.from_url(
        url,
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),  # its own would wait and try again for seconds
    )
    storage = RedisStorage(
        url, connection_pool=pool, wrap_exceptions=True, key_prefix="nightshift:rates"
    )
    return MovingWindowRateLimiter(storage)
