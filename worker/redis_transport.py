"""kombu's Redis transport, hardened: whatever lies in the queue, the worker lives on.

kombu takes an entry that is not a message of its own for an error of its program, and Celery ends
the worker: one `LPUSH` of a few bytes would stop a node. Must not know what messages mean.
"""

from __future__ import annotations

import logging
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis

_log = logging.getLogger(__name__)


class Channel(kombu_redis.Channel):
    """Drops entries that no Celery has written."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except Empty:
            raise
        except (ValueError, TypeError, LookupError, AttributeError) as exc:
            _log.warning("a message was dropped: not of Celery (%s)", type(exc).__name__)
            return True


class Transport(kombu_redis.Transport):
    """kombu's, with that channel."""

    Channel = Channel


def harden_redis_transport() -> None:
    """From now on `redis://` and `rediss://` mean this transport, in the whole process."""
    name = f"{__name__}:{Transport.__name__}"
    TRANSPORT_ALIASES.update({"redis": name, "rediss": name})
