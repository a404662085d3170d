"""Proxies and their URLs: ``Proxy``, ``parse_proxy``."""

from __future__ import annotations

import re
from typing import Literal, overload

import attrs

from ...datastructures import Headers, HeadersLike
from ...exceptions import InvalidHeader, InvalidProxy
from ...exceptions.shown import show_fields
from ...uri import ParseError, bracket_ipv6, parse_host, parse_host_and_port, unquote_user_info

__all__ = ["Proxy", "authority", "parse_proxy", "to_proxy"]

DEFAULT_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}

_WRONG_SCHEME = "the scheme must be http, https, socks4, socks4a, socks5 or socks5h"
# Headers of a CONNECT request that callers cannot set: the proxy would take what follows for a body, or another target.
_CONNECT_HEADERS = frozenset({"host", "content-length", "transfer-encoding"})

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://(?:(.*)@)?([^@]*?)/?", re.DOTALL)


def _to_host(host: str) -> str:
    try:
        return parse_host(host)
    except ParseError:
        # The host is not quoted: users may pass a whole URL here, with a password.
        raise InvalidProxy(host, "host must be a name, or an IP address without brackets") from None


def _check_types(scheme: object, host: object, port: object, username: object, password: object) -> None:
    # The errors do not show values: one of them is the password, and users may pass it in another place.
    text = (("scheme", scheme), ("host", host), ("username", username or ""), ("password", password or ""))
    for name, value in text:
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"port must be an int, not {type(port).__name__}")


def _to_headers(url: str, headers: HeadersLike) -> Headers:
    # The errors do not show values, which may be secret.
    try:
        checked = Headers(headers)
    except InvalidHeader as exc:
        raise InvalidProxy(url, f"the name and the value of the header {exc.name!r} must be valid") from None
    except TypeError:
        raise TypeError("headers must be a Headers, a mapping or an iterable of pairs of str") from None
    for name in checked:
        if name in _CONNECT_HEADERS:
            raise InvalidProxy(url, f"the header {name!r} must not be given: CONNECT sets it itself, or has none")
    return checked


def _hide_values(headers: Headers) -> str:
    return "{" + ", ".join(f"{name!r}: '***'" for name, _ in headers.raw_items()) + "}"


@attrs.frozen(init=False)
class Proxy:
    """A proxy. Make it from its URL, as :func:`parse_proxy` does, or from the parts of the URL.

    ::

        Proxy("http://proxy.example:3128", headers={"X-Tenant": "blue"})
        Proxy("http", "proxy.example", 3128, username="user", password="p@ss")

    Args:
        url: The URL of the proxy; see :func:`parse_proxy`.
        scheme: The protocol of the proxy: ``http``, ``https`` (HTTP inside TLS), ``socks4``, ``socks4a``, ``socks5`` or
            ``socks5h``. With ``socks4a`` and ``socks5h`` the proxy resolves the host name of the server, with
            ``socks4`` and ``socks5`` the client does.
        host: A host name, which is converted to lower-case ASCII, or an IP address without brackets.
        port: A port from 1 to 65535.
        username: The user name; None if the proxy needs no credentials.
        password: The password; None for none.
        headers: Additional headers for the CONNECT request, only for ``http`` and ``https``. They replace the default
            Proxy-Authorization and User-Agent headers. Neither ``repr`` nor an exception shows their values. The server
            does not get them. Host, Content-Length and Transfer-Encoding are not allowed.

    Raises:
        TypeError: If ``host`` and ``port`` are not given together, or an argument has the wrong type.
        InvalidProxy: If the URL, the scheme, the host, the port or a header is not valid, there are headers for a SOCKS
            proxy, or the protocol cannot transmit the credentials. HTTP
            allows no colon in the user name (RFC 7617, section 2). SOCKS 5 needs both a user name and a password, each
            of 1 to 255 ASCII characters (RFC 1929, section 2); SOCKS 4 has only a user name, in ASCII. Control
            characters are never allowed.
    """

    scheme: str
    host: str = attrs.field(converter=_to_host)
    port: int
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=lambda value: "None" if value is None else "'***'")
    headers: Headers = attrs.field(factory=Headers, kw_only=True, hash=False, repr=_hide_values)

    __repr__ = show_fields

    @overload
    def __init__(self, url: str, /, *, headers: HeadersLike = ()) -> None: ...
    @overload
    def __init__(
        self,
        scheme: str,
        host: str,
        port: int,
        username: str | None = None,
        password: str | None = None,
        *,
        headers: HeadersLike = (),
    ) -> None: ...

    def __init__(
        self,
        scheme: str,
        host: str | None = None,
        port: int | None = None,
        username: str | None = None,
        password: str | None = None,
        *,
        headers: HeadersLike = (),
    ) -> None:
        url = scheme
        if host is None and port is None and username is None and password is None:
            scheme, host, port, username, password = _parse(url)
        elif host is None or port is None:
            raise TypeError("a proxy must be made from its URL, or from a scheme, a host and a port")
        else:
            _check_types(scheme, host, port, username, password)
            url = f"{scheme}://{authority(host, port)}"
        self.__attrs_init__(scheme, host, port, username, password, headers=_to_headers(url, headers))

    def __attrs_post_init__(self) -> None:
        problem = self._find_problem()
        if problem is not None:
            raise InvalidProxy(self.url, problem)

    def _find_problem(self) -> str | None:
        """Return why the proxy is not valid, or None if it is."""
        if self.scheme not in DEFAULT_PORTS:
            return _WRONG_SCHEME
        if not 1 <= self.port <= 65535:
            return f"port must be between 1 and 65535, not {self.port}"
        if self.headers and self.is_socks:
            return "SOCKS has no headers"
        if self.username is None:
            return None if self.password is None else "it must not have a password without a user name"
        password = self.password or ""
        if not (self.username + password).isprintable():
            return "user name and password must not contain control characters"
        if not self.is_socks:
            return "the user name must not contain a colon (RFC 7617, section 2)" if ":" in self.username else None
        if not (self.username + password).isascii():
            return "with SOCKS, user name and password must be ASCII"
        if self.scheme in ("socks4", "socks4a"):
            return "SOCKS 4 has no passwords" if password else None
        if not (1 <= len(self.username) <= 255 and 1 <= len(password) <= 255):
            return "with SOCKS 5, user name and password must have 1 to 255 characters each (RFC 1929, section 2)"
        return None

    @property
    def is_socks(self) -> bool:
        """Whether the proxy speaks SOCKS rather than HTTP."""
        return self.scheme.startswith("socks")

    @property
    def url(self) -> str:
        """The URL of the proxy without the user name and password, safe to show in messages."""
        return f"{self.scheme}://{authority(self.host, self.port)}"


def parse_proxy(url: str) -> Proxy:
    """Parse and validate the URL of a proxy.

    Non-ASCII host names are encoded with IDNA 2008.

    Args:
        url: A URL such as ``http://proxy.example`` or ``socks5://user:password@proxy.example:1080``, with or without a
            slash at the end. User name and password are percent-encoded. The default ports are 80 for ``http``, 443 for
            ``https`` and 1080 for SOCKS.

    Raises:
        InvalidProxy: If the URL is not valid. Neither the message nor the attributes of the exception reveal the
            password.
    """
    return Proxy(url)


def _parse(url: str) -> tuple[str, str, int, str | None, str | None]:
    """Return the scheme, host, port, user name and password of a URL."""
    if not isinstance(url, str):
        raise InvalidProxy(repr(url), f"it must be a str, not {type(url).__name__}")
    # No "@" is possible after the host, so the credentials end at the last one. Even a malformed password is therefore
    # never mistaken for the host, which error messages quote.
    match = _URL.fullmatch(url)
    if match is None:
        raise InvalidProxy(url, "it must look like http://proxy.example:3128")
    scheme, user_info, host_and_port = match[1].lower(), match[2], match[3]
    username = password = None
    try:
        if scheme not in DEFAULT_PORTS:
            raise ParseError(_WRONG_SCHEME)
        host, port = parse_host_and_port(host_and_port, DEFAULT_PORTS[scheme])
        if user_info is not None:
            username, colon, password = user_info.partition(":")
            username = unquote_user_info(username)
            password = unquote_user_info(password) if colon else None
    except ParseError as exc:
        raise InvalidProxy(url, exc.args[0]) from None
    return scheme, host, port, username, password


def to_proxy(proxy: Proxy | str | None) -> Proxy | Literal["auto"] | None:
    """Convert the ``proxy`` option.

    Args:
        proxy: A proxy or its URL; ``"auto"`` to use :func:`find_proxy`; None for no proxy.

    Returns:
        The proxy, ``"auto"`` or None.

    Raises:
        InvalidProxy: If a str is neither ``"auto"`` nor the URL of a proxy.
        TypeError: If the value has another type.
    """
    if isinstance(proxy, str):
        return "auto" if proxy == "auto" else parse_proxy(proxy)
    if not (proxy is None or isinstance(proxy, Proxy)):
        raise TypeError(f"proxy must be a URL, a Proxy, 'auto' or None, not {type(proxy).__name__}")
    return proxy


def authority(host: str, port: int) -> str:
    """Return ``host:port`` for a URL, with an IPv6 address in brackets."""
    return f"{bracket_ipv6(host)}:{port}"
