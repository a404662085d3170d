"""Connecting again when a connection is lost, behind a channel that lives across connections: ``open_reconnecting``.

A task behind the channel, the *supervisor*, connects, calls ``on_connect``, and connects again; whoever sends or
receives need not know.

Rules 1 to 4 are in :mod:`trio_ws.client.connector`. The rules of the channel:

8. **Received messages are delivered**, in order and once, also those that had come in when their connection ended. No
   more are taken from a connection than is asked for, so backpressure reaches the server.
9. **A message is sent once, on one connection, or not at all.** ``send`` tries the next connection only if the last one
   has not taken the message.
10. **A connection is open when on_connect has returned.** Nobody else uses it before. It has ``open_timeout`` seconds,
    like the opening handshake before it; without a limit, a server that accepts and then says nothing would be the end
    of reconnecting. What it raises is asked about as if connecting had raised it.
11. **Errors come out of calls**: of ``receive``, ``send`` and iteration, as they are. The supervisor does not raise, so
    nothing comes out of the block by itself.
12. **Who watches never holds up anybody**: a watcher gets the newest state, and misses those in between.

What if it is cancelled? The supervisor is shielded, like the tasks of a connection, so that the user can still clean
up when the block is cancelled: it is on the way out that ``aclose()`` is cancelled, which ends the connection at once.
Then it cancels the supervisor, in whatever that is doing, and waits for it: it has nothing to do that takes time, if
``on_connect`` has not. Those who wait to send or receive have changed nothing.

=====================================================  =============================================================
:mod:`~trio_ws.client.reconnecting.state`              ``ReconnectState``: what a channel is doing
:mod:`~trio_ws.client.reconnecting.supervisor`         the task that connects again and again
:mod:`~trio_ws.client.reconnecting.channel`            ``open_reconnecting``, ``ReconnectingChannel``
=====================================================  =============================================================
"""
