"""The extensions that an end supports: the checks of the option, and the order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from trio_ws.protocol.deflate import Deflate, DeflateClient, DeflateServer
from trio_ws.protocol.extensions import Extension, Params
from trio_ws.protocol.supported import (
    check_client_extensions,
    check_server_extensions,
    client_extensions,
    server_extensions,
)


class Client:
    """An extension of a client that is never negotiated."""

    def __init__(self, name: Any = "x-client") -> None:
        self.name = name

    def offers(self) -> Sequence[Params]:
        raise AssertionError

    def accept(self, params: Params) -> Extension:
        raise AssertionError


class Server:
    """An extension of a server that is never negotiated."""

    def __init__(self, name: Any = "x-server") -> None:
        self.name = name

    def answer(self, params: Params) -> tuple[Params, Extension] | None:
        raise AssertionError


def test_the_extensions_of_the_application_come_before_compression() -> None:
    client, server = Client(), Server()
    assert check_client_extensions([client]) == (client,)
    assert check_server_extensions([server]) == (server,)
    assert client_extensions((client,), None) == [client]
    assert server_extensions((server,), None) == [server]
    offered = client_extensions((client,), Deflate())
    assert (offered[0], [type(each) for each in offered]) == (client, [Client, DeflateClient])
    accepted = server_extensions((server,), Deflate())
    assert (accepted[0], [type(each) for each in accepted]) == (server, [Server, DeflateServer])


def test_compression_must_not_be_there_twice() -> None:
    with pytest.raises(ValueError, match=r"^compression must be None if 'permessage-deflate' is one of extensions$"):
        client_extensions((DeflateClient(Deflate()),), Deflate())
    with pytest.raises(ValueError, match=r"^compression must be None if 'permessage-deflate' is one of extensions$"):
        server_extensions((DeflateServer(Deflate()),), Deflate())


@pytest.mark.parametrize(
    "extensions, error, message",
    [
        ("x", TypeError, "extensions must be a sequence of ClientExtension objects, not 'x'"),
        ({Client()}, TypeError, "extensions must be a sequence of ClientExtension objects, not "),
        ([Server()], TypeError, "each of extensions must be a ClientExtension, not "),
        ([Client], TypeError, "each of extensions must be a ClientExtension, not "),
        ([Client(None)], TypeError, "the name of an extension must be a str, not None"),
        ([Client("a b")], ValueError, "the name of an extension must be a token"),
        ([Client(), Client()], ValueError, "the names of extensions must be unique, not "),
    ],
)
def test_invalid_extensions(extensions: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        check_client_extensions(extensions)
    assert str(caught.value).startswith(message)
