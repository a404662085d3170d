"""Basic authentication of clients (RFC 7617): ``basic_auth``."""

from __future__ import annotations

import base64
import hmac
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeAlias

from ..http11 import Request, Response
from ..misuse.values import check_instance
from .server import Opening

__all__ = ["CheckCredentials", "basic_auth"]

#: A function that returns whether a user name and a password are valid. It may be async.
CheckCredentials: TypeAlias = Callable[[str, str], "bool | Awaitable[bool]"]

_REALM = re.compile(r"[\x20-\x7e]*")


def basic_auth(
    credentials: Mapping[str, str] | CheckCredentials, *, realm: str = ""
) -> Callable[[Opening, Request], Awaitable[Response | None]]:
    """Return a ``process_request`` function that requires a user name and a password (RFC 7617).

    ::

        await trio_ws.serve(handler, 8765, process_request=trio_ws.basic_auth({"me": "secret"}))

    Clients without valid credentials get 401, whatever they request. For the others, ``ws.opening.username`` is the
    user name. To protect only some paths, call the returned async function in a ``process_request`` of your own.
    Passwords are sent in the clear: use TLS.

    Args:
        credentials: A mapping of user names to passwords, which are compared in constant time; or a function, possibly
            async, that takes a user name and a password and returns whether they are valid.
        realm: The name of the protected area, which browsers may show when they ask for the password.

    Raises:
        TypeError: If ``credentials`` is neither a mapping nor a function.
        ValueError: If ``realm`` contains anything but printable ASCII characters, or if a user name contains a
            colon, which ends the name in the header.
    """
    check_instance("realm", realm, str, "a str")
    if not _REALM.fullmatch(realm):
        raise ValueError(f"realm must be printable ASCII, not {realm!r}")
    quoted = realm.replace("\\", "\\\\").replace('"', '\\"')
    challenge = {"WWW-Authenticate": f'Basic realm="{quoted}", charset="UTF-8"'}
    if isinstance(credentials, Mapping):
        check: CheckCredentials = _Passwords(credentials).check
    elif callable(credentials):
        check = credentials
    else:
        raise TypeError(f"credentials must be a mapping or a function, not {type(credentials).__name__}")

    async def authenticate(opening: Opening, request: Request) -> Response | None:
        given = _parse(request)
        if given is not None:
            valid = check(*given)
            if await valid if inspect.isawaitable(valid) else valid:
                opening.username = given[0]
                return None
        return opening.respond(401, "a valid user name and password are required\n", challenge)

    return authenticate


class _Passwords:
    def __init__(self, passwords: Mapping[str, str]) -> None:
        items: Iterable[tuple[object, object]] = passwords.items()
        for username, password in items:
            if not isinstance(username, str) or not isinstance(password, str):
                kinds = f"{type(username).__name__} to {type(password).__name__}"
                raise TypeError(f"credentials must map user names to passwords, str to str, not {kinds}")
            if ":" in username:
                raise ValueError(f"a user name in credentials must not contain a colon: {username!r}")
        self._passwords = {username: password.encode() for username, password in passwords.items()}

    def check(self, username: str, password: str) -> bool:
        # Compare for unknown users as well: the response time must not reveal which user names exist.
        expected = self._passwords.get(username)
        same = hmac.compare_digest(password.encode(), password.encode() if expected is None else expected)
        return same and expected is not None


def _parse(request: Request) -> tuple[str, str] | None:
    """Return the user name and the password in the Authorization header; None if they are missing or malformed."""
    values = request.headers.get_all("Authorization")
    if len(values) != 1:
        return None
    scheme, _, token = values[0].strip(" \t").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        username, colon, password = base64.b64decode(token.strip(" "), validate=True).decode().partition(":")
    except ValueError:  # not ASCII, not base64, or not UTF-8
        return None
    return (username, password) if colon else None
