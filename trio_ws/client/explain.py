"""What went wrong, in one line: of an exception, and of each address of a host."""

from __future__ import annotations

import os
import ssl
import sys

import trio

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

__all__ = ["explain", "explain_addresses"]


def explain(exc: BaseException) -> str:
    """Say in one line what went wrong. What is outermost often says only that something did."""
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
    """Say for each address of a host why it could not be connected to.

    The errors do not all tell where they are from. So the addresses are looked up once more.
    """
    errors = [each for each in _leaves(exc) if isinstance(each, OSError) and each.errno is not None]
    try:
        found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    except OSError:
        found = []
    addresses = {address[0]: address for *_, address in found if address[0] != host}
    if not addresses:
        return explain(exc)
    # Trio's own errors show the address as Python does; those that the system has at once are of the others.
    named = {
        name: [each for each in errors if each.strerror is not None and repr(address) in each.strerror]
        for name, address in addresses.items()
    }
    others = [each for each in errors if not any(each in found for found in named.values())]
    reasons = {name: _strerrors(found or others) for name, found in named.items()}
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason) or explain(exc)


def _leaves(exc: BaseException) -> list[BaseException]:
    """Return what an error is made of."""
    if isinstance(exc, BaseExceptionGroup):
        return [leaf for each in exc.exceptions for leaf in _leaves(each)]
    return [exc] if exc.__cause__ is None else _leaves(exc.__cause__)


def _strerrors(errors: list[OSError]) -> str:
    return " or ".join(dict.fromkeys(os.strerror(each.errno) for each in errors if each.errno is not None))
