"""Proxies, and their URLs: ``Proxy``, ``parse_proxy``."""

from __future__ import annotations

import re
from typing import Literal

import attrs

from ...exceptions import InvalidProxy
from ...uri import Invalid, parse_host_and_port, unquote_user_info

__all__ = ["Proxy", "authority", "parse_proxy", "to_proxy"]

DEFAULT_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}

_SCHEMES = "the scheme is http, https, socks4, socks4a, socks5 or socks5h"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://(?:(.*)@)?([^@]*?)/?", re.DOTALL)


def _to_host(host: str) -> str:
    try:
        return parse_host_and_port(f"[{host}]" if ":" in host else host, 1)[0]
    except Invalid:
        # Nothing is quoted: this may be a whole URL.
        raise InvalidProxy(host, "the host is a name, or an IP address without brackets") from None


@attrs.frozen
class Proxy:
    """A proxy.

    Args:
        scheme: What it speaks: ``http``, ``https`` (that is HTTP inside TLS), ``socks4``, ``socks4a``, ``socks5`` or
            ``socks5h``. With ``socks4a`` and ``socks5h`` the proxy looks up the name of the server, with ``socks4`` and
            ``socks5`` we do.
        host: A name, which becomes ASCII in lower case, or an IP address without brackets.
        port: From 1 to 65535.
        username: None if it needs no credentials.
        password: None if there is none.

    Raises:
        InvalidProxy: if scheme, host or port are none of these, or if there is no way to send such credentials. HTTP
            cannot have a colon in the user name (RFC 7617, section 2). SOCKS 5 has both, ASCII only, of 1 to 255
            characters (RFC 1929, section 2), SOCKS 4 only a user name in ASCII. Control characters go nowhere.
    """

    scheme: str
    host: str = attrs.field(converter=_to_host)
    port: int
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=lambda value: "None" if value is None else "'***'")

    def __attrs_post_init__(self) -> None:
        reason = self._find_fault()
        if reason is not None:
            raise InvalidProxy(self.url, reason)

    def _find_fault(self) -> str | None:
        if self.scheme not in DEFAULT_PORTS:
            return _SCHEMES
        if not 1 <= self.port <= 65535:
            return "the port is a number from 1 to 65535"
        if self.username is None:
            return None if self.password is None else "it has a password without a user name"
        password = self.password or ""
        if not (self.username + password).isprintable():
            return "no user name and no password has control characters"
        if not self.is_socks:
            return "a user name has no colon (RFC 7617, section 2)" if ":" in self.username else None
        if not (self.username + password).isascii():
            return "with SOCKS, user name and password are ASCII"
        if self.scheme in ("socks4", "socks4a"):
            return "SOCKS 4 has no passwords" if password else None
        if not (1 <= len(self.username) <= 255 and 1 <= len(password) <= 255):
            return "with SOCKS 5, user name and password have 1 to 255 characters each (RFC 1929, section 2)"
        return None

    @property
    def is_socks(self) -> bool:
        """Whether it is asked with SOCKS, and not with HTTP."""
        return self.scheme.startswith("socks")

    @property
    def url(self) -> str:
        """The URL of the proxy, without user name and password, for messages."""
        return f"{self.scheme}://{authority(self.host, self.port)}"


def parse_proxy(url: str) -> Proxy:
    """Parse and validate the URL of a proxy.

    Host names that are not ASCII are encoded with IDNA 2008.

    Args:
        url: Scheme and host, such as ``http://proxy.example``; with user name, password and port
            ``socks5://user:password@proxy.example:1080``. User name and password are percent-encoded. The default ports
            are 80 for ``http``, 443 for ``https`` and 1080 for SOCKS. A slash may follow.

    Raises:
        InvalidProxy: if it is not valid, whatever the reason. Neither its message nor its attributes have the password.
    """
    if not isinstance(url, str):
        raise InvalidProxy(repr(url), f"it is not a str but {type(url).__name__}")
    # There is nothing behind the host that could have an "@", so that whatever is wrong with a password, it is not
    # taken for something else, and quoted.
    match = _URL.fullmatch(url)
    if match is None:
        raise InvalidProxy(url, "it is not like http://proxy.example:3128")
    scheme, user_info, host_and_port = match[1].lower(), match[2], match[3]
    username = password = None
    try:
        if scheme not in DEFAULT_PORTS:
            raise Invalid(_SCHEMES)
        host, port = parse_host_and_port(host_and_port, DEFAULT_PORTS[scheme])
        if user_info is not None:
            username, colon, password = user_info.partition(":")
            username = unquote_user_info(username)
            password = unquote_user_info(password) if colon else None
    except Invalid as exc:
        raise InvalidProxy(url, exc.args[0]) from None
    return Proxy(scheme, host, port, username, password)


def to_proxy(proxy: Proxy | str | None) -> Proxy | Literal["auto"] | None:
    """Convert the ``proxy`` option.

    Args:
        proxy: The proxy or its URL, ``"auto"``, or None.

    Returns:
        The proxy, ``"auto"`` if that is to be asked of :func:`find_proxy`, or None for no proxy.

    Raises:
        InvalidProxy: if that is no URL of a proxy.
        TypeError: if it is something else.
    """
    if isinstance(proxy, str):
        return "auto" if proxy == "auto" else parse_proxy(proxy)
    if not (proxy is None or isinstance(proxy, Proxy)):
        raise TypeError(f"proxy is a URL, a Proxy, 'auto' or None, not {proxy!r}")
    return proxy


def authority(host: str, port: int) -> str:
    """Return host and port as a URL has them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
