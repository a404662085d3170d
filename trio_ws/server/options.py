"""The options that ``serve`` and ``serve_over`` share, as typed keyword arguments.

The defaults are in the classes that use them: :class:`~trio_ws.settings.Settings`,
:class:`~trio_ws.server.policy.HandshakePolicy` and :class:`~trio_ws.server.forwarded.Forwarding`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..datastructures import HeadersLike
from ..protocol.extensions import ServerExtension
from ..settings import Options
from .forwarded.trust import TrustedProxies
from .origins import Origins
from .server import ProcessRequest, ProcessResponse, SelectSubprotocol

__all__ = ["ServeOptions"]


class ServeOptions(Options, total=False):
    """Keyword arguments of :func:`serve` and :func:`serve_over`: those of :class:`Options`, and the following.

    Attributes:
        process_request: A function, possibly async, or a sequence of them. Each is called with an :class:`Opening` and
            the :class:`Request`, for every HTTP request. It returns a :class:`Response` to answer the request (see
            :meth:`Opening.respond`), or None to continue the handshake. The first response of a sequence is sent. The
            time that they take counts towards ``open_timeout``. Default: none.
        process_response: A function, possibly async, that is called with an :class:`Opening`, the :class:`Request` and
            the :class:`Response`, for every request for a WebSocket, whether it was accepted or refused. It is not
            called if the request is refused before ``process_request``, because of its syntax, its target, ``hosts`` or
            ``origins``; nor for 408 after ``open_timeout``, 500 after a function of the application has raised, or 503
            of a server that is full or stopping. It returns another response, or None to keep this one. Default: none.
        select_subprotocol: A function that is called with an :class:`Opening` and the subprotocols that the client
            offers, most preferred first. It returns one of them, or None for no subprotocol; ``subprotocols`` is not
            used then. Default: choose the first of ``subprotocols`` that the client offers.
        origins: The web pages that may connect, by the Origin header that browsers send (RFC 6455, section 10.2): a
            sequence of origins such as ``"https://example.org"``, regular expressions that match a whole origin, and
            None for requests without an Origin; or :data:`ANY`. Other requests get 403. Default: :data:`SAME_HOST`,
            pages of the host that the request is for, over http or https, and requests without an Origin.
        hosts: The hosts that the server accepts requests for, with or without a port. Other requests get 421. Set it to
            protect :data:`SAME_HOST` from DNS rebinding. None for any host. Default: None.
        headers: Headers to add to each response. Default: none.
        server_header: The value of the Server header; None to send none. Default: the versions of trio_ws and Python.
        extensions: Extensions to accept besides compression; see
            :class:`~trio_ws.protocol.extensions.ServerExtension`. The order is that of the client's offers: a sent
            message passes the accepted ones in that order. Default: none.
        trusted_proxies: The reverse proxies in front of the server: IP addresses, networks such as ``"10.0.0.0/8"``,
            and ``"unix"`` for everything that connects through a Unix socket. The server takes the client's address
            from X-Forwarded-For and X-Forwarded-Proto, or from Forwarded (RFC 7239), and the host for ``origins`` and
            ``hosts`` from X-Forwarded-Host or Forwarded. Only headers from a trusted proxy count. The port of a host
            from a trusted proxy counts only if it is in one of these headers. Default: none.
        proxy_protocol: Whether each connection starts with a header of the PROXY protocol, version 1 or 2. Connections
            without one are closed, and if ``trusted_proxies`` is set, so are those from other addresses.
            Default: False.
    """

    process_request: ProcessRequest | Sequence[ProcessRequest] | None
    process_response: ProcessResponse | None
    select_subprotocol: SelectSubprotocol | None
    origins: Origins
    hosts: Collection[str] | None
    headers: HeadersLike
    server_header: str | None
    extensions: Sequence[ServerExtension]
    trusted_proxies: TrustedProxies
    proxy_protocol: bool
