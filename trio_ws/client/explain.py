"""One-line explanations of errors: ``explain``, ``explain_addresses``, ``find_tls_error``."""

from __future__ import annotations

import os
import re
import socket
import ssl
import sys

import trio

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

__all__ = ["explain", "explain_addresses", "find_tls_error"]

#: Seconds in which to look up a host name once more.
LOOKUP_TIMEOUT = 0.1

# The beginning of an error of Trio's sockets, which names the address as a tuple.
_CONNECTING = r"Error connecting to \('([^']*)'"

#: Explanations of errors of OpenSSL that users cannot know.
_TLS_HINTS = {
    "WRONG_VERSION_NUMBER": "the server does not speak TLS on this port",
    "HTTP_REQUEST": "the server does not speak TLS on this port",
    "UNKNOWN_PROTOCOL": "the server does not speak TLS on this port",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the server requires a client certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the server does not accept the client certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the server does not accept the client certificate",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "the server does not accept the client certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the server does not accept the client certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the server does not accept the client certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "the server does not accept the client certificate",
    "TLSV1_ALERT_ACCESS_DENIED": "the server does not accept the client certificate",
    "TLSV1_UNRECOGNIZED_NAME": "the server does not serve this host name",
}


def explain(exc: BaseException) -> str:
    """Return a one-line explanation of an exception, taken from its cause where there is one."""
    if isinstance(exc, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(explain(each) for each in exc.exceptions))
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {exc.verify_message}"
    if exc.__cause__ is not None:
        return explain(exc.__cause__)
    if isinstance(exc, ssl.SSLError) and (reason := getattr(exc, "reason", None)):
        text = reason.lower().replace("_", " ")
        return f"{text}: {_TLS_HINTS[reason]}" if reason in _TLS_HINTS else text
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return str(exc) or type(exc).__name__


async def explain_addresses(exc: OSError, host: str, port: int) -> str:
    """Return a one-line explanation of why connecting failed, for each address of a host.

    Trio names the address in most errors. If the system refuses an address at once, its error does not name it. Only
    then the host is resolved again, unless that takes time, to tell which addresses are left.

    Args:
        exc: The error of :func:`trio.open_tcp_stream`.
        host: The host name or IP address.
        port: The port.
    """
    errors = [each for each in _root_causes(exc) if isinstance(each, OSError) and each.errno is not None]
    if not errors or any(isinstance(each, socket.gaierror) for each in errors):
        return explain(exc)
    reasons: dict[str, list[str]] = {}
    unnamed = []
    for each in errors:
        reason = os.strerror(each.errno or 0)
        if match := re.match(_CONNECTING, each.strerror or ""):
            reasons.setdefault(match[1], []).append(reason)
        else:
            unnamed.append(reason)
    if unnamed:
        for address in await _look_up(host, port):
            reasons.setdefault(address, unnamed)
        if not any(each is unnamed for each in reasons.values()):
            return explain(exc)
    if list(reasons) == [host]:
        return " or ".join(dict.fromkeys(reasons[host]))
    return "; ".join(f"{address}: {' or '.join(dict.fromkeys(each))}" for address, each in reasons.items())


async def _look_up(host: str, port: int) -> list[str]:
    """Return the addresses of a host; none if that takes long or fails."""
    now = trio.current_time()
    # Use at most half of the time until the enclosing timeout, which would replace this error by a less useful one.
    with trio.move_on_at(min(now + LOOKUP_TIMEOUT, (now + trio.current_effective_deadline()) / 2)):
        try:
            infos = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
        except OSError:
            return []
        return [str(sockaddr[0]) for *_, sockaddr in infos]
    return []


def _root_causes(exc: BaseException) -> list[BaseException]:
    """Return the exceptions at the ends of all groups and chains of causes."""
    if isinstance(exc, BaseExceptionGroup):
        return [cause for each in exc.exceptions for cause in _root_causes(each)]
    return [exc] if exc.__cause__ is None else _root_causes(exc.__cause__)


def find_tls_error(exc: BaseException | None) -> ssl.SSLError | None:
    """Return the TLS error in a chain of causes, or None.

    It is an error that TLS itself has found or reported. The loss of the connection below is not.
    """
    while exc is not None:
        if isinstance(exc, ssl.SSLError):
            lost = (ssl.SSLEOFError, ssl.SSLSyscallError, ssl.SSLZeroReturnError)
            return None if isinstance(exc, lost) else exc
        exc = exc.__cause__
    return None
