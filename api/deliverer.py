"""Sends what webhooks are to be told; any number of API processes may do so.

In a thread of its own: receivers are slow, and the rest of the background work is not to wait.
The log has ids and reasons, never a secret, and of a URL its host alone: its path may be one, too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from api.outgoing import CallFailed, Outgoing
from models.database import Database
from models.errors import InputError
from models.settings import Settings
from models.store.batch_ends import Delivery, claim_delivery, end_delivery
from models.webhooks import WebhookUrl, event_body, signed_headers

_log = logging.getLogger(__name__)


class Deliverer:
    """Delivers whatever is due."""

    def __init__(self, database: Database, settings: Settings, outgoing: Outgoing) -> None:
        self._database = database
        self._settings = settings
        self._outgoing = outgoing

    def deliver_due(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """One attempt for each delivery that is due now."""
        while not should_stop() and (delivery := claim_delivery(self._database)) is not None:
            error = self._attempt(delivery)
            has_ended = end_delivery(self._database, delivery, error)
            _tell(delivery, error, has_ended)

    def _attempt(self, delivery: Delivery) -> str | None:
        """None when the receiver has taken it, else why not."""
        body = event_body(delivery.id, delivery.event, delivery.batch_id, delivery.created_at)
        headers = {
            "content-type": "application/json",
            "user-agent": "nightshift",
            **signed_headers(delivery.secret, delivery.id, body, int(time.time())),
        }
        private_addresses = self._settings.webhook_private_addresses
        try:
            url = WebhookUrl.parse(delivery.url, private_addresses=private_addresses)
            self._outgoing.post(url, body, headers)
        except (CallFailed, InputError) as exc:
            return str(exc)
        return None


def _tell(delivery: Delivery, error: str | None, has_ended: bool) -> None:
    fields = {
        "event": delivery.id,
        "webhook": delivery.webhook_id,
        "batch": delivery.batch_id,
        "attempt": delivery.attempt,
    }
    if error is None:
        _log.info("event delivered", extra=fields)
    elif has_ended:
        _log.error("an event was given up: %s", error, extra=fields)
    else:
        _log.warning("an event was not delivered and will be sent again: %s", error, extra=fields)
