"""Proxies: how to name one, which one to use, and the way through it.

A proxy is asked for a tunnel to the server, whether the URI is ``ws`` or ``wss`` (RFC 6455, section 4.1): with CONNECT
over HTTP (RFC 9110, section 9.3.6), or with SOCKS. What is in the tunnel is not for the proxy: TLS begins inside it,
and so does the opening handshake with its headers and credentials. What is for the proxy is sent before, and never into
it.

SOCKS is the work of python-socks, which need not be installed, and is imported when there is a SOCKS proxy. It is
handed a socket that is connected already, as from a proxy in a chain: so it is connected like any other, to whichever
address of the proxy answers first and from the local address that was asked for.

==========================================  ================================================================
:mod:`~trio_ws.client.proxy.values`         ``Proxy``, ``parse_proxy``
:mod:`~trio_ws.client.proxy.environment`    ``find_proxy``: the proxy that the environment, or the system, has
:mod:`~trio_ws.client.proxy.tunnel`         ``open_tunnel``: the way through a proxy
==========================================  ================================================================
"""

from .environment import find_proxy
from .tunnel import open_tunnel
from .values import Proxy, parse_proxy

__all__ = ["Proxy", "find_proxy", "open_tunnel", "parse_proxy"]
