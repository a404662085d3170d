"""How are connections observed? The interface, and what calls it.

=====================================  ===========================================================================
:mod:`~trio_ws.instruments.interface`  ``Instrument``: called with everything that happens on connections
:mod:`~trio_ws.instruments.observer`   ``Observer``: counts what happens on one connection, and calls instruments
=====================================  ===========================================================================

It lies above the options, which name instruments. So it knows a WebSocket by what an instrument may want to know of
one: :class:`~trio_ws.ObservedWebSocket`. Instruments that come with the package are in :mod:`trio_ws.observe`.
"""

from .interface import ConnectionSummary, FrameInfo, Instrument, ObservedWebSocket

__all__ = ["ConnectionSummary", "FrameInfo", "Instrument", "ObservedWebSocket"]
