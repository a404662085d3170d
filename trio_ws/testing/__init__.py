"""For tests: two WebSockets without a network, a scripted peer, and streams that fail at a chosen place.

Nothing in here sleeps in earnest or does anything by chance, so with Trio's clock for tests
(:class:`trio.testing.MockClock`) the same happens each time. :mod:`trio_ws` does not import it::

    import trio_ws.testing

===============================  ==============================================================
:mod:`~trio_ws.testing.faults`   ``FaultyStream``, and the faults that it can have
:mod:`~trio_ws.testing.peer`     ``ScriptedPeer``: sends exactly the frames that a test chooses
:mod:`~trio_ws.testing.pair`     ``memory_websocket_pair``: a client and a server in memory
===============================  ==============================================================
"""

from ..protocol import Role
from .faults import Corrupt, Delay, Drop, Fault, FaultyStream, Reset, Split, Stall
from .pair import memory_websocket_pair
from .peer import ScriptedPeer

__all__ = [
    "Corrupt",
    "Delay",
    "Drop",
    "Fault",
    "FaultyStream",
    "Reset",
    "Role",
    "ScriptedPeer",
    "Split",
    "Stall",
    "memory_websocket_pair",
]
