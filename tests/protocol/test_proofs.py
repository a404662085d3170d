from __future__ import annotations

import pytest

from trio_ws.exceptions import (
    InvalidHandshake,
    InvalidHeader,
    InvalidMessage,
    InvalidMethod,
    InvalidStatus,
    InvalidUpgrade,
)
from trio_ws.http11 import Request, Response
from trio_ws.protocol.handshake import Agreement, accept, build_request, check_response, reject
from trio_ws.protocol.proofs import (
    accepts,
    check_connect_request,
    check_upgrade_request,
    check_upgrade_response,
    is_upgrade,
    upgrade_headers,
)
from trio_ws.uri import parse_uri

# RFC 6455, section 1.3.
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
UPGRADE = {
    "Host": "example.org",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}
RESPONSE = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": ACCEPT}
# RFC 8441, section 5.1.
CONNECT = {"Host": "server.example.com", "Sec-WebSocket-Version": "13"}


def upgrade(method: str = "GET", version: str = "1.1", **changes: str | None) -> Request:
    """Return a request for an upgrade with changed headers; None removes one."""
    return Request("/", change(UPGRADE, changes), method=method, http_version=version)


def connect(method: str = "CONNECT", protocol: str | None = "websocket", **changes: str | None) -> Request:
    """Return an extended CONNECT request with changed headers; None removes one."""
    return Request("/chat", change(CONNECT, changes), method=method, http_version="2", protocol=protocol)


def change(headers: dict[str, str], changes: dict[str, str | None]) -> list[tuple[str, str]]:
    changed = {**headers, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return [(name, value) for name, value in changed.items() if value is not None]


# -- HTTP/1.1 --------------------------------------------------------------------------------------------------------


def test_a_client_asks_for_an_upgrade() -> None:
    headers = upgrade_headers(lambda size: b"the sample nonce"[:size])
    assert headers == [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Key", KEY)]


def test_a_server_agrees_to_an_upgrade() -> None:
    assert check_upgrade_request(upgrade()) == list(RESPONSE.items())
    assert check_upgrade_request(upgrade(Upgrade="HTTP/2.0, WebSocket", Content_Length="0")) == list(RESPONSE.items())


@pytest.mark.parametrize(
    "request_, error",
    [
        (upgrade(version="2.0"), InvalidMessage),
        (upgrade(version="1.0"), InvalidMessage),
        (upgrade(method="POST"), InvalidMethod),
        (upgrade(Content_Length="1"), InvalidMessage),
        (upgrade(Transfer_Encoding="chunked"), InvalidMessage),
        (upgrade(Host=None), InvalidHeader),
        (upgrade(Upgrade=None), InvalidUpgrade),
        (upgrade(Upgrade="h2c"), InvalidUpgrade),
        (upgrade(Connection="close"), InvalidUpgrade),
        (upgrade(Sec_WebSocket_Key=None), InvalidHeader),
        (upgrade(Sec_WebSocket_Key="short"), InvalidHeader),
        (upgrade(Sec_WebSocket_Version="8"), InvalidUpgrade),
    ],
)
def test_a_server_refuses_an_upgrade(request_: Request, error: type[InvalidHandshake]) -> None:
    with pytest.raises(error) as excinfo:
        check_upgrade_request(request_)
    assert type(excinfo.value) is error


def test_a_header_must_occur_only_once() -> None:
    twice = Request("/", [*UPGRADE.items(), ("Sec-WebSocket-Key", KEY)])
    with pytest.raises(InvalidHeader):
        check_upgrade_request(twice)


def test_a_client_checks_the_upgrade() -> None:
    check_upgrade_response(upgrade(), Response(101, "", RESPONSE))
    # A client ignores elements that are not tokens.
    check_upgrade_response(upgrade(), Response(101, "", {**RESPONSE, "Connection": "@, upgrade"}))
    for name, value in [("Upgrade", "websocket, h2c"), ("Upgrade", "h2c"), ("Sec-WebSocket-Accept", "wrong")]:
        with pytest.raises(InvalidHeader) as excinfo:
            check_upgrade_response(upgrade(), Response(101, "", {**RESPONSE, name: value}))
        assert excinfo.value.name == name


# -- HTTP/2 ----------------------------------------------------------------------------------------------------------


def test_a_server_agrees_to_an_extended_connect() -> None:
    assert check_connect_request(connect()) == []
    assert check_connect_request(connect(Content_Length="0")) == []


def test_a_server_answers_a_key_that_an_intermediary_has_passed_on() -> None:
    assert check_connect_request(connect(Sec_WebSocket_Key=KEY)) == [("Sec-WebSocket-Accept", ACCEPT)]
    with pytest.raises(InvalidHeader):
        check_connect_request(connect(Sec_WebSocket_Key="short"))


@pytest.mark.parametrize(
    "request_, error, status",
    [
        (connect(method="POST", protocol=None), InvalidMethod, 405),
        (connect(method="GET", protocol=None), InvalidMessage, 400),
        (connect(protocol=None), InvalidMessage, 400),
        (connect(protocol="connect-udp"), InvalidMessage, 501),
        (connect(Content_Length="1"), InvalidMessage, 400),
        (connect(Host=None), InvalidHeader, 400),
        (connect(Sec_WebSocket_Version=None), InvalidHeader, 400),
        (connect(Sec_WebSocket_Version="8"), InvalidUpgrade, 400),
    ],
)
def test_a_server_refuses_an_extended_connect(request_: Request, error: type[InvalidHandshake], status: int) -> None:
    with pytest.raises(error) as excinfo:
        check_connect_request(request_)
    assert type(excinfo.value) is error
    response = reject(excinfo.value, http_version="2")
    assert response.status_code == status
    # These headers must not occur in HTTP/2 (RFC 9113, section 8.2.2).
    assert not {"connection", "upgrade"} & set(response.headers)
    assert ("Sec-WebSocket-Version" in response.headers) == (error is InvalidUpgrade)


def test_the_whole_handshake_over_http2() -> None:
    request = build_request(
        parse_uri("wss://example.org/chat"), random=lambda _: b"", subprotocols=["a"], http_version="2"
    )
    assert (request.method, request.path, request.http_version) == ("CONNECT", "/chat", "2")
    assert request.protocol == "websocket"
    assert dict(request.headers) == {
        "host": "example.org",
        "sec-websocket-version": "13",
        "sec-websocket-protocol": "a",
    }
    response, agreement = accept(request, subprotocols=["a"])
    assert response.status_code == 200
    assert list(response.headers.raw_items()) == [("Sec-WebSocket-Protocol", "a")]
    assert agreement == check_response(request, response, subprotocols=["a"]) == Agreement("a")


def test_any_2xx_opens_a_websocket_over_http2() -> None:
    assert check_response(connect(), Response(204, "", [])) == Agreement()
    for status in (101, 199, 300, 404):
        with pytest.raises(InvalidStatus):
            check_response(connect(), Response(status, "", []))


# -- Both ------------------------------------------------------------------------------------------------------------


def test_requests_for_a_websocket() -> None:
    assert is_upgrade(upgrade())
    assert is_upgrade(upgrade(Upgrade="WebSocket/13"))
    assert not is_upgrade(upgrade(Upgrade=None))
    assert is_upgrade(connect())
    assert not is_upgrade(connect(protocol="connect-udp"))
    assert not is_upgrade(connect(method="GET", protocol=None))
    assert not is_upgrade(Request("/", UPGRADE, http_version="2"))


def test_statuses_that_open_a_websocket() -> None:
    assert accepts(upgrade(), Response(101, "", []))
    assert not accepts(upgrade(), Response(200, "", []))
    assert accepts(connect(), Response(200, "", []))
    assert not accepts(connect(), Response(101, "", []))
    assert not accepts(connect(method="GET", protocol=None), Response(200, "", []))
