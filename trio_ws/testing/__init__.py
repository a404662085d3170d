"""Tools for tests: connected WebSockets in memory, a scripted peer, and streams with faults.

With Trio's clock for tests (:class:`trio.testing.MockClock`), tests that use these tools are deterministic and need no
real time. :mod:`trio_ws` does not import this package::

    import trio_ws.testing

=================================  ==============================================================
:mod:`~trio_ws.testing.faults`     ``FaultyStream`` and its faults
:mod:`~trio_ws.testing.handlers`   handlers whose exceptions reach the test
:mod:`~trio_ws.testing.peer`       ``ScriptedPeer``: sends exactly the frames that a test chooses
:mod:`~trio_ws.testing.backends`   a conformance kit for back ends of hubs
:mod:`~trio_ws.testing.pair`       ``memory_websocket_pair``: a client and a server in memory
:mod:`~trio_ws.testing.servers`    ``StartServer``: servers on free ports
:mod:`~trio_ws.testing.plugin`     fixtures for pytest: ``ws_pair``, ``ws_server``
=================================  ==============================================================
"""

from ..protocol import Role
from .backends import BACKEND_CHECKS, BackendCheck, BackendHarness
from .faults import Corrupt, Delay, Drop, Fault, FaultyStream, Reset, Split, Stall
from .pair import WebSocketPair, memory_websocket_pair
from .peer import ScriptedPeer
from .servers import RunningServer, StartServer

__all__ = [
    "BACKEND_CHECKS",
    "BackendCheck",
    "BackendHarness",
    "Corrupt",
    "Delay",
    "Drop",
    "Fault",
    "FaultyStream",
    "Reset",
    "Role",
    "RunningServer",
    "ScriptedPeer",
    "Split",
    "Stall",
    "StartServer",
    "WebSocketPair",
    "memory_websocket_pair",
]
