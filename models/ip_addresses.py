"""Which IP addresses a call to the outside may lead to. Must not know names or sockets.

A list of what is allowed, not of what is known to be bad: whatever is not plainly a public
address is refused, also inside the IPv6 forms that carry an IPv4 address.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

Address = IPv4Address | IPv6Address

_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")
# Inside 2000::/3 and yet no public host: protocols (Teredo among them), documentation.
_SPECIAL_6: Final = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "3fff::/20")))
# What IPv4Address.is_global calls public in some versions of Python.
_SPECIAL_4: Final = tuple(
    map(IPv4Network, ("100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "240.0.0.0/4"))
)
_PRIVATE_4: Final = tuple(
    map(IPv4Network, ("10.0.0.0/8", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
)
_PRIVATE_6: Final = tuple(map(IPv6Network, ("::1/128", "fc00::/7")))
_CLOUD_METADATA: Final = IPv6Network("fd00:ec2::/32")  # which tells secrets of the machine


def is_public(address: Address) -> bool:
    """Whether the address is a host of the internet."""
    if isinstance(address, IPv6Address):
        embedded = _embedded(address)
        if embedded is not None:
            return is_public(embedded)
        return address in _GLOBAL_UNICAST and not any(address in net for net in _SPECIAL_6)
    special = address.is_multicast or any(address in net for net in _SPECIAL_4)
    return address.is_global and not special


def is_private(address: Address) -> bool:
    """Whether the address is of this machine or of an own network; link-local ones are not."""
    if isinstance(address, IPv6Address):
        embedded = _embedded(address)
        if embedded is not None:
            return is_private(embedded)
        is_own = any(address in net for net in _PRIVATE_6)
        return is_own and address not in _CLOUD_METADATA
    return any(address in net for net in _PRIVATE_4)


def is_loopback(address: Address) -> bool:
    """Whether the address is of this machine."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that this one leads to: mapped, of 6to4, or of NAT64."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour
