"""A process of the benchmark, seen from its parent, which starts it, sends commands, and always ends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from .job import Job
from .worker import ROOT

#: Seconds without a report after which a process is considered to hang.
PATIENCE = 120.0


#: Timeout for a process to become idle, and the interval between checks, in seconds.
REST = 30.0
POLL = 0.0002


class WorkerFailed(Exception):
    """A process failed."""


class Process:
    """A running process, within a block.

    Args:
        module: The module of this package with the function.
        function: The function to call with the job.
        job: The job.
        environ: Changes of its environment.
        under: A command to run it under, such as a profiler with its options. It must keep the process id.
    """

    def __init__(
        self,
        module: str,
        function: str,
        job: Job,
        environ: Mapping[str, str] | None = None,
        under: Sequence[str] = (),
    ) -> None:
        self._name = f"{module}.{function}"
        # Servers log disconnected peers, which matters only after a failure.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed at the end of the block
        self._popen = subprocess.Popen(
            [*under, sys.executable, "-m", "tests.benchmarks.worker", module, function, job.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=ROOT,
            env={**os.environ, **(environ or {})},
            # Ctrl-C must reach only the parent, which ends this process.
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._popen.kill()
        self._popen.communicate()
        self._errors.close()

    def read(self, key: str) -> Any:
        """Wait for a report with this key, and return its value."""
        assert self._popen.stdout is not None
        timer = threading.Timer(PATIENCE, self._popen.kill)
        timer.start()
        try:
            line = self._popen.stdout.readline()
        finally:
            timer.cancel()
        return parse_report(line, key) if line else self._fail()

    def ask(self, command: str) -> Any:
        """Send a command and return the answer."""
        assert self._popen.stdin is not None
        try:
            self._popen.stdin.write(f"{command}\n")
            self._popen.stdin.flush()
        except BrokenPipeError:
            self._fail()
        return self.read(command)

    def wait_until_asleep(self) -> None:
        """Wait until the main thread sleeps, which means that the process is idle.

        Raises:
            WorkerFailed: If it does not become idle, for example because a handler spins after its peer has
                disconnected.
        """
        path = Path(f"/proc/{self.pid}/stat")
        end = time.monotonic() + REST
        # The state is after the name of the program, which is in parentheses.
        while path.read_text().rpartition(")")[2].split()[0] != "S":
            if time.monotonic() > end:
                raise WorkerFailed(f"{self._name} does not come to rest")
            time.sleep(POLL)  # polls another process

    def _fail(self) -> None:
        self._popen.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        raise WorkerFailed("\n".join([f"{self._name} ended with {self._popen.returncode}", *lines[-10:]]))


def parse_report(line: str, key: str) -> Any:
    """Return the value of a key in a line of a worker.

    Raises:
        WorkerFailed: If the line does not have the key.
    """
    try:
        return json.loads(line)[key]
    except (ValueError, TypeError, KeyError) as exc:
        raise WorkerFailed(f"a report of {key!r} was expected, not {line!r}") from exc


def run(module: str, function: str, job: Job, environ: Mapping[str, str] | None = None) -> Any:
    """Run a process to its end, and return its result."""
    with Process(module, function, job, environ) as process:
        return process.read("result")
