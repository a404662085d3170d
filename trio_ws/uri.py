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

# The characters that RFC 3986 allows unescaped in user information, in a host name, and in a path or query. Any other
# ASCII character is an error; non-ASCII characters are encoded.
_USER_INFO_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:%]*")
_HOST_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=]+")
_PATH_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@/?%]*")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNIX = re.compile(r"(wss?)\+unix:(?://(?=/))?(?!//)([^:?]+)(?::(.*))?", re.DOTALL | re.IGNORECASE)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):(.*)", re.DOTALL)


@attrs.frozen
class WebSocketURI:
    """The parts of a parsed WebSocket URI.

    Attributes:
        secure: True for a ``wss`` URI, False for a ``ws`` URI.
        host: The host name in lower-case ASCII, or an IP address without brackets.
        port: The port; the default port of the scheme if the URI has none.
        path: The path; may be empty.
        query: The query without the question mark; may be empty.
        username: The decoded user name; None if the URI has no user information.
        password: The decoded password; None if the URI has no user information.
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
        """The request target: the path, or ``/`` if it is empty, and the query (RFC 6455, section 3)."""
        return (self.path or "/") + (f"?{self.query}" if self.query else "")

    @property
    def user_info(self) -> tuple[str, str] | None:
        """The user name and password, or None."""
        if self.username is None:
            return None
        return self.username, self.password or ""

    @property
    def host_header(self) -> str:
        """The Host header value: an IPv6 address in brackets, and the port unless it is the default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS["wss" if self.secure else "ws"] else f"{host}:{self.port}"


def parse_uri(uri: str) -> WebSocketURI:
    """Parse and validate a WebSocket URI.

    Non-ASCII host names are encoded with IDNA 2008; non-ASCII characters in the path and query are percent-encoded as
    UTF-8. Existing percent-encoding is kept.

    Args:
        uri: A WebSocket URI, such as ``wss://user:password@example.org:8443/path?query``.

    Raises:
        InvalidURI: If the URI is not valid.
    """
    if not isinstance(uri, str):
        raise InvalidURI(uri, f"it must be a str, not {type(uri).__name__}")
    try:
        return _parse(uri)
    except ParseError as exc:
        raise InvalidURI(uri, exc.args[0]) from exc.__cause__


def is_unix(uri: str) -> bool:
    """Return whether a URI has the scheme ``ws+unix`` or ``wss+unix``."""
    return uri.lower().startswith(("ws+unix:", "wss+unix:"))


def parse_unix_uri(uri: str) -> tuple[str, WebSocketURI]:
    """Parse the URI of a WebSocket over a Unix socket, such as ``ws+unix:/run/app.sock:/path?query``.

    No standard defines these URIs. The second colon and everything after it are optional. The host is ``localhost``.

    Args:
        uri: A URI with the scheme ``ws+unix`` or ``wss+unix``. Colons, question marks and percent signs in the file
            name of the socket must be percent-encoded.

    Returns:
        The file name of the socket, and the URI to request.

    Raises:
        InvalidURI: If the URI is not valid.
    """
    match = _UNIX.fullmatch(uri)
    if match is None:
        raise InvalidURI(uri, "it must look like ws+unix:/run/app.sock:/path")
    scheme, file, resource = match.groups()
    if "\0" in (path := urllib.parse.unquote(file)):
        raise InvalidURI(uri, "the file name of the socket must not contain a NUL")
    if resource and not resource.startswith(("/", "?")):
        raise InvalidURI(uri, "the path after the second colon must start with a slash")
    try:
        return path, parse_uri(f"{scheme}://localhost{resource or ''}")
    except InvalidURI as exc:
        raise InvalidURI(uri, exc.reason) from exc


class ParseError(Exception):
    """The reason why a URI is invalid. Callers turn it into an exception that also names the URI."""


def _parse(uri: str) -> WebSocketURI:
    for character in uri:
        if character <= " " or character == "\x7f":
            raise ParseError(f"the character {character!r} must be percent-encoded")
    scheme, rest = _split_scheme(uri)
    if "#" in rest:
        raise ParseError("it must not have a fragment (RFC 6455, section 3)")
    if not rest.startswith("//"):
        raise ParseError("it has no host")
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
        raise ParseError("it has no scheme")
    scheme = match[1].lower()
    if scheme not in DEFAULT_PORTS:
        raise ParseError(f"the scheme must be ws or wss, not {match[1]}")
    return scheme, match[2]


def _parse_user_info(user_info: str) -> tuple[str, str]:
    username, colon, password = user_info.partition(":")
    if not colon:
        raise ParseError("the user name must be followed by a colon and a password")
    return unquote_user_info(username), unquote_user_info(password)


def unquote_user_info(text: str) -> str:
    """Decode a user name or a password.

    Raises:
        ParseError: If it is not valid.
    """
    quoted = _quote(text, "user information", _USER_INFO_CHARACTERS)
    try:
        return urllib.parse.unquote(quoted, errors="strict")
    except UnicodeDecodeError as exc:
        raise ParseError("the percent-encoding in the user information is not UTF-8") from exc


def parse_host_and_port(text: str, default_port: int) -> tuple[str, int]:
    """Parse and validate ``host`` or ``host:port``.

    Raises:
        ParseError: If the host or the port is not valid.
    """
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ParseError("the brackets around an IPv6 address do not match")
        host = _parse_ipv6(address)
        port = rest[1:]
    else:
        host, _, port = text.partition(":")
        host = _parse_host(host)
    if not port:
        return host, default_port
    # Count the digits before calling int(), which is slow for very long strings, or refuses them.
    digits = port.lstrip("0")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and int(digits) <= 65535):
        raise ParseError(f"the port must be between 1 and 65535, not {port!r}")
    return host, int(digits)


def _parse_ipv6(address: str) -> str:
    try:
        # A zone (RFC 6874) has a meaning on this machine only, and ipaddress would accept it.
        if "%" in address:
            raise ValueError("the address must not have a zone")
        return str(ipaddress.IPv6Address(address))
    except ValueError as exc:
        raise ParseError(f"{address!r} is not an IPv6 address") from exc


def _parse_host(host: str) -> str:
    if not host:
        raise ParseError("it has no host")
    if "%" in host:
        if _BAD_ESCAPE.search(host):
            raise ParseError("a percent sign in the host is not followed by two hexadecimal digits")
        try:
            host = urllib.parse.unquote(host, errors="strict")
        except UnicodeDecodeError as exc:
            raise ParseError("the percent-encoding in the host is not UTF-8") from exc
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode()
        except UnicodeError as exc:
            raise ParseError(f"the host {host!r} cannot be encoded with IDNA: {exc}") from exc
    if not _HOST_CHARACTERS.fullmatch(host):
        raise ParseError(f"the host {host!r} contains a character that is not allowed in host names")
    if any(len(label) > 63 for label in host.split(".")) or len(host.removesuffix(".")) > 253:
        raise ParseError("the host must have at most 253 characters, and at most 63 between two dots")
    if host.startswith(".") or ".." in host:
        raise ParseError(f"the host {host!r} has an empty label")
    return host.lower()


def _quote(text: str, component: str, allowed: re.Pattern[str]) -> str:
    """Percent-encode the non-ASCII characters of a URI component, and check the others."""
    if _BAD_ESCAPE.search(text):
        raise ParseError(f"a percent sign in the {component} is not followed by two hexadecimal digits")
    try:
        quoted = "".join(c if c.isascii() else urllib.parse.quote(c, safe="") for c in text)
    except UnicodeEncodeError as exc:
        raise ParseError(f"the {component} cannot be encoded as UTF-8") from exc
    if not allowed.fullmatch(quoted):
        raise ParseError(f"the {component} contains a character that must be percent-encoded")
    return quoted
