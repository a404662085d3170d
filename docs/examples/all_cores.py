"""Run a chat server on all cores: a process for each, on one port, with Redis in between.

Run it with ``python all_cores.py redis://localhost:6379``. It starts ``chat_server.py``, which is
in the same folder, once for each core. With ``reuse_port``, the operating system distributes the
connections among the processes. Clients in the same room talk to each other, whichever process
they are connected to.

Ctrl-C or SIGTERM ends all processes, and each closes its connections first. A process that fails is
started again after a second.
"""

import os
import signal
import sys
from functools import partial
from pathlib import Path

import trio

PROCESSES = os.cpu_count() or 1
CHAT_SERVER = Path(__file__).parent / "chat_server.py"


async def stop(process: trio.Process) -> None:
    process.terminate()
    with trio.move_on_after(10):
        await process.wait()
    process.kill()


async def keep_running(arguments: list[str]) -> None:
    command = [sys.executable, str(CHAT_SERVER), *arguments, "--reuse-port"]
    while True:
        await trio.run_process(command, check=False, deliver_cancel=stop)
        await trio.sleep(1)


async def main(redis: str, *more: str) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            for _ in range(PROCESSES):
                nursery.start_soon(keep_running, ["--redis", redis, *more])
            await anext(signals)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(partial(main, *sys.argv[1:]))
