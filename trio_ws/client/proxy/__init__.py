"""HTTP and SOCKS proxies: how a client finds its proxy and opens a tunnel through it.

The client asks the proxy for a tunnel to the server, for ``ws`` as well as ``wss`` URIs (RFC 6455, section 4.1): with
CONNECT over HTTP (RFC 9110, section 9.3.6), or with SOCKS. TLS and the opening handshake, with its headers and
credentials, take place inside the tunnel. The credentials for the proxy are sent before the tunnel is open, and never
to the server.

SOCKS needs the optional package python-socks, which is imported only for a SOCKS proxy. trio_ws connects the socket
and passes it to python-socks, so ``happy_eyeballs_delay`` and ``local_address`` work for SOCKS proxies too.

==========================================  ================================================================
:mod:`~trio_ws.client.proxy.values`         ``Proxy``, ``parse_proxy``
:mod:`~trio_ws.client.proxy.environment`    ``find_proxy``: reads the environment and the system settings
:mod:`~trio_ws.client.proxy.tunnel`         ``open_tunnel``: opens a tunnel through a proxy
==========================================  ================================================================
"""

from .environment import find_proxy
from .tunnel import open_tunnel
from .values import Proxy, parse_proxy

__all__ = ["Proxy", "find_proxy", "open_tunnel", "parse_proxy"]
