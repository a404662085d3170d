"""A channel that reconnects when its connection is lost: ``open_reconnecting``.

A background task, the *supervisor*, connects, calls ``on_connect``, and reconnects. Tasks that send or receive through
the channel need not know about it.

Rules 1 to 4 are in :mod:`trio_ws.client.connector`. These rules hold for the channel:

8. **Received messages are delivered** once and in order, including those that arrived before their connection ended.
   The channel takes a message from its connection only when a task receives, so backpressure reaches the server.
9. **A message is sent on one connection, once, or not at all.** ``send`` tries the next connection only if the previous
   one has not accepted the message.
10. **A connection is open when on_connect has returned.** Until then, only ``on_connect`` can use it. Like the opening
    handshake, ``on_connect`` has ``open_timeout`` seconds; otherwise a server that accepts the connection and then
    stays silent could block the channel forever. Its exceptions count like exceptions from connecting.
11. **Errors are raised by calls**: ``receive``, ``send`` and iteration raise them unchanged. The supervisor never
    raises, so an error does not cancel the block.
12. **A watcher never delays anything**: a slow watcher gets the latest state and misses the ones in between.

Cancellation: the supervisor is shielded, like the tasks of a connection, so the block can still use the channel to
clean up when it is cancelled. On the way out of the block, ``aclose()`` is cancelled, which ends the connection without
waiting. It then cancels the supervisor at whatever point it has reached, and waits for it to finish. This takes no time
unless ``on_connect`` shields itself. Cancelling a task that waits in ``send`` or ``receive`` changes nothing.

=====================================================  =============================================================
:mod:`~trio_ws.client.reconnecting.state`              ``ReconnectState``: the state of a channel
:mod:`~trio_ws.client.reconnecting.supervisor`         the background task that connects and reconnects
:mod:`~trio_ws.client.reconnecting.channel`            ``open_reconnecting``, ``ReconnectingChannel``
=====================================================  =============================================================
"""
