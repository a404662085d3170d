"""The back end for Redis and Valkey.

======================================  ================================================
:mod:`~trio_ws.hub.redis.scripts`       names of keys, and the Lua scripts
:mod:`~trio_ws.hub.redis.url`           URLs: checks, TLS configuration
:mod:`~trio_ws.hub.redis.client`        the client: errors, timeouts, pipelines
:mod:`~trio_ws.hub.redis.listener`      connections that listen to channels
:mod:`~trio_ws.hub.redis.presence`      the numbers of members of all processes
:mod:`~trio_ws.hub.redis.streams`       messages by streams
:mod:`~trio_ws.hub.redis.pubsub`        messages by publish and subscribe
:mod:`~trio_ws.hub.redis.backend`       ``RedisBackend``
======================================  ================================================
"""

from .backend import RedisBackend

__all__ = ["RedisBackend"]
