"""The command line interface: ``trio-ws COMMAND``, which is the same as ``python -m trio_ws COMMAND``.

==================================  ====================================================
:mod:`~trio_ws.cli.failure`         one-line error messages
:mod:`~trio_ws.cli.style`           colors, progress bars and block characters
:mod:`~trio_ws.cli.terminal`        escaping of messages on a terminal
:mod:`~trio_ws.cli.arguments`       conversions of arguments
:mod:`~trio_ws.cli.commands`        the actions of a user, and commands such as ``/ping``
:mod:`~trio_ws.cli.credentials`     the user name and the password of ``--auth``
:mod:`~trio_ws.cli.histogram`       durations and their percentiles
:mod:`~trio_ws.cli.output`          messages and events, for people or as JSON
:mod:`~trio_ws.cli.static`          the files of a folder, over HTTP
:mod:`~trio_ws.cli.workers`         the processes of a bench
:mod:`~trio_ws.cli.files`           sending a file
:mod:`~trio_ws.cli.interactive`     a prompt with line editing
:mod:`~trio_ws.cli.lines`           lines of standard input
:mod:`~trio_ws.cli.plot`            drawing the round trips of a bench
:mod:`~trio_ws.cli.bench`           round trips to an echo server
:mod:`~trio_ws.cli.connect`         a client that sends lines or a file, and prints messages
:mod:`~trio_ws.cli.demo`            a server and a client in one process
:mod:`~trio_ws.cli.serve`           an echo server, a chat, and the files of a folder
:mod:`~trio_ws.cli.main`            arguments and exit status
==================================  ====================================================
"""
