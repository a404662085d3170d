"""The client's address behind a proxy: X-Forwarded-For, Forwarded (RFC 7239), and the PROXY protocol.

To a server behind a proxy, all connections come from the proxy. It says in a header whose they are: in HTTP, or in
front of everything else (the PROXY protocol, https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt). Anybody can
send such headers. So:

* They count when they come from a proxy that is trusted, and otherwise mean nothing.
* Each proxy adds what it sees to the end of a header. So headers are read from the right, and only as far as those who
  speak are trusted: the first address that is not trusted is the client. What is to the left of it is what the client
  says, and is not even parsed: nothing that it may contain changes what is read on the right.
* Where something cannot be understood, or the proxy says that it does not know, the last address before it stands.
* Forwarded and X-Forwarded-For in one request must say the same. A proxy sets one of them. The other one may have come
  from the client, through it, and there is no telling which is which.
* In the PROXY protocol nothing is guessed: either all connections begin with it, or none.

==================================================  ===============================================================
:mod:`~trio_ws.server.forwarded.trust`              ``Forwarding``: the proxies that a server trusts
:mod:`~trio_ws.server.forwarded.proxy_protocol`     the PROXY protocol
:mod:`~trio_ws.server.forwarded.peer`               ``Peer``: the other end of a connection
:mod:`~trio_ws.server.forwarded.headers`            X-Forwarded-For, X-Forwarded-Proto and Forwarded
==================================================  ===============================================================
"""
