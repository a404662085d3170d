"""Instruments that come with trio_ws: logging, metrics and traces.

They implement :class:`~trio_ws.Instrument`, which is in :mod:`trio_ws.instruments`.

======================================  ==============================================
:mod:`~trio_ws.observe.codes`           close codes as labels of metrics
:mod:`~trio_ws.observe.logs`            ``LogConnections``, ``LogFrames``
:mod:`~trio_ws.observe.prometheus`      ``PrometheusInstrument``
:mod:`~trio_ws.observe.opentelemetry`   ``OpenTelemetryInstrument``
======================================  ==============================================
"""
