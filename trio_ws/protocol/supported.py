"""The extensions that an end supports: the ``extensions`` option, and compression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..misuse.values import to_tuple
from .deflate import Deflate, DeflateClient, DeflateServer
from .deflate.transform import load_back_end
from .extensions import ClientExtension, ServerExtension
from .grammar import is_token

__all__ = ["check_client_extensions", "check_server_extensions", "client_extensions", "server_extensions"]


def check_client_extensions(extensions: Sequence[ClientExtension]) -> tuple[ClientExtension, ...]:
    """Validate the ``extensions`` option of a client, and return it as a tuple.

    Raises:
        TypeError: If it is not a sequence of client extensions.
        ValueError: If a name is not a token, or occurs twice.
    """
    return _check(extensions, "ClientExtension", "offers", "accept")


def check_server_extensions(extensions: Sequence[ServerExtension]) -> tuple[ServerExtension, ...]:
    """Validate the ``extensions`` option of a server, and return it as a tuple.

    Raises:
        TypeError: If it is not a sequence of server extensions.
        ValueError: If a name is not a token, or occurs twice.
    """
    return _check(extensions, "ServerExtension", "answer")


def client_extensions(extensions: tuple[ClientExtension, ...], compression: Deflate | None) -> list[ClientExtension]:
    """Return the extensions that a client offers: compression comes last, so it is applied last.

    Raises:
        ValueError: If one of the extensions is compression, too.
    """
    return [*extensions] if compression is None else _append(extensions, DeflateClient(compression))


def server_extensions(extensions: tuple[ServerExtension, ...], compression: Deflate | None) -> list[ServerExtension]:
    """Return the extensions that a server accepts.

    Raises:
        ValueError: If one of the extensions is compression, too.
    """
    return [*extensions] if compression is None else _append(extensions, DeflateServer(compression))


def _check(extensions: Any, kind: str, *methods: str) -> tuple[Any, ...]:
    checked = to_tuple("extensions", extensions, f"a sequence of {kind} objects", ordered=True)
    for extension in checked:
        name = getattr(extension, "name", None)
        if isinstance(extension, type) or not all(callable(getattr(extension, method, None)) for method in methods):
            raise TypeError(f"each of extensions must be a {kind}, not {extension!r}")
        if not isinstance(name, str):
            raise TypeError(f"the name of an extension must be a str, not {name!r}")
        if not is_token(name):
            raise ValueError(f"the name of an extension must be a token (RFC 9110, section 5.6.2), not {name!r}")
    names = [extension.name for extension in checked]
    if len(set(names)) < len(names):
        raise ValueError(f"the names of extensions must be unique, not {names!r}")
    return checked


def _append(extensions: tuple[Any, ...], deflate: DeflateClient | DeflateServer) -> list[Any]:
    if any(extension.name == deflate.name for extension in extensions):
        raise ValueError(f"compression must be None if {deflate.name!r} is one of extensions")
    load_back_end()  # now, so that the first opening handshake does not have to
    return [*extensions, deflate]
