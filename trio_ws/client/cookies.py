"""Cookies for opening requests (RFC 6265): a mapping, or a ``CookieJar`` of the standard library."""

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

#: Cookies for :func:`connect`: a mapping of names to values, or a jar.
CookiesLike: TypeAlias = "Mapping[str, str] | CookieJar"

# The cookie-value of RFC 6265, section 4.1.1, with or without quotes.
_VALUE = re.compile(r'("?)[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*\1')


class Cookies:
    """The cookies of a client.

    Cookies from a mapping are only sent to the first origin. A jar decides for each request which of its cookies to
    send, and stores the cookies that servers set.

    Args:
        cookies: A mapping of names to values, or a jar.

    Raises:
        TypeError: If the cookies are neither a mapping of str to str nor a jar.
        ValueError: If a name or a value contains characters that are not allowed in a cookie.
    """

    def __init__(self, cookies: CookiesLike) -> None:
        self._jar: CookieJar | None = None
        self._header = ""
        if isinstance(cookies, Mapping):
            self._header = "; ".join(f"{_check(name, value)}={value}" for name, value in cookies.items())
        elif hasattr(cookies, "add_cookie_header"):  # isinstance() would need an import of http.cookiejar
            self._jar = cookies
        else:
            raise TypeError(f"cookies must be a mapping or a CookieJar, not {type(cookies).__name__}")

    def header(self, uri: WebSocketURI, *, first_origin: bool) -> str | None:
        """Return the Cookie header value for a request, or None for no cookies."""
        if self._jar is None:
            return self._header if self._header and first_origin else None
        request = _make_request(uri)
        self._jar.add_cookie_header(request)
        return request.get_header("Cookie")

    def store(self, uri: WebSocketURI, response: Response) -> None:
        """Store the cookies of a response in the jar, if there is one."""
        if self._jar is not None and "Set-Cookie" in response.headers:
            # The jar only calls info() on the response.
            self._jar.extract_cookies(_JarResponse(response), _make_request(uri))  # type: ignore[arg-type]  # see above


def _check(name: Any, value: Any) -> str:
    # The values are secret.
    if not isinstance(name, str) or not isinstance(value, str):
        raise TypeError(f"cookies must map str to str, not {name!r} to {type(value).__name__}")
    if not TOKEN.fullmatch(name):
        raise ValueError(f"a cookie name must be a token (RFC 9110, section 5.6.2), not {name!r}")
    if not _VALUE.fullmatch(value):
        raise ValueError(f"the cookie {name!r} must have a valid value (RFC 6265, section 4.1.1)")
    return name


def _make_request(uri: WebSocketURI) -> urllib.request.Request:
    """Return the request that a jar expects. Jars only know http and https, so these replace ws and wss."""
    import urllib.request  # not at the top: this takes as long as all other imports of a client

    return urllib.request.Request(f"{'https' if uri.secure else 'http'}://{uri.host_header}{uri.resource_name}")


class _JarResponse:
    """Presents a response in the way that a jar expects."""

    def __init__(self, response: Response) -> None:
        import email.message

        self._headers = email.message.Message()
        for name, value in response.headers.raw_items():
            self._headers[name] = value

    def info(self) -> email.message.Message:
        return self._headers
