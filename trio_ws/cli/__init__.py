"""The command line interface: ``python -m trio_ws serve | connect | demo``.

==============================  ==================================================
:mod:`~trio_ws.cli.failure`     one-line error messages
:mod:`~trio_ws.cli.terminal`    messages on a terminal
:mod:`~trio_ws.cli.connect`     a client that sends lines and prints messages
:mod:`~trio_ws.cli.demo`        a server and a client in one process
:mod:`~trio_ws.cli.serve`       an echo server
:mod:`~trio_ws.cli.main`        arguments and exit status
==============================  ==================================================
"""
