"""How does a client open a connection?

==========================================  ====================================================================
:mod:`~trio_ws.client.backoff`              waits between attempts, and errors after which to try again
:mod:`~trio_ws.client.redirect`             where a redirect leads
:mod:`~trio_ws.client.cookies`              cookies for requests
:mod:`~trio_ws.client.explain`              what went wrong, in one line
:mod:`~trio_ws.client.tls`                  the TLS handshake
:mod:`~trio_ws.client.proxy`                proxies, and tunnels through them
:mod:`~trio_ws.client.options`              the options, as typed keyword arguments
:mod:`~trio_ws.client.request`              the opening request
:mod:`~trio_ws.client.dial`                 a stream to the server: TCP, TLS, Unix sockets
:mod:`~trio_ws.client.connect`              ``connect``, ``connect_unix``, ``connect_over``
:mod:`~trio_ws.client.connector`            what ``attempts`` and ``open_reconnecting`` connect with
:mod:`~trio_ws.client.attempts`             ``attempts``: a loop with one connection in each turn
:mod:`~trio_ws.client.reconnecting`         ``open_reconnecting``: a channel that lives across connections
==========================================  ====================================================================
"""
