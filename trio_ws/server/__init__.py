"""How does a server accept a connection?

==========================================  ====================================================================
:mod:`~trio_ws.server.limits`               limits on connections and messages
:mod:`~trio_ws.server.listeners`            the sockets that a server listens on
:mod:`~trio_ws.server.origins`              pages that may connect
:mod:`~trio_ws.server.forwarded`            the client's address behind a proxy
:mod:`~trio_ws.server.server`               ``Server``, ``ServerWebSocket``, ``Opening``: what handlers and hooks see
:mod:`~trio_ws.server.options`              the options, as typed keyword arguments
:mod:`~trio_ws.server.auth`                 ``basic_auth``
:mod:`~trio_ws.server.routing`              ``route``: a handler for each path
:mod:`~trio_ws.server.policy`               the handshake options, checked
:mod:`~trio_ws.server.handshake`            the server's side of the opening handshake
:mod:`~trio_ws.server.accept`               accepting connections and running them
:mod:`~trio_ws.server.serve`                ``serve``, ``serve_over``
==========================================  ====================================================================
"""
