"""Public, private and forbidden addresses: one of every class."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from models.ip_addresses import is_loopback, is_private, is_public

PUBLIC = (
    "8.8.8.8",
    "172.32.0.1",
    "100.128.0.1",
    "2606:4700:4700::1111",
    "::ffff:8.8.8.8",
    "2002:808:808::1",  # 6to4 of 8.8.8.8
    "64:ff9b::8.8.8.8",  # NAT64
)
LOOPBACK = ("127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1")
OWN_NETWORKS = (
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "fd12:3456::1",
    "::ffff:192.168.1.1",
    "2002:a00:1::1",  # 6to4 of 10.0.0.1
    "2002:7f00:1::1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::7f00:1",
)
NEVER = (
    "0.0.0.0",
    "0.1.2.3",
    "100.64.0.1",  # carrier-grade NAT
    "100.127.255.255",
    "169.254.169.254",  # a cloud's metadata
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::8.8.8.8",  # IPv4-compatible
    "::ffff:169.254.169.254",
    "::ffff:100.64.0.1",
    "::ffff:0.0.0.0",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808",  # NAT64 of an own network
    "100::1",
    "2001::1",  # Teredo
    "2001:10::1",
    "2001:db8::1",
    "2002:a9fe:a9fe::1",
    "2002:e000:1::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
)


@pytest.mark.parametrize("text", PUBLIC)
def test_hosts_of_the_internet_are_public(text: str) -> None:
    address = ip_address(text)
    assert is_public(address)
    assert not is_private(address)


@pytest.mark.parametrize("text", [*LOOPBACK, *OWN_NETWORKS])
def test_own_networks_are_private(text: str) -> None:
    address = ip_address(text)
    assert not is_public(address)
    assert is_private(address)


@pytest.mark.parametrize("text", NEVER)
def test_everything_else_is_neither(text: str) -> None:
    address = ip_address(text)
    assert not is_public(address)
    assert not is_private(address)


@pytest.mark.parametrize("text", [*PUBLIC, *LOOPBACK, *OWN_NETWORKS, *NEVER])
def test_only_this_machine_is_loopback(text: str) -> None:
    assert is_loopback(ip_address(text)) == (text in LOOPBACK)
