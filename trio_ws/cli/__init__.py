"""How is a WebSocket used from the shell? ``python -m trio_ws serve | connect | demo``.

==============================  ==================================================
:mod:`~trio_ws.cli.main`        the arguments, and the exit status
==============================  ==================================================
"""
