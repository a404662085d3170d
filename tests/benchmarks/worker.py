"""The main program of a process of the benchmark: runs a job, and prints its reports as lines of JSON.

``python -m tests.benchmarks.worker MODULE FUNCTION JOB`` calls a function of a module of this package and reports its
result. Meanwhile a thread answers the commands ``cpu``, ``memory`` and ``library`` on the standard input. The process
exits at the end of its input, so it never outlives its parent.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import re
import resource
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn

from .job import Job

ROOT = Path(__file__).parents[2]

#: The environment variable with the name of a module to hide, to measure without it.
WITHOUT = "TRIO_WS_BENCHMARK_WITHOUT"
#: The environment variable with a folder from which to import ``trio_ws``, instead of this checkout.
TREE = "TRIO_WS_BENCHMARK_TREE"


def report(**values: Any) -> None:
    """Send a report to the parent process."""
    print(json.dumps(values), flush=True)


def finish(result: dict[str, float]) -> NoReturn:
    """Report the result, and exit without closing anything, which would only take time."""
    report(result=result)
    os._exit(0)


def cpu() -> float:
    """Return the processor time of this process, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def memory() -> int:
    """Return the private memory of this process, in bytes."""
    gc.collect()
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * sum(map(int, re.findall(r"^Private_(?:Clean|Dirty): +(\d+) kB", rollup, re.MULTILINE)))


def library() -> dict[str, Any]:
    """Return the ``trio_ws`` that this process has imported, and whether it is compiled; empty if none."""
    imported = sys.modules.get("trio_ws")
    if imported is None or imported.__file__ is None:
        return {}
    folder = Path(imported.__file__).parents[1]
    return {"tree": str(folder), "compiled": "trio_ws.protocol.compiled" in sys.modules}


def raise_limit_of_files() -> None:
    """Raise the limit of open files as far as allowed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def answer() -> None:
    """Answer commands on the standard input, and exit at its end."""
    for line in sys.stdin:
        command = line.strip()
        report(**{command: {"cpu": cpu, "memory": memory, "library": library}[command]()})
    os._exit(1)


def main() -> None:
    if os.environ.get(WITHOUT):
        sys.modules[os.environ[WITHOUT]] = None  # type: ignore[assignment]  # how Python spells it
    if os.environ.get(TREE):
        # The benchmarks are imported already, so their modules still come from this checkout.
        sys.path.insert(0, os.environ[TREE])
    module, function, job = sys.argv[1:]
    raise_limit_of_files()
    threading.Thread(target=answer, daemon=True).start()
    try:
        finish(getattr(importlib.import_module(f"tests.benchmarks.{module}"), function)(Job.from_json(job)))
    except BaseException:
        traceback.print_exc()
        # Exit hard, because Python would wait for the thread, which waits for input.
        os._exit(1)


if __name__ == "__main__":
    main()
