"""The server: accepts connections and runs a handler for each.

==========================================  ====================================================================
:mod:`~trio_ws.server.date`                 the Date header
:mod:`~trio_ws.server.limits`               limits on connections and messages
:mod:`~trio_ws.server.listeners`            TCP, Unix and systemd listeners; the accept loop
:mod:`~trio_ws.server.openings`             connections that are not WebSockets yet
:mod:`~trio_ws.server.origins`              the check of the Origin header
:mod:`~trio_ws.server.request`              the path, the query and the cookies of a request
:mod:`~trio_ws.server.forwarded`            the client's address behind a proxy
:mod:`~trio_ws.server.server`               ``Server``, ``ServerWebSocket``, ``Opening``: what handlers and hooks see
:mod:`~trio_ws.server.target`               the host and the path that a request is for
:mod:`~trio_ws.server.options`              the options, as typed keyword arguments
:mod:`~trio_ws.server.auth`                 ``basic_auth``
:mod:`~trio_ws.server.routing`              ``route``: a handler for each path
:mod:`~trio_ws.server.policy`               the handshake options, validated
:mod:`~trio_ws.server.responder`            the answer to a request, with any version of HTTP
:mod:`~trio_ws.server.handshake`            the opening handshake over HTTP/1.1
:mod:`~trio_ws.server.http2`                connections of HTTP/2, and their streams
:mod:`~trio_ws.server.accept`               the task of each connection, and the limits of the server
:mod:`~trio_ws.server.serve`                ``serve``, ``serve_over``
==========================================  ====================================================================
"""
