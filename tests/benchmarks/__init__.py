"""How fast the library is, next to others: ``nox -s bench``.

::

    python -m tests.benchmarks                            # everything, and the page of the documentation
    python -m tests.benchmarks --quick                    # everything, roughly, in a few minutes
    python -m tests.benchmarks --quick 'echo-*' memory    # some measurements
    python -m tests.benchmarks -c 'trio_ws*' -c picows echo-32
    python -m tests.benchmarks instructions               # a section; --list shows them
    python -m tests.benchmarks --list
    python -m tests.benchmarks --render FILE              # the page once more, from the figures of a run
    python -m tests.benchmarks --judge FILE FILE FILE     # the targets, by the medians over some runs

What has a part in it, from the outside in:

====================  ==============================================================================
``__main__``          the command line: rounds, in which the contenders take turns
``measurements``      every measurement, and how a turn goes
``process``           a process, from the outside
``worker``            a process, from the inside
``instructions``      a server under callgrind, and a command line of its own
``load``              the load generator for servers: raw sockets
``echo_server``       the raw echo server for clients
``clients``           what clients do, whatever the library
``contenders``        a server and a client of each library
``before``            this library at an earlier commit, to compare with
``linear``            series of measurements that should lie on straight lines
``job``               what a process is told
``wire``, ``tls``     frames and handshakes by hand, certificates
``results``           figures and statistics
``targets``           what the library is to reach
``report``, ``plot``  tables, the page, the pictures
``machine``           what it runs on
====================  ==============================================================================

It needs Linux: memory is read from ``/proc``, and sockets are waited for with epoll. Instructions are counted only
where Valgrind is installed; the version before takes part only where Git has its commit. ``compression.py`` is a
program of its own, about the parameters of compression.
"""
