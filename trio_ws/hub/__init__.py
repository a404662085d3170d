"""Sending one message to many connections.

================================  =================================================================
:mod:`~trio_ws.hub.broadcast`     ``broadcast``: one message to many connections
:mod:`~trio_ws.hub.backend`       ``Backend``: the interface that connects the hubs of processes
:mod:`~trio_ws.hub.hub`           ``Hub``: publishing to the subscribers of a topic
================================  =================================================================
"""
