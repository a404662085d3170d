"""A process of the benchmark, from the inside: it does its job, and reports with lines of JSON on its output.

``python -m tests.benchmarks.worker MODULE FUNCTION JOB`` calls a function of a module of this package and reports what
it returns. Meanwhile a thread answers what is asked on the standard input: ``cpu``, ``memory`` and ``library``. When
that ends, the process ends, whatever it is doing: it never outlives the one that has started it.
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

#: The environment variable that names a module that cannot be imported, to measure without it.
WITHOUT = "TRIO_WS_BENCHMARK_WITHOUT"
#: The environment variable that names a folder whose ``trio_ws`` is imported instead of the one in this checkout.
TREE = "TRIO_WS_BENCHMARK_TREE"


def report(**values: Any) -> None:
    """Tell the process that has started this one."""
    print(json.dumps(values), flush=True)


def finish(result: dict[str, float]) -> NoReturn:
    """Report the result, and end without closing anything: nobody waits to see how long that takes."""
    report(result=result)
    os._exit(0)


def cpu() -> float:
    """Return the seconds of processor time that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def memory() -> int:
    """Return the bytes of memory that are this process's alone."""
    gc.collect()
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * sum(map(int, re.findall(r"^Private_(?:Clean|Dirty): +(\d+) kB", rollup, re.MULTILINE)))


def library() -> dict[str, Any]:
    """Return which ``trio_ws`` this process has imported, and whether with its compiled code; empty if none."""
    imported = sys.modules.get("trio_ws")
    if imported is None or imported.__file__ is None:
        return {}
    folder = Path(imported.__file__).parents[1]
    return {"tree": str(folder), "compiled": "trio_ws.protocol.compiled" in sys.modules}


def raise_limit_of_files() -> None:
    """Allow as many open sockets as this user may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def answer() -> None:
    """Answer what is asked, and end the process with the input."""
    for line in sys.stdin:
        command = line.strip()
        report(**{command: {"cpu": cpu, "memory": memory, "library": library}[command]()})
    os._exit(1)


def main() -> None:
    if os.environ.get(WITHOUT):
        sys.modules[os.environ[WITHOUT]] = None  # type: ignore[assignment]  # how Python spells it
    if os.environ.get(TREE):
        # The package of these benchmarks is imported already: its modules come from this checkout all the same.
        sys.path.insert(0, os.environ[TREE])
    module, function, job = sys.argv[1:]
    raise_limit_of_files()
    threading.Thread(target=answer, daemon=True).start()
    try:
        finish(getattr(importlib.import_module(f"tests.benchmarks.{module}"), function)(Job.from_json(job)))
    except BaseException:
        traceback.print_exc()
        # Python would wait for the thread, which waits for the input.
        os._exit(1)


if __name__ == "__main__":
    main()
