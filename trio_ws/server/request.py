"""The parts of a request that applications ask for: ``decode_path``, ``parse_query`` and ``parse_cookies``.

They come from the network, so these functions never raise. What cannot be decoded is replaced or left as it is.
"""

from __future__ import annotations

import urllib.parse

from ..http11 import Request

__all__ = ["decode_path", "parse_cookies", "parse_query"]


def decode_path(request: Request) -> str:
    """Return the path, percent-decoded once as UTF-8, without the query.

    Bytes that are not UTF-8 become U+FFFD. A percent sign that is not part of an encoded byte is kept.
    """
    return urllib.parse.unquote(request.path.partition("?")[0])


def parse_query(request: Request) -> dict[str, list[str]]:
    """Return the values of each parameter of the query, in order. A parameter without a value has an empty one."""
    return urllib.parse.parse_qs(request.path.partition("?")[2], keep_blank_values=True)


def parse_cookies(request: Request) -> dict[str, str]:
    """Return the cookies (RFC 6265, section 5.4).

    Not :class:`http.cookies.SimpleCookie`, which drops all cookies if one is malformed. Here, only text without a name
    and a ``=`` is left out. Of several cookies with the same name, the first one counts: clients put the one with the
    most specific path first.
    """
    cookies: dict[str, str] = {}
    for header in request.headers.get_all("Cookie"):
        for cookie in header.split(";"):
            name, equals, value = cookie.partition("=")
            name, value = name.strip(" \t"), value.strip(" \t")
            if len(value) >= 2 and value[0] == value[-1] == '"':
                value = value[1:-1]
            if name and equals:
                cookies.setdefault(name, value)
    return cookies
