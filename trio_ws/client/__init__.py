"""Clients: opening connections, and reconnecting.

==========================================  ====================================================================
:mod:`~trio_ws.client.redirect`             HTTP redirects
:mod:`~trio_ws.client.cookies`              cookies for opening requests
:mod:`~trio_ws.client.explain`              one-line explanations of errors
:mod:`~trio_ws.client.backoff`              ``Backoff``, ``is_retryable``: when to retry, and after which errors
:mod:`~trio_ws.client.tls`                  the TLS handshake, and the default TLS context
:mod:`~trio_ws.client.proxy`                proxies, and tunnels through them
:mod:`~trio_ws.client.pool`                 ``HTTP2Pool``: HTTP/2 connections that WebSockets share
:mod:`~trio_ws.client.options`              the options, as typed keyword arguments
:mod:`~trio_ws.client.request`              the opening request
:mod:`~trio_ws.client.dial`                 streams to the server: TCP, TLS, proxies, Unix sockets
:mod:`~trio_ws.client.http2`                WebSockets as streams of HTTP/2
:mod:`~trio_ws.client.connecting`           ``Connecting``: the opening of a connection, with redirects
:mod:`~trio_ws.client.connect`              ``connect``, ``connect_in``, ``connect_unix``, ``connect_over``
:mod:`~trio_ws.client.connector`            the part that ``attempts`` and ``open_reconnecting`` share
:mod:`~trio_ws.client.attempts`             ``attempts``: a loop that reconnects
:mod:`~trio_ws.client.reconnecting`         ``open_reconnecting``: a channel that reconnects
==========================================  ====================================================================
"""
