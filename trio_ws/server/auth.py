"""Basic authentication of clients (RFC 7617): ``basic_auth``."""

from __future__ import annotations

import base64
import binascii
import hmac
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from ..http11 import Request, Response
from .server import Opening, ProcessRequest

__all__ = ["CheckCredentials", "basic_auth"]

#: Whether these are the user name and the password of somebody. May be async.
CheckCredentials: TypeAlias = Callable[[str, str], "bool | Awaitable[bool]"]

_REALM = re.compile(r"[\x20-\x7e]*")


def basic_auth(credentials: Mapping[str, str] | CheckCredentials, *, realm: str = "") -> ProcessRequest:
    """Return a function for ``process_request`` that lets only those in who have a password.

    ::

        await trio_ws.serve(handler, 8765, process_request=trio_ws.basic_auth({"me": "secret"}))

    Others get 401. Who it is, is in ``ws.opening.username``. Passwords are only safe from others with TLS.

    Args:
        credentials: Passwords by user name, which are compared in constant time; or a function that takes both and
            returns whether they are right, which may be async.
        realm: What browsers tell their users that the password is for.

    Raises:
        TypeError: if the credentials are neither.
        ValueError: if the realm is not visible ASCII.
    """
    if not _REALM.fullmatch(realm):
        raise ValueError(f"a realm is visible ASCII, not {realm!r}")
    quoted = realm.replace("\\", "\\\\").replace('"', '\\"')
    challenge = {"WWW-Authenticate": f'Basic realm="{quoted}", charset="UTF-8"'}
    if isinstance(credentials, Mapping):
        check: CheckCredentials = _Passwords(credentials).check
    elif callable(credentials):
        check = credentials
    else:
        raise TypeError(f"credentials are a mapping or a function, not {credentials!r}")

    async def authenticate(opening: Opening, request: Request) -> Response | None:
        given = _parse(request)
        if given is not None:
            right = check(*given)
            if await right if inspect.isawaitable(right) else right:
                opening.username = given[0]
                return None
        return opening.respond(401, "a user name and a password, please\n", challenge)

    return authenticate


class _Passwords:
    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._passwords = {username: password.encode() for username, password in passwords.items()}

    def check(self, username: str, password: str) -> bool:
        # For somebody unknown it takes as long, so that nobody can find out who is known.
        expected = self._passwords.get(username)
        same = hmac.compare_digest(password.encode(), password.encode() if expected is None else expected)
        return same and expected is not None


def _parse(request: Request) -> tuple[str, str] | None:
    """Return the user name and the password of a request, or None."""
    values = request.headers.get_all("Authorization")
    if len(values) != 1:
        return None
    scheme, _, token = values[0].strip(" \t").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        username, colon, password = base64.b64decode(token.strip(" "), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (username, password) if colon else None
