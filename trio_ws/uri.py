"""WebSocket URIs (RFC 6455, section 3; RFC 3986)."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse

import attrs
import idna

from .exceptions.addresses import InvalidURI

__all__ = ["WebSocketURI", "is_unix", "parse_unix_uri", "parse_uri"]

DEFAULT_PORTS = {"ws": 80, "wss": 443}

# The characters that RFC 3986 lets stand for themselves, in user information, in a host name, and in a path
# or query. What else is ASCII is an error; what is not ASCII is encoded.
_USER_INFO_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:%]*")
_HOST_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=]+")
_PATH_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@/?%]*")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNIX = re.compile(r"(wss?)\+unix:(?://(?=/))?(?!//)([^:?]+)(?::(.*))?", re.DOTALL | re.IGNORECASE)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):(.*)", re.DOTALL)


@attrs.frozen
class WebSocketURI:
    """The parts of a WebSocket URI, ready for use.

    Attributes:
        secure: True for a ``wss`` URI, False for a ``ws`` URI.
        host: A name in lower case and ASCII, or an IP address without brackets.
        port: Always set, even if it is the default.
        path: May be empty.
        query: Without the question mark; may be empty.
        username: Decoded; None if the URI has no user information.
        password: Decoded; None if the URI has no user information.
    """

    secure: bool
    host: str
    port: int
    path: str
    query: str
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=lambda value: "None" if value is None else "'***'")

    @property
    def resource_name(self) -> str:
        """What a request asks for: the path, at least ``/``, and the query (RFC 6455, section 3)."""
        return (self.path or "/") + (f"?{self.query}" if self.query else "")

    @property
    def user_info(self) -> tuple[str, str] | None:
        """User name and password, or None."""
        if self.username is None:
            return None
        return self.username, self.password or ""

    @property
    def host_header(self) -> str:
        """The value of the Host header: IPv6 in brackets, the port only when it is not the default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS["wss" if self.secure else "ws"] else f"{host}:{self.port}"


def parse_uri(uri: str) -> WebSocketURI:
    """Parse and validate a WebSocket URI.

    Host names that are not ASCII are encoded with IDNA 2008, paths and queries that are not ASCII as UTF-8
    with percent signs; what is encoded already stays as it is.

    Args:
        uri: A WebSocket URI, such as ``wss://user:password@example.org:8443/path?query``.

    Raises:
        InvalidURI: if it is not valid, whatever the reason.
    """
    if not isinstance(uri, str):
        raise InvalidURI(uri, f"it is not a str but {type(uri).__name__}")
    try:
        return _parse(uri)
    except Invalid as exc:
        raise InvalidURI(uri, exc.args[0]) from exc.__cause__


def is_unix(uri: str) -> bool:
    """Whether a URI is one for a WebSocket over a Unix socket."""
    return uri.lower().startswith(("ws+unix:", "wss+unix:"))


def parse_unix_uri(uri: str) -> tuple[str, WebSocketURI]:
    """Parse the URI of a WebSocket over a Unix socket: ``ws+unix:/run/app.sock:/path?query``.

    No standard knows these. The part behind the second colon can be left out. The host is ``localhost``.

    Args:
        uri: A URI with the scheme ``ws+unix`` or ``wss+unix``. A colon, a question mark and a percent sign in the name
            of the file are percent-encoded.

    Returns:
        The name of the socket's file, and the URI to ask for.

    Raises:
        InvalidURI: if it is not valid.
    """
    match = _UNIX.fullmatch(uri)
    if match is None:
        raise InvalidURI(uri, "it is not like ws+unix:/run/app.sock:/path")
    scheme, file, resource = match.groups()
    if "\0" in (path := urllib.parse.unquote(file)):
        raise InvalidURI(uri, "no file has a NUL in its name")
    if resource and not resource.startswith(("/", "?")):
        raise InvalidURI(uri, "the path behind the name of the socket starts with a slash")
    try:
        return path, parse_uri(f"{scheme}://localhost{resource or ''}")
    except InvalidURI as exc:
        raise InvalidURI(uri, exc.reason) from exc


class Invalid(Exception):
    """What is wrong, for :func:`parse_uri` to report together with the URI."""


def _parse(uri: str) -> WebSocketURI:
    for character in uri:
        if character <= " " or character == "\x7f":
            raise Invalid(f"the character {character!r} must be percent-encoded")
    scheme, rest = _split_scheme(uri)
    if "#" in rest:
        raise Invalid("a WebSocket URI has no fragment (RFC 6455, section 3)")
    if not rest.startswith("//"):
        raise Invalid("it has no host")
    rest, _, query = rest[2:].partition("?")
    authority, slash, path = rest.partition("/")
    user_info, at, host_and_port = authority.rpartition("@")
    username, password = _parse_user_info(user_info) if at else (None, None)
    host, port = parse_host_and_port(host_and_port, DEFAULT_PORTS[scheme])
    return WebSocketURI(
        secure=scheme == "wss",
        host=host,
        port=port,
        path=_quote(slash + path, "path", _PATH_CHARACTERS),
        query=_quote(query, "query", _PATH_CHARACTERS),
        username=username,
        password=password,
    )


def _split_scheme(uri: str) -> tuple[str, str]:
    match = _SCHEME.fullmatch(uri)
    if match is None:
        raise Invalid("it has no scheme")
    scheme = match[1].lower()
    if scheme not in DEFAULT_PORTS:
        raise Invalid(f"the scheme is ws or wss, not {match[1]}")
    return scheme, match[2]


def _parse_user_info(user_info: str) -> tuple[str, str]:
    username, colon, password = user_info.partition(":")
    if not colon:
        raise Invalid("it has a user name without a password")
    return unquote_user_info(username), unquote_user_info(password)


def unquote_user_info(text: str) -> str:
    quoted = _quote(text, "user information", _USER_INFO_CHARACTERS)
    try:
        return urllib.parse.unquote(quoted, errors="strict")
    except UnicodeDecodeError as exc:
        raise Invalid("the percent-encoding in the user information is not UTF-8") from exc


def parse_host_and_port(text: str, default_port: int) -> tuple[str, int]:
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise Invalid("the brackets around an IPv6 address do not match")
        host = _parse_ipv6(address)
        port = rest[1:]
    else:
        host, _, port = text.partition(":")
        host = _parse_host(host)
    if not port:
        return host, default_port
    # No more than five digits, without leading zeros: int() of a very long string is slow, or refused.
    digits = port.lstrip("0")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and int(digits) <= 65535):
        raise Invalid(f"the port is a number from 1 to 65535, not {port!r}")
    return host, int(digits)


def _parse_ipv6(address: str) -> str:
    try:
        # Also refuses what RFC 6874 calls a zone: it means something on this machine only.
        if "%" in address:
            raise ValueError("a zone is not allowed")
        return str(ipaddress.IPv6Address(address))
    except ValueError as exc:
        raise Invalid(f"{address!r} is not an IPv6 address") from exc


def _parse_host(host: str) -> str:
    if not host:
        raise Invalid("it has no host")
    if "%" in host:
        if _BAD_ESCAPE.search(host):
            raise Invalid("a percent sign in the host is not followed by two hexadecimal digits")
        try:
            host = urllib.parse.unquote(host, errors="strict")
        except UnicodeDecodeError as exc:
            raise Invalid("the percent-encoding in the host is not UTF-8") from exc
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode()
        except UnicodeError as exc:
            raise Invalid(f"the host {host!r} has no IDNA encoding: {exc}") from exc
    if not _HOST_CHARACTERS.fullmatch(host):
        raise Invalid(f"the host {host!r} has a character that no host has")
    if any(len(label) > 63 for label in host.split(".")) or len(host.removesuffix(".")) > 253:
        raise Invalid("a host has at most 253 characters, 63 between two dots")
    if host.startswith(".") or ".." in host:
        raise Invalid(f"a label of the host {host!r} is empty")
    return host.lower()


def _quote(text: str, what: str, allowed: re.Pattern[str]) -> str:
    if _BAD_ESCAPE.search(text):
        raise Invalid(f"a percent sign in the {what} is not followed by two hexadecimal digits")
    try:
        quoted = "".join(c if c.isascii() else urllib.parse.quote(c, safe="") for c in text)
    except UnicodeEncodeError as exc:
        raise Invalid(f"the {what} cannot be encoded as UTF-8") from exc
    if not allowed.fullmatch(quoted):
        raise Invalid(f"the {what} has a character that must be percent-encoded")
    return quoted
