"""How does an open connection run? The tasks of a connection, and the WebSocket that their user sees.

===================================  =============================================================================
:mod:`~trio_ws.connection.budget`    ``Budget`` and ``FairLock``: the bounds of the two queues, and who is next
:mod:`~trio_ws.connection.run_local` a value for each run of Trio
:mod:`~trio_ws.connection.stream`    ``StreamAdapter``: the Trio stream below
:mod:`~trio_ws.connection.state`     the state of a connection, as a table
:mod:`~trio_ws.connection.limits`    message rate, idle time and lifetime
:mod:`~trio_ws.connection.observer`  ``Observer``: counts, and calls the instruments
:mod:`~trio_ws.connection.keepalive` pings, and when a peer is dead
:mod:`~trio_ws.connection.inbox`     received messages: from the reader task to ``receive()``
:mod:`~trio_ws.connection.outbox`    messages to send: from ``send()`` to the writer task
:mod:`~trio_ws.connection.core`      ``Connection``: how it begins and how it ends, and the rules
:mod:`~trio_ws.connection.writer`    the writer task, and the write without waiting
:mod:`~trio_ws.connection.reader`    the reader task
:mod:`~trio_ws.connection.websocket` ``WebSocket``: send, receive, ping, close
:mod:`~trio_ws.connection.parts`     messages in parts
:mod:`~trio_ws.connection.session`   ``async with``: the nursery around a connection
:mod:`~trio_ws.connection.bytestream` ``ByteStream``: a stream of bytes over a WebSocket
===================================  =============================================================================
"""
