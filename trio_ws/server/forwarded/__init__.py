"""The client's address behind a proxy: X-Forwarded-For, Forwarded (RFC 7239), and the PROXY protocol.

All connections to a server behind a proxy come from the proxy. The proxy can name its client, in an HTTP header or in a
header that precedes everything else on the connection (the PROXY protocol,
https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt). Anybody can send such headers, so these rules apply:

* Headers from a trusted proxy are used. All others are ignored.
* Each proxy appends the address that it sees to the end of the header. Headers are therefore read from the right, until
  the first address that is not a trusted proxy: that is the client. The client can forge everything further left, so it
  is not even parsed, and cannot change the meaning of the addresses to its right.
* An address that is unknown or cannot be parsed ends the search. The last address found until then is used; if there is
  none, the address of the proxy.
* A request whose Forwarded and X-Forwarded-For headers contradict each other is refused. The proxy has set only one of
  them, and the server cannot tell which; the other one may come from the client.
* The same proxy names the host that the client has asked for, in X-Forwarded-Host or in ``host=`` of Forwarded. It is
  used instead of the Host header, which a proxy may rewrite.
* The PROXY protocol is never detected: either all connections begin with its header, or none.

==================================================  ===============================================================
:mod:`~trio_ws.server.forwarded.trust`              ``Forwarding``: the trusted proxies
:mod:`~trio_ws.server.forwarded.proxy_protocol`     the PROXY protocol
:mod:`~trio_ws.server.forwarded.peer`               ``Peer``: the client before its first request
:mod:`~trio_ws.server.forwarded.headers`            X-Forwarded-For, -Proto and -Host, and Forwarded
==================================================  ===============================================================
"""
