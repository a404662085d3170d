"""Lists in headers: subprotocols, extensions, and the parameters of permessage-deflate.

The first byte is an option, the rest are the values of a header, one per line.
"""

from __future__ import annotations

from tests.fuzz.harness import instrument, main, outcome

with instrument():
    from trio_ws.exceptions import InvalidHeader, NegotiationError
    from trio_ws.protocol.deflate import Deflate, DeflateClient, DeflateServer, PerMessageDeflate
    from trio_ws.protocol.extensions import Params
    from trio_ws.protocol.grammar import build_extensions, build_list, is_token, parse_extensions, parse_tokens

NAME = "Sec-WebSocket-Extensions"


def TestOneInput(data: bytes) -> None:
    if not data:
        return
    options, values = data[0], data[1:].decode("iso-8859-1").split("\n")
    tokens = outcome(lambda: parse_tokens(NAME, values), InvalidHeader)
    if isinstance(tokens, list):
        assert tokens
        assert all(map(is_token, tokens))
        assert parse_tokens(NAME, [build_list(tokens)]) == tokens
    extensions = outcome(lambda: parse_extensions(NAME, values), InvalidHeader)
    if isinstance(extensions, list):
        assert extensions
        assert parse_extensions(NAME, [build_extensions(extensions)]) == extensions
        for _, params in extensions:
            negotiate(params, options)


def negotiate(params: Params, options: int) -> None:
    """Let a server answer an offer, and a client judge an answer."""
    bits = (None, 8, 9, 15)
    settings = Deflate(
        server_no_context_takeover=bool(options & 1),
        client_no_context_takeover=bool(options & 2),
        server_max_window_bits=bits[options >> 2 & 3],
        client_max_window_bits=bits[options >> 4 & 3],
    )
    client = outcome(lambda: DeflateClient(settings).accept(params), NegotiationError)
    if isinstance(client, PerMessageDeflate):
        assert 8 <= client.send_bits <= 15
        assert 8 <= client.receive_bits <= (settings.server_max_window_bits or 15)
        assert not (settings.client_no_context_takeover and client.send_takeover)
    answer = DeflateServer(settings).answer(params)
    if answer is None:
        return
    response, server = answer
    names = [name for name, _ in params]
    # RFC 7692, section 7.1.2.2: only a client that has offered it may be told to use a smaller window.
    if "client_max_window_bits" not in names:
        assert "client_max_window_bits" not in [name for name, _ in response]
    if "server_no_context_takeover" in names:
        assert not server.send_takeover
    # A client without wishes accepts every answer of a server, and both agree.
    accepted = DeflateClient(Deflate()).accept(response)
    assert server.send_bits <= accepted.receive_bits
    assert accepted.send_bits <= server.receive_bits
    assert server.send_takeover == accepted.receive_takeover
    assert accepted.send_takeover <= server.receive_takeover


if __name__ == "__main__":
    main(TestOneInput)
