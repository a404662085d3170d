"""Observing connections: the interface for instruments, and the observers that call them.

=====================================  ===========================================================================
:mod:`~trio_ws.instruments.interface`  ``Instrument``: callbacks for the events of connections
:mod:`~trio_ws.instruments.null`       ``NullObserver``: the observer of a connection without instruments
:mod:`~trio_ws.instruments.observer`   ``Observer``: counts the traffic of one connection and calls instruments
=====================================  ===========================================================================

The options of a connection include its instruments, so :mod:`trio_ws.settings` imports this package, which therefore
cannot import ``WebSocket``. It has a :class:`~typing.Protocol` instead: :class:`~trio_ws.ObservedWebSocket`. The
instruments that come with the library are in :mod:`trio_ws.observe`.
"""
