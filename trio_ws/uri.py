"""WebSocket URIs (RFC 6455, section 3; RFC 3986)."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse

import attrs
import idna

from .exceptions.addresses import InvalidURI
from .exceptions.shown import show_fields

__all__ = ["WebSocketURI", "bracket_ipv6", "is_unix", "parse_unix_uri", "parse_uri"]

DEFAULT_PORTS = {"ws": 80, "wss": 443}

# The characters that RFC 3986 allows unescaped in user information, and in a host name. Any other ASCII character is an
# error there; non-ASCII characters are encoded.
_USER_INFO_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:%]*")
_HOST_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=]+")
# The characters that RFC 3986 allows unescaped in a path or query, besides letters, digits and "-._~". All others are
# encoded there: many services document URIs with brackets, and servers redirect to them.
_PATH_CHARACTERS = "!$&'()*+,;=:@/?%"
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
# The zone of an IPv6 address (RFC 6874), decoded.
_ZONE = re.compile(r"[!-~]+")
_UNIX = re.compile(r"(wss?)\+unix:(?://(?=/))?(?!//)([^:?]+)(?::(.*))?", re.DOTALL | re.IGNORECASE)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):(.*)", re.DOTALL)


@attrs.frozen
class WebSocketURI:
    """The parts of a parsed WebSocket URI.

    Attributes:
        secure: True for a ``wss`` URI, False for a ``ws`` URI.
        host: The host name in lower-case ASCII, or an IP address without brackets. An IPv6 address may have a zone
            (RFC 6874), as in ``fe80::1%eth0``.
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

    __repr__ = show_fields

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
    def host_without_zone(self) -> str:
        """The host without the zone of an IPv6 address, which has no meaning on other machines."""
        return self.host.partition("%")[0]

    @property
    def host_header(self) -> str:
        """The Host header value: an IPv6 address in brackets without its zone; the port unless it is the default."""
        host = bracket_ipv6(self.host_without_zone)
        return host if self.port == DEFAULT_PORTS["wss" if self.secure else "ws"] else f"{host}:{self.port}"


def bracket_ipv6(host: str) -> str:
    """Return a host as it is written before a port: an IPv6 address in brackets (RFC 3986, section 3.2.2)."""
    return f"[{host}]" if ":" in host else host


def parse_uri(uri: str) -> WebSocketURI:
    """Parse and validate a WebSocket URI.

    Non-ASCII host names are encoded with IDNA 2008. In the path and query, characters that a URI must not contain are
    percent-encoded, as browsers do: spaces, quotes, brackets, braces, ``|``, ``^``, a percent sign without two
    hexadecimal digits, and, as UTF-8, non-ASCII characters. Existing percent-encoding is kept. Control characters are
    refused, and so is a backslash in the path, which browsers take for a slash.

    Args:
        uri: A WebSocket URI, such as ``wss://user:password@example.org:8443/path?query``. An IPv6 address may have a
            zone, as in ``ws://[fe80::1%25eth0]/`` (RFC 6874). It is used to connect, but not sent to the server.

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
    if "\0" in (path := urllib.parse.unquote(file, errors="surrogateescape")):
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
    if control_character := _CONTROL_CHARACTER.search(uri):
        raise ParseError(f"the character {control_character[0]!r} must be percent-encoded")
    if uri != uri.strip(" "):
        raise ParseError("it must not begin or end with a space")
    scheme, rest = _split_scheme(uri)
    if "#" in rest:
        raise ParseError("it must not have a fragment (RFC 6455, section 3)")
    if not rest.startswith("//"):
        raise ParseError("it has no host")
    rest, _, query = rest[2:].partition("?")
    authority, slash, path = rest.partition("/")
    user_info, at, host_and_port = authority.rpartition("@")
    username, password = _parse_user_info(user_info) if at else (None, None)
    try:
        host, port = parse_host_and_port(host_and_port, DEFAULT_PORTS[scheme])
    except ParseError as exc:
        if not at and "@" in path + query:
            # The apparent host and port are a user name and a part of a password, which must not be shown.
            raise ParseError("a slash or a question mark in the user information must be percent-encoded") from None
        raise ParseError(exc.args[0]) from exc.__cause__
    return WebSocketURI(
        secure=scheme == "wss",
        host=host,
        port=port,
        path=_quote_path(slash + path),
        query=_quote(query, "query"),
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
    if _BAD_ESCAPE.search(text):
        raise ParseError("a percent sign in the user information is not followed by two hexadecimal digits")
    if not _USER_INFO_CHARACTERS.fullmatch("".join(filter(str.isascii, text))):
        raise ParseError("the user information contains a character that must be percent-encoded")
    _quote(text, "user information")  # raises if it cannot be encoded
    try:
        return urllib.parse.unquote(text, errors="strict")
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


def parse_host(text: str) -> str:
    """Parse and validate a host name, or an IP address without brackets.

    Raises:
        ParseError: If it is neither.
    """
    return parse_host_and_port(f"[{text.replace('%', '%25', 1)}]" if ":" in text else text, 1)[0]


def _parse_ipv6(text: str) -> str:
    address, percent, zone = text.partition("%")
    try:
        parsed = str(ipaddress.IPv6Address(address))
    except ValueError as exc:
        raise ParseError(f"{text!r} is not an IPv6 address") from exc
    if not percent:
        return parsed
    if not zone.startswith("25"):
        raise ParseError("the zone of an IPv6 address must be separated by %25 (RFC 6874)")
    zone = zone.removeprefix("25")
    if _BAD_ESCAPE.search(zone):
        raise ParseError("a percent sign in the zone of the IPv6 address is not followed by two hexadecimal digits")
    zone = urllib.parse.unquote(zone, errors="replace")
    if not _ZONE.fullmatch(zone) or set(zone) & set("%/?#@[]\\"):
        raise ParseError(f"the zone {zone!r} of the IPv6 address is not valid")
    return f"{parsed}%{zone}"


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


def _quote_path(path: str) -> str:
    if "\\" in path:
        raise ParseError("a backslash in the path must be percent-encoded")
    return _quote(path, "path")


def _quote(text: str, component: str) -> str:
    """Percent-encode what a path or query must not contain. Existing percent-encoding is kept."""
    try:
        return urllib.parse.quote(_BAD_ESCAPE.sub("%25", text), safe=_PATH_CHARACTERS, errors="strict")
    except UnicodeEncodeError as exc:
        raise ParseError(f"the {component} cannot be encoded as UTF-8") from exc
