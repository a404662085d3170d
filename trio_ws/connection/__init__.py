"""The runtime of an open connection: its two tasks, its queues, and the public ``WebSocket``.

=======================================  =========================================================================
:mod:`~trio_ws.connection.budget`        ``Budget``, ``FairLock``: bounds for the two queues
:mod:`~trio_ws.connection.lag`           how long messages of ``broadcast()`` wait
:mod:`~trio_ws.connection.limits`        message rate, idle time and lifetime
:mod:`~trio_ws.connection.run_local`     values that exist once per run of Trio
:mod:`~trio_ws.connection.sendable`      conversion of the argument of ``send()``
:mod:`~trio_ws.connection.sockets`       what the system knows of a socket
:mod:`~trio_ws.connection.state`         the state of a connection, as a table
:mod:`~trio_ws.connection.tls_info`      ``TLSInfo``: the parameters of a TLS connection
:mod:`~trio_ws.connection.checkpoints`   the checkpoint at the start of every public call
:mod:`~trio_ws.connection.inbox`         the queue of received messages
:mod:`~trio_ws.connection.outbox`        the queue of messages to send
:mod:`~trio_ws.connection.stream`        the adapter around the Trio stream
:mod:`~trio_ws.connection.tls`           TLS on sockets of our own
:mod:`~trio_ws.connection.encoder`       encoding of frames, and the cache of compressors
:mod:`~trio_ws.connection.keepalive`     pings, and the decision that a peer is dead
:mod:`~trio_ws.connection.core`          ``Connection``, and the rules that all modules follow
:mod:`~trio_ws.connection.parts`         ``send_stream()`` and ``receive_stream()``
:mod:`~trio_ws.connection.reader`        the reader task
:mod:`~trio_ws.connection.writer`        the writer task, and the shortcut without it
:mod:`~trio_ws.connection.posting`       sending for ``broadcast()``, and the timer of ``max_lag``
:mod:`~trio_ws.connection.websocket`     ``WebSocket``: send, receive, ping, close
:mod:`~trio_ws.connection.bytestream`    ``ByteStream``: a stream of bytes over a WebSocket
:mod:`~trio_ws.connection.session`       the nursery of a connection: a block, or a task
:mod:`~trio_ws.connection.typed`         ``TypedChannel``: a channel of values over a WebSocket
=======================================  =========================================================================
"""
