"""Sending one message to many connections.

================================  ====================================================================
:mod:`~trio_ws.hub.broadcast`     ``broadcast``: one message to many connections
:mod:`~trio_ws.hub.backend`       ``Backend``: the interface that connects the hubs of processes
:mod:`~trio_ws.hub.outgoing`      the queue of messages for the back end
:mod:`~trio_ws.hub.members`       the members of a topic, and what the hub knows about it
:mod:`~trio_ws.hub.memory`        ``MemoryBackend``: connects the hubs in one process
:mod:`~trio_ws.hub.redis`         ``RedisBackend``: connects hubs through Redis
:mod:`~trio_ws.hub.exchange`      the task that connects a hub with its back end
:mod:`~trio_ws.hub.core`          the inside of a hub: delivery to members
:mod:`~trio_ws.hub.joining`       joining a topic, with the messages that were missed
:mod:`~trio_ws.hub.hub`           ``Hub``: publishing to the subscribers of a topic
================================  ====================================================================
"""
