"""Benchmarks that compare the library with others: ``nox -s bench``.

::

    python -m tests.benchmarks                            # everything; write the page of the documentation
    python -m tests.benchmarks --quick                    # everything, less exactly, in a few minutes
    python -m tests.benchmarks --quick 'echo-*' memory    # some measurements
    python -m tests.benchmarks -c 'trio_ws*' -c picows echo-32
    python -m tests.benchmarks instructions               # a section; --list shows them
    python -m tests.benchmarks hostile                    # another section; saves its results in hostile.json
    python -m tests.benchmarks --list
    python -m tests.benchmarks --render FILE              # write the page again, from the results of a run
    python -m tests.benchmarks --judge FILE FILE FILE     # check the targets, with the medians of some runs

The modules, from the outside in:

====================  ==============================================================================
``__main__``          the command line: rounds in which the contenders take turns
``measurements``      all measurements, and the turn of one contender
``process``           a process, seen from its parent
``worker``            the main program of a process
``hostile``           hostile peers that send small frames, and a well-behaved client that sends pings
``instructions``      a server under callgrind, and a command line of its own
``load``              the load generator for servers: raw sockets
``echo_server``       the raw echo server for clients
``clients``           the work of clients, for any library
``contenders``        a server and a client of each library
``before``            this library at an earlier commit, to compare with
``linear``            series of measurements that should be linear
``job``               the parameters of a process
``wire``, ``tls``     frames and handshakes by hand, certificates
``results``           figures and statistics
``targets``           the targets for the library
``report``, ``plot``  tables, the page, the pictures
``machine``           the machine and the versions
====================  ==============================================================================

The benchmarks need Linux for ``/proc`` and epoll. Counting instructions needs Valgrind, and comparing with the version
before needs its commit in Git. ``compression.py`` is a separate program that compares the parameters of compression.
"""
