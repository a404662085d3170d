"""Errors for wrong calls. They say what to write instead.

=============================  =========================================================================================
:mod:`~trio_ws.misuse.names`   unknown options, such as those of other WebSocket libraries
:mod:`~trio_ws.misuse.values`  arguments of the wrong type or out of range: checks, and validators for attrs
:mod:`~trio_ws.misuse.usage`   ``await`` instead of ``async with``, functions that are not async, calls outside of Trio
=============================  =========================================================================================
"""
