"""What is going on in the connections?

The interface, :class:`~trio_ws.Instrument`, is in :mod:`trio_ws.instruments`; these are its implementations.

===================================  ==============================================
:mod:`~trio_ws.observe.logs`         ``LogConnections``, ``LogFrames``
:mod:`~trio_ws.observe.prometheus`   ``PrometheusInstrument``
===================================  ==============================================
"""
