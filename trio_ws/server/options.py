"""The options that ``serve`` and ``serve_over`` share, as typed keyword arguments.

Their defaults are in the classes that use them: :class:`~trio_ws.settings.Settings`,
:class:`~trio_ws.server.policy.HandshakePolicy` and :class:`~trio_ws.server.forwarded.Forwarding`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..datastructures import HeadersLike
from ..settings import Options
from .forwarded.trust import TrustedProxies
from .origins import Origins
from .server import ProcessRequest, ProcessResponse, SelectSubprotocol

__all__ = ["ServeOptions"]


class ServeOptions(Options, total=False):
    """The keyword arguments that :func:`serve` and :func:`serve_over` share: :class:`Options`, and the handshake's.

    Attributes:
        process_request: Called with an :class:`Opening` and the :class:`Request`, for each request, be it for a
            WebSocket or not. It returns a :class:`Response` to answer with, for which :meth:`Opening.respond` is of
            use, or None to let the handshake go on. It may be async. Of several functions in a sequence, the first
            that answers counts. Default: none.
        process_response: Called with the same and the :class:`Response` to each request for a WebSocket, be it 101 or
            a refusal. It returns another one, or None to leave it as it is. It may be async. Default: none.
        select_subprotocol: Called with an :class:`Opening` and the subprotocols that the client speaks, in its order of
            preference; returns one of these, or None. Default: the first of ``subprotocols`` that the client speaks.
        origins: Which pages may connect, by the Origin header that browsers send (RFC 6455, section 10.2): origins such
            as ``https://example.org``, regular expressions that match the whole origin, and None for clients that send
            none; or :data:`ANY`. Others get 403. Default: :data:`SAME_HOST`, pages of the host that the request is for,
            and clients that send none.
        hosts: The hosts that the server is for, with or without a port; requests for others get 421. None for any.
            Default: None.
        headers: More headers for each response. Default: none.
        server_header: The Server header; None for none. Default: the names and versions of trio_ws and Python.
        trusted_proxies: The proxies in front of the server: IP addresses, networks such as ``"10.0.0.0/8"``, and
            ``"unix"`` for all that connect through a Unix socket. What they say about their clients in X-Forwarded-For,
            X-Forwarded-Proto and Forwarded (RFC 7239) counts; what others say does not. Default: none.
        proxy_protocol: Whether every connection begins with a header of the PROXY protocol, version 1 or 2, in front
            of everything else. Connections without one are closed; if there are ``trusted_proxies``, so are those from
            anywhere else. Default: False.
    """

    process_request: ProcessRequest | Sequence[ProcessRequest] | None
    process_response: ProcessResponse | None
    select_subprotocol: SelectSubprotocol | None
    origins: Origins
    hosts: Sequence[str] | None
    headers: HeadersLike
    server_header: str | None
    trusted_proxies: TrustedProxies
    proxy_protocol: bool
