"""Processes that share the connections of ``trio-ws bench``."""

from __future__ import annotations

import argparse
import subprocess
import sys

import trio

from .failure import Failure

__all__ = ["run_workers"]


async def run_workers(options: argparse.Namespace, size: int) -> list[bytes]:
    """Run the bench in several processes at the same time, and return what each has printed.

    Args:
        options: The arguments of the command.
        size: The size of the messages, in bytes.

    Raises:
        Failure: If one of them fails.
    """
    outputs: list[bytes] = []

    async def run_worker(connections: int) -> None:
        command = [sys.executable, "-m", "trio_ws", *_arguments(options, size, connections)]
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        if done.returncode != 0:
            raise Failure(_last_line(done))
        outputs.append(done.stdout)

    failures: list[Failure] = []
    async with trio.open_nursery() as nursery:

        async def run_or_fail(connections: int) -> None:
            try:
                await run_worker(connections)
            except Failure as exc:
                failures.append(exc)
                nursery.cancel_scope.cancel()

        each, more = divmod(options.connections, options.processes)
        for number in range(options.processes):
            nursery.start_soon(run_or_fail, each + (number < more))
    if failures:
        raise failures[0]
    return outputs


def _arguments(options: argparse.Namespace, size: int, connections: int) -> list[str]:
    """Return the arguments of one process."""
    arguments = ["bench", options.uri, "--json", f"--connections={connections}", f"--size={size}"]
    arguments += [f"--duration={options.duration}", f"--window={options.window}"]
    return arguments + [f"--{name}" for name in ("binary", "compression", "insecure") if getattr(options, name)]


def _last_line(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stderr.decode(errors="replace").splitlines()
    text = lines[-1].removeprefix("error: ") if lines else f"exit status {done.returncode}"
    return f"a process of the bench failed: {text}"
