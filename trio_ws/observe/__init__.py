"""Instruments that come with trio_ws: logging and metrics.

They implement :class:`~trio_ws.Instrument`, which is in :mod:`trio_ws.instruments`.

===================================  ==============================================
:mod:`~trio_ws.observe.logs`         ``LogConnections``, ``LogFrames``
:mod:`~trio_ws.observe.prometheus`   ``PrometheusInstrument``
===================================  ==============================================
"""
