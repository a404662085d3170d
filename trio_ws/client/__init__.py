"""How does a client open a connection?

==========================================  ====================================================================
:mod:`~trio_ws.client.backoff`              when to connect again, and whether it may help
:mod:`~trio_ws.client.redirect`             where a redirect leads
:mod:`~trio_ws.client.cookies`              cookies for requests
:mod:`~trio_ws.client.proxy`                proxies, and tunnels through them
:mod:`~trio_ws.client.connect`              ``connect``, ``connect_unix``, ``connect_over``
:mod:`~trio_ws.client.reconnecting`         ``open_reconnecting``, ``attempts``
==========================================  ====================================================================
"""
