"""How is a WebSocket used from the shell? ``python -m trio_ws serve | connect | demo``.

==============================  ==================================================
:mod:`~trio_ws.cli.failure`     errors that are told in one line
:mod:`~trio_ws.cli.connect`     send lines, print messages
:mod:`~trio_ws.cli.demo`        a server and a client at work
:mod:`~trio_ws.cli.serve`       an echo server
:mod:`~trio_ws.cli.main`        the arguments and the exit status
==============================  ==================================================
"""
