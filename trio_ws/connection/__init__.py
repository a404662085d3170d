"""How does an open connection run? Its two tasks, and the WebSocket that their user sees.

=======================================  =========================================================================
:mod:`~trio_ws.connection.budget`        ``Budget``, ``FairLock``: the bounds of the two queues
:mod:`~trio_ws.connection.limits`        message rate, idle time and lifetime
:mod:`~trio_ws.connection.run_local`     a value for each run of Trio
:mod:`~trio_ws.connection.sendable`      messages as they are given to ``send()``
:mod:`~trio_ws.connection.state`         how far the end of a connection has come, as a table
:mod:`~trio_ws.connection.checkpoints`   the checkpoint of every public call
:mod:`~trio_ws.connection.inbox`         received messages: from the reader task to ``receive()``
:mod:`~trio_ws.connection.outbox`        messages to send: from ``send()`` to the writer task
:mod:`~trio_ws.connection.stream`        the adapter around the Trio stream below
:mod:`~trio_ws.connection.tls`           TLS on a socket of our own
:mod:`~trio_ws.connection.encoder`       from frames to bytes, and the memory of compressors
:mod:`~trio_ws.connection.keepalive`     pings, and when a peer is dead
:mod:`~trio_ws.connection.core`          ``Connection``: the rules, how it begins and how it ends
:mod:`~trio_ws.connection.parts`         messages in parts
:mod:`~trio_ws.connection.reader`        the reader task
:mod:`~trio_ws.connection.writer`        the writer task, and the write without waiting
:mod:`~trio_ws.connection.websocket`     ``WebSocket``: send, receive, ping, close
:mod:`~trio_ws.connection.bytestream`    ``ByteStream``: a stream of bytes over a WebSocket
:mod:`~trio_ws.connection.session`       the nursery around a connection: ``async with``, or a task
:mod:`~trio_ws.connection.typed`         ``TypedChannel``: a channel of values over a WebSocket
=======================================  =========================================================================
"""
