"""Cookies of a client (RFC 6265): some by name, or those of the standard library's ``CookieJar``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from ..datastructures import TOKEN
from ..http11 import Response
from ..uri import WebSocketURI

if TYPE_CHECKING:
    import email.message
    import urllib.request
    from http.cookiejar import CookieJar

__all__ = ["Cookies", "CookiesLike"]

#: What ``connect`` takes as cookies: names with their values, or a jar.
CookiesLike: TypeAlias = "Mapping[str, str] | CookieJar"

# A cookie-value of section 4.1.1, which may be in quotes.
_VALUE = re.compile(r'("?)[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*\1')


class Cookies:
    """The cookies that go with requests.

    Those given by name are for the first origin only. A jar knows by itself which of its cookies are for whom, and
    takes those that servers set.

    Raises:
        TypeError: if it is neither a mapping of str to str nor a jar.
        ValueError: if a name or a value is not what a cookie can have.
    """

    def __init__(self, cookies: CookiesLike) -> None:
        self._jar: CookieJar | None = None
        self._header = ""
        if isinstance(cookies, Mapping):
            self._header = "; ".join(f"{_check(name, value)}={value}" for name, value in cookies.items())
        elif hasattr(cookies, "add_cookie_header"):  # not to import it for that
            self._jar = cookies
        else:
            raise TypeError(f"cookies are a mapping or a CookieJar, not {cookies!r}")

    def header(self, uri: WebSocketURI, *, first_origin: bool) -> str | None:
        """Return the Cookie header of a request; None for none."""
        if self._jar is None:
            return self._header if self._header and first_origin else None
        request = _request(uri)
        self._jar.add_cookie_header(request)
        return request.get_header("Cookie")

    def take(self, uri: WebSocketURI, response: Response) -> None:
        """Take the cookies that a server sets."""
        if self._jar is not None and "Set-Cookie" in response.headers:
            # What urllib calls a response is anything with this method.
            self._jar.extract_cookies(_Answer(response), _request(uri))  # type: ignore[arg-type]  # see above


def _check(name: Any, value: Any) -> str:
    if not isinstance(name, str) or not isinstance(value, str):
        raise TypeError(f"a cookie has a name and a value, both of them str, not {name!r} and {value!r}")
    if not TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of a cookie")
    if not _VALUE.fullmatch(value):
        raise ValueError(f"the cookie {name!r} cannot have the value {value!r}")
    return name


def _request(uri: WebSocketURI) -> urllib.request.Request:
    """Return what a jar wants to know of a request. It knows http and https only, which means the same to it."""
    import urllib.request  # takes as long as all that is imported for a client without a jar

    return urllib.request.Request(f"{'https' if uri.secure else 'http'}://{uri.host_header}{uri.resource_name}")


class _Answer:
    """What a jar wants to know of a response."""

    def __init__(self, response: Response) -> None:
        import email.message

        self._headers = email.message.Message()
        for name, value in response.headers.raw_items():
            self._headers[name] = value

    def info(self) -> email.message.Message:
        return self._headers
