"""Calls to the outside go to public hosts alone, over TLS, and cost what they may at most."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address

import pytest
import trustme

from api.outgoing import MAX_ANSWER_BYTES, CallFailed, Outgoing
from models.errors import InputError
from models.ip_addresses import Address
from models.webhooks import WebhookUrl
from tests.api.receiver import Receiver, receiving, status
from tests.servers import HOST, free_port

NAME = "hooks.example.org"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def receiver(authority: trustme.CA) -> Iterator[Receiver]:
    """A receiver whose certificate is NAME's."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(tls)
    with receiving(tls) as running:
        yield running


def leads_to(*texts: str) -> list[Address]:
    return [ip_address(text) for text in texts]


def caller(authority: trustme.CA, *addresses: str, **more: float) -> Outgoing:
    """One that trusts the test's authority, and for whom every name leads to `addresses`."""
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    found = leads_to(*(addresses or (HOST,)))
    total_s = more.get("total_s", 20.0)
    return Outgoing(
        private_addresses=True, resolve=lambda _host, _port: found, tls=tls, total_s=total_s
    )


def post(outgoing: Outgoing, url: str) -> None:
    outgoing.post(WebhookUrl.parse(url, private_addresses=True), b"{}", {"x-mark": "1"})


def url_of(receiver: Receiver, name: str = NAME) -> str:
    return f"https://{name}:{receiver.port}/hook?key=1"


def test_a_post_arrives_with_name_and_certificate_checked(
    receiver: Receiver, authority: trustme.CA
) -> None:
    post(caller(authority), url_of(receiver))
    (received,) = receiver.received
    assert (received.path, received.body) == ("/hook?key=1", b"{}")
    assert received.headers["host"] == f"{NAME}:{receiver.port}"
    assert received.headers["x-mark"] == "1"
    assert receiver.server_names == [NAME]


def test_a_certificate_of_another_name_or_authority_is_refused(
    receiver: Receiver, authority: trustme.CA
) -> None:
    with pytest.raises(CallFailed, match="certificate"):
        post(caller(authority), url_of(receiver, "other.example.org"))
    with pytest.raises(CallFailed, match="certificate"):
        post(caller(trustme.CA()), url_of(receiver))
    assert receiver.received == []


def test_a_name_is_resolved_once_and_cannot_change_its_mind(
    receiver: Receiver, authority: trustme.CA
) -> None:
    """DNS rebinding: the second answer would lead elsewhere, and nobody asks for it."""
    answers = iter([leads_to(HOST), leads_to("169.254.169.254")])
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    outgoing = Outgoing(private_addresses=True, resolve=lambda _h, _p: next(answers), tls=tls)
    post(outgoing, url_of(receiver))
    assert len(receiver.received) == 1
    with pytest.raises(CallFailed, match=r"169\.254\.169\.254"):
        post(outgoing, url_of(receiver))
    assert len(receiver.received) == 1


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "0.0.0.0",
        "::1",
        "fe80::1",
        "fd00::1",
        "::ffff:127.0.0.1",
        "2002:7f00:1::1",
        "64:ff9b::7f00:1",
    ],
)
@pytest.mark.parametrize("beside", [(), ("8.8.8.8",)])
def test_a_name_that_leads_inside_is_refused_also_beside_a_public_address(
    address: str, beside: Sequence[str]
) -> None:
    found = leads_to(*beside, address)
    outgoing = Outgoing(resolve=lambda _host, _port: found)
    with pytest.raises(CallFailed, match="not a public address"):
        outgoing.post(WebhookUrl.parse(f"https://{NAME}/"), b"{}", {})


def test_the_systems_resolver_is_checked_too() -> None:
    # Old spellings of an address that resolvers understand are names to a parser of URLs.
    for host in ("localhost", "127.1", "2130706433", "0x7f000001"):
        with pytest.raises(CallFailed, match="not a public address"):
            Outgoing().post(WebhookUrl.parse(f"https://{host}/"), b"{}", {})
    with pytest.raises(CallFailed, match="cannot be resolved"):
        Outgoing().post(WebhookUrl.parse("https://no.such.name.invalid/"), b"{}", {})


def test_own_networks_are_allowed_by_a_setting_and_the_rest_never_is(
    receiver: Receiver, authority: trustme.CA
) -> None:
    post(caller(authority, "::ffff:127.0.0.1"), url_of(receiver))
    assert len(receiver.received) == 1
    for address in ("169.254.169.254", "100.64.0.1", "224.0.0.1", "fd00:ec2::254"):
        with pytest.raises(CallFailed, match="not a public address"):
            post(caller(authority, address), url_of(receiver))


def test_without_tls_only_this_machine_is_called(authority: trustme.CA) -> None:
    with receiving() as plain:
        post(caller(authority), f"http://{NAME}:{plain.port}/")
        assert len(plain.received) == 1
        with pytest.raises(CallFailed, match="not this machine's address"):
            post(caller(authority, "10.0.0.1"), f"http://{NAME}:{plain.port}/")


def test_the_next_address_is_tried_when_one_refuses(
    receiver: Receiver, authority: trustme.CA
) -> None:
    post(caller(authority, "::1", HOST), url_of(receiver))  # it listens on the second alone
    assert len(receiver.received) == 1


def test_proxies_of_the_environment_are_not_used(
    receiver: Receiver, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://{HOST}:{free_port()}")
    post(caller(authority), url_of(receiver))
    assert len(receiver.received) == 1


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(receiver: Receiver, authority: trustme.CA, code: int) -> None:
    receiver.answer = status(code, location=url_of(receiver))
    with pytest.raises(CallFailed, match=f"{code}, and redirects are not followed"):
        post(caller(authority), url_of(receiver))
    assert len(receiver.received) == 1


@pytest.mark.parametrize("code", [400, 404, 410, 500, 503])
def test_every_other_answer_than_success_is_told(
    receiver: Receiver, authority: trustme.CA, code: int
) -> None:
    receiver.answer = status(code)
    with pytest.raises(CallFailed, match=f"the answer was {code}"):
        post(caller(authority), url_of(receiver))


def test_a_receiver_that_does_not_answer_is_given_up(
    receiver: Receiver, authority: trustme.CA
) -> None:
    receiver.answer = receiver.hang
    with pytest.raises(CallFailed, match=r"no answer within 0\.5 s"):
        post(caller(authority, total_s=0.5), url_of(receiver))


def test_an_answer_that_drips_is_given_up(receiver: Receiver, authority: trustme.CA) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        for letter in b"HTTP/1.1 200 OK\r\nx: " + b"y" * 10_000:
            handler.wfile.write(bytes([letter]))
            if receiver.over.wait(0.05):
                return

    receiver.answer = drip
    with pytest.raises(CallFailed, match=r"no answer within 0\.5 s"):
        post(caller(authority, total_s=0.5), url_of(receiver))


@pytest.mark.parametrize("pause_s", [0.0, 0.05], ids=["breaks off", "drips"])
def test_a_success_counts_however_its_body_ends(
    receiver: Receiver, authority: trustme.CA, pause_s: float
) -> None:
    """Else the receiver would be told again of what it has taken."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while pause_s and not receiver.over.wait(pause_s):
            handler.wfile.write(b"x")

    receiver.answer = answer
    post(caller(authority, total_s=0.5 if pause_s else 20), url_of(receiver))
    assert len(receiver.received) == 1


def test_a_resolver_that_hangs_is_given_up(receiver: Receiver) -> None:
    def hang(_host: str, _port: int) -> list[Address]:
        receiver.over.wait(30)
        return []

    outgoing = Outgoing(private_addresses=True, resolve=hang, total_s=0.2)
    with pytest.raises(CallFailed, match="no answer"):
        post(outgoing, url_of(receiver))


def test_a_head_that_never_ends_is_given_up(receiver: Receiver, authority: trustme.CA) -> None:
    def flood(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(100_000):
            handler.wfile.write(b"x-%d: %s\r\n" % (number, b"y" * 1000))

    receiver.answer = flood
    with pytest.raises(CallFailed, match=f"more than {MAX_ANSWER_BYTES} bytes|connection failed"):
        post(caller(authority), url_of(receiver))


def test_of_a_huge_answer_only_the_beginning_is_read(
    receiver: Receiver, authority: trustme.CA
) -> None:
    sent: list[int] = []

    def flood(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", str(1 << 40))
        handler.end_headers()
        while not receiver.over.is_set():
            sent.append(handler.wfile.write(bytes(1 << 16)))

    receiver.answer = flood
    post(caller(authority), url_of(receiver))  # the status has said that it was taken
    assert sum(sent) < 64 << 20  # what fits into the buffers of two sockets


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.org/", "https://"),
        ("ftp://example.org/", "https://"),
        ("file:///etc/passwd", "https://"),
        ("example.org", "https://"),
        ("", "https://"),
        ("https://", "HOST"),
        ("https:///path", "HOST"),
        ("https://user@example.org/", "no user"),
        ("https://user:secret@example.org/", "no user"),
        ("https://example.org/#part", "fragment"),
        ("https://example.org:0/", "HOST"),
        ("https://example.org:99999/", "cannot be read"),
        ("https://example.org/a b", "ASCII"),
        ("https://example.org/\r\nx: y", "ASCII"),
        ("https://exämple.org/", "ASCII"),
        ("https://exa\\mple.org/", "not the name of a host"),
        ("https://-x.org/", "not the name of a host"),
        ("https://" + "a" * 64 + ".org/", "not the name of a host"),
        ("https://[::1/", "cannot be read"),
        ("https://127.0.0.1/", "not a public one"),
        ("https://10.1.2.3/", "not a public one"),
        ("https://[::1]/", "not a public one"),
        ("https://[::ffff:10.0.0.1]/", "not a public one"),
        ("https://[fe80::1%25eth0]/", "not a public one"),
        ("https://169.254.169.254/latest/meta-data", "not a public one"),
        ("https://example.org/" + "x" * 2048, "characters"),
    ],
)
def test_a_url_that_no_webhook_may_have_is_refused_at_once(url: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        WebhookUrl.parse(url)


def test_a_url_is_taken_apart() -> None:
    url = WebhookUrl.parse("https://Example.org/hook?a=1")
    assert (url.host, url.port, url.target) == ("example.org", 443, "/hook?a=1")
    url = WebhookUrl.parse("https://[2606:4700:4700::1111]:8443")
    assert (url.host, url.port, url.target) == ("2606:4700:4700::1111", 8443, "/")
    url = WebhookUrl.parse("http://localhost?x", private_addresses=True)
    assert (url.is_encrypted, url.port, url.target) == (False, 80, "/?x")
