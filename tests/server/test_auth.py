"""Basic authentication of clients."""

from __future__ import annotations

import base64
import inspect
from typing import Any

import pytest
import trio

from trio_ws import basic_auth
from trio_ws.connection.stream import StreamAdapter
from trio_ws.http11 import Request, Response
from trio_ws.server.server import Opening

PASSWORDS = {"ann": "secret", "bob": "", "zoë": "pässwörd:with colon"}


def basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


async def ask(function: Any, *authorizations: str) -> tuple[Response | None, str | None]:
    opening = Opening(StreamAdapter(trio.testing.memory_stream_pair()[0]), None)
    request = Request("/", [("Host", "a"), *(("Authorization", value) for value in authorizations)])
    answer = function(opening, request)
    response = await answer if inspect.isawaitable(answer) else answer
    assert response is None or isinstance(response, Response)
    return response, opening.username


@pytest.mark.parametrize("username", PASSWORDS)
async def test_valid_credentials_are_accepted(username: str) -> None:
    response, known = await ask(basic_auth(PASSWORDS), basic(username, PASSWORDS[username]))
    assert (response, known) == (None, username)


@pytest.mark.parametrize("scheme", ["basic ", "BASIC ", "Basic   "])
async def test_the_scheme_is_case_insensitive(scheme: str) -> None:
    response, known = await ask(basic_auth(PASSWORDS), basic("ann", "secret").replace("Basic ", scheme))
    assert (response, known) == (None, "ann")


@pytest.mark.parametrize(
    "authorizations",
    [
        [],
        [basic("ann", "")],
        [basic("ann", "Secret")],
        [basic("ann", "secret ")],
        [basic("Ann", "secret")],
        [basic("eve", "secret")],
        [basic("", "")],
        [basic("ann", "secret"), basic("ann", "secret")],
        ["Bearer secret"],
        ["Basic"],
        ["Basic ann:secret"],
        ["Basic " + base64.b64encode(b"ann").decode()],
        ["Basic " + base64.b64encode(b"\xff:\xff").decode()],
        [basic("ann", "secret").replace("=", "")],
        [basic("ann", "secret") + "x"],
        ["Digest username=ann"],
        ["Basic \xe9"],
        ["Basic YW5uO\xe9"],
        ["Basic \xa0"],
        ["Basic YQ==YQ=="],
        ["Basic ===="],
        ["\xe9 YW5uOnNlY3JldA=="],
    ],
)
async def test_invalid_credentials_are_rejected(authorizations: list[str]) -> None:
    response, known = await ask(basic_auth(PASSWORDS, realm='the "club"\\'), *authorizations)
    assert response is not None
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == r'Basic realm="the \"club\"\\", charset="UTF-8"'
    assert known is None


async def test_an_empty_password_is_valid() -> None:
    assert (await ask(basic_auth(PASSWORDS), basic("bob", "")))[1] == "bob"
    assert (await ask(basic_auth(PASSWORDS), basic("bob", "x")))[1] is None


@pytest.mark.parametrize("waits", [True, False])
async def test_credentials_as_a_function(waits: bool) -> None:
    asked: list[tuple[str, str]] = []

    def check(username: str, password: str) -> bool:
        asked.append((username, password))
        return password == username[::-1]

    async def check_later(username: str, password: str) -> bool:
        await trio.lowlevel.checkpoint()
        return check(username, password)

    authenticate = basic_auth(check_later if waits else check)
    assert (await ask(authenticate, basic("ann", "nna")))[1] == "ann"
    response, known = await ask(authenticate, basic("ann", "ann"))
    assert response is not None
    assert known is None
    assert asked == [("ann", "nna"), ("ann", "ann")]


async def test_passwords_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare_digest(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("hmac.compare_digest", compare_digest)
    authenticate = basic_auth(PASSWORDS)
    for username in ("ann", "eve"):
        assert (await ask(authenticate, basic(username, "guess")))[1] is None
    # Also for an unknown user.
    assert compared == [(b"guess", b"secret"), (b"guess", b"guess")]


@pytest.mark.parametrize("realm", ["a\r\nb", "ä", "\0"])
def test_invalid_realm(realm: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        basic_auth(PASSWORDS, realm=realm)


def test_a_user_name_that_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="must not contain a colon: 'ann:b'"):
        basic_auth({"ann": "secret", "ann:b": "secret"})


@pytest.mark.parametrize("credentials", [None, "ann:secret", [("ann", "secret")]])
def test_invalid_credentials_argument(credentials: Any) -> None:
    with pytest.raises(TypeError, match="a mapping or a function"):
        basic_auth(credentials)
