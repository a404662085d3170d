"""How do many connections get one message?

================================  ================================================================
:mod:`~trio_ws.hub.broadcast`     ``broadcast``: one message to many connections
:mod:`~trio_ws.hub.backend`       ``Backend``: the interface that connects several processes
:mod:`~trio_ws.hub.hub`           ``Hub``: topics to subscribe to
================================  ================================================================
"""
