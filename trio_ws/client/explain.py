"""One-line explanations of errors: ``explain``, ``explain_addresses``."""

from __future__ import annotations

import os
import ssl
import sys

import trio

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

__all__ = ["explain", "explain_addresses"]


def explain(exc: BaseException) -> str:
    """Return a one-line explanation of an exception, taken from its cause where there is one."""
    if isinstance(exc, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(explain(each) for each in exc.exceptions))
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {exc.verify_message}"
    if exc.__cause__ is not None:
        return explain(exc.__cause__)
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return str(exc) or type(exc).__name__


async def explain_addresses(exc: OSError, host: str, port: int) -> str:
    """Return a one-line explanation of why connecting failed, for each address of a host.

    Some of the errors do not name the address they belong to. Resolving the host again tells which addresses there are.

    Args:
        exc: The error of :func:`trio.open_tcp_stream`.
        host: The host name or IP address.
        port: The port.
    """
    errors = [each for each in _root_causes(exc) if isinstance(each, OSError) and each.errno is not None]
    try:
        infos = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    except OSError:
        infos = []
    addresses = {address[0]: address for *_, address in infos if address[0] != host}
    if not addresses:
        return explain(exc)
    # Trio puts the repr of the address into the errors that it raises itself. The remaining errors come straight from
    # the system, and belong to the remaining addresses.
    errors_by_address = {
        text: [each for each in errors if each.strerror is not None and repr(address) in each.strerror]
        for text, address in addresses.items()
    }
    others = [each for each in errors if not any(each in own for own in errors_by_address.values())]
    reasons = {text: _strerrors(own or others) for text, own in errors_by_address.items()}
    return "; ".join(f"{text}: {reason}" for text, reason in reasons.items() if reason) or explain(exc)


def _root_causes(exc: BaseException) -> list[BaseException]:
    """Return the exceptions at the ends of all groups and chains of causes."""
    if isinstance(exc, BaseExceptionGroup):
        return [cause for each in exc.exceptions for cause in _root_causes(each)]
    return [exc] if exc.__cause__ is None else _root_causes(exc.__cause__)


def _strerrors(errors: list[OSError]) -> str:
    return " or ".join(dict.fromkeys(os.strerror(each.errno) for each in errors if each.errno is not None))
