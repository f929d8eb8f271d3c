"""What a webhook is: its events, its secret, the rules for its URL, the signature of a message.

The wire form is that of OpenAI's webhooks (and of standardwebhooks.com). Must not know SQL or HTTP.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import Final, Self
from urllib.parse import urlsplit

from models.errors import InputError
from models.ip_addresses import Address, is_loopback, is_private, is_public
from models.states import BatchState

MAX_URL_CHARACTERS: Final = 2048
MAX_NAME_CHARACTERS: Final = 128
_SECRET_PREFIX: Final = "whsec_"
_SECRET_BYTES: Final = 32
_HOST_NAME: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?")
_PATH: Final = re.compile(r"[\x21-\x7e]*")


class WebhookEvent(StrEnum):
    """What a webhook can tell: how a batch ended."""

    COMPLETED = "batch.completed"
    FAILED = "batch.failed"
    CANCELLED = "batch.cancelled"
    EXPIRED = "batch.expired"


EVENT_OF_STATE: Final = {
    BatchState.COMPLETED: WebhookEvent.COMPLETED,
    BatchState.FAILED: WebhookEvent.FAILED,
    BatchState.CANCELLED: WebhookEvent.CANCELLED,
    BatchState.EXPIRED: WebhookEvent.EXPIRED,
}


@dataclass(frozen=True, slots=True)
class WebhookUrl:
    """A URL taken apart; `parse` is the only way to make one of a text from outside."""

    is_encrypted: bool
    host: str  # a name, or an address without brackets
    port: int
    target: str  # path and query

    @classmethod
    def parse(cls, text: str, *, private_addresses: bool = False) -> Self:
        """Raises InputError for a URL that no webhook may have, whatever its name leads to."""
        if len(text) > MAX_URL_CHARACTERS:
            raise InputError(f"the URL has more than {MAX_URL_CHARACTERS} characters")
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError as exc:
            raise InputError(f"the URL cannot be read: {exc}") from exc
        if parts.scheme not in ("https", "http") or (
            parts.scheme == "http" and not private_addresses
        ):
            raise InputError("the URL should begin with https://")
        if parts.username is not None or parts.password is not None or parts.fragment:
            raise InputError("the URL should have no user, password or fragment")
        if not host or port == 0 or not _PATH.fullmatch(text):
            raise InputError("the URL should be https://HOST/PATH in printable ASCII")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        is_encrypted = parts.scheme == "https"
        url = cls(is_encrypted, host, port or (443 if is_encrypted else 80), target)
        url._check_host(private_addresses)
        return url

    def is_allowed(self, address: Address, *, private_addresses: bool) -> bool:
        """Whether this URL may lead to the address; without TLS only to this machine."""
        if not self.is_encrypted:
            return private_addresses and is_loopback(address)
        return is_public(address) or (private_addresses and is_private(address))

    def _check_host(self, private_addresses: bool) -> None:
        try:
            address = ip_address(self.host)
        except ValueError:
            if not _HOST_NAME.fullmatch(self.host) or len(self.host) > 253:
                raise InputError(f"{self.host!r} is not the name of a host") from None
            return
        if not self.is_allowed(address, private_addresses=private_addresses):
            raise InputError(f"the address {self.host} is not a public one")


def new_secret() -> str:
    """A signing key of 256 bits, as receivers give it to their library."""
    return _SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def event_body(event_id: str, event: WebhookEvent, batch_id: str, created_at: float) -> bytes:
    """The message; the same at every attempt."""
    message = {
        "id": event_id,
        "object": "event",
        "created_at": int(created_at),
        "type": str(event),
        "data": {"id": batch_id},
    }
    return json.dumps(message, separators=(",", ":")).encode()


def signed_headers(secret: str, event_id: str, body: bytes, sent_at: int) -> dict[str, str]:
    """The headers by which the receiver knows who sent this, and that it is new."""
    key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX))
    signed = b".".join((event_id.encode(), str(sent_at).encode(), body))
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(sent_at),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def checked_events(given: Sequence[str]) -> tuple[WebhookEvent, ...]:
    """The events by their names, each once; none given means all. Raises InputError."""
    known = [str(event) for event in WebhookEvent]
    for name in given:
        if name not in known:
            raise InputError(f"{name!r} is not an event: give {', '.join(known)}")
    return tuple(event for event in WebhookEvent if not given or str(event) in given)
