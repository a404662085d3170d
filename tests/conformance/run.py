"""Run the Autobahn test suite against our server and our client, and compare each case with ``expected.txt``.

``nox -s conformance`` installs the suite and calls this; by hand::

    python tests/conformance/run.py --wstest path/to/wstest [--role server] [CASE ...]

The suite is the peer: a fuzzing client for our server, a fuzzing server for our client. Our end only echoes.
It prints the summary of docs/conformance.rst. The exit status is 1 if the result of any case is unexpected.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import trio

import trio_ws
from trio_ws.protocol.deflate.transform import load_back_end

HERE = Path(__file__).parent
EXPECTED = dict(line.split() for line in (HERE / "expected.txt").read_text().splitlines())

#: The default cases for compression: messages of 16 bytes, of 4 KiB, and larger ones in fragments, for each kind of
#: content and all parameters.
COMPRESSION = [
    *(f"12.{kind}.{size}" for kind in range(1, 6) for size in (1, 5, 11)),
    *(f"13.{kind}.{size}" for kind in range(1, 8) for size in (1, 5, 11)),
]
#: The default cases, which take a few minutes.
DEFAULT = [*(f"{section}.*" for section in (1, 2, 3, 4, 5, 6, 7, 9, 10)), *COMPRESSION]

SECTIONS = {
    "1": "Framing",
    "2": "Pings and pongs",
    "3": "Reserved bits",
    "4": "Opcodes",
    "5": "Fragmentation",
    "6": "UTF-8",
    "7": "Closing handshake",
    "9": "Limits and performance",
    "10": "Automatic fragmentation",
    "12": "Compression: payloads",
    "13": "Compression: parameters",
}

AGENT = "trio_ws"
# Section 9 has messages of up to 16 MiB, and of up to 65,536 fragments.
OPTIONS: trio_ws.Options = {"max_message_size": 2**25, "max_fragments": None, "open_timeout": 30}

Result = dict[str, Any]


async def echo(ws: trio_ws.WebSocket) -> None:
    """Send back every message."""
    async for message in ws:
        await ws.send(message)


async def test_server(wstest: str, cases: list[str], folder: Path) -> None:
    """Let the suite's client run its cases against our server."""
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(trio_ws.serve, echo, 0, host="127.0.0.1", **OPTIONS))
        url = f"ws://127.0.0.1:{server.port}"
        spec = {"servers": [{"agent": AGENT, "url": url, "options": {"version": 18}}]}
        command = prepare(wstest, "fuzzingclient", spec, cases, folder)
        await trio.run_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        nursery.cancel_scope.cancel()


async def test_client(wstest: str, cases: list[str], folder: Path) -> None:
    """Run the cases of the suite's server with our client."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"ws://127.0.0.1:{free.getsockname()[1]}"
    command = prepare(wstest, "fuzzingserver", {"url": url}, cases, folder)
    process = await trio.lowlevel.open_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        count = int(await ask(f"{url}/getCaseCount"))
        for number in range(1, count + 1):
            await run_case(f"{url}/runCase?case={number}&agent={AGENT}")
        await run_case(f"{url}/updateReports?agent={AGENT}")
    finally:
        process.kill()
        await process.wait()


async def ask(uri: str) -> str:
    """Query the suite's server, which may still be starting."""
    with trio.fail_after(120):
        while True:
            try:
                async with trio_ws.connect(uri) as ws:
                    return await ws.receive(decode=True)
            except trio_ws.ConnectFailed:
                await trio.sleep(0.1)


async def run_case(uri: str) -> None:
    """Echo until the connection ends. The suite checks how it ends."""
    try:
        async with trio_ws.connect(uri, **OPTIONS) as ws:
            await echo(ws)
    except trio_ws.ConnectionClosed:
        pass


def prepare(wstest: str, mode: str, spec: dict[str, Any], cases: list[str], folder: Path) -> list[str]:
    """Write the specification of a run, and return its command."""
    common = {"outdir": str(folder), "cases": cases, "exclude-cases": [], "exclude-agent-cases": {}}
    file = folder / "spec.json"
    file.write_text(json.dumps({**spec, **common}))
    return [wstest, "-m", mode, "-s", str(file), "-u", "0"]


def judge(results: Result, patterns: Iterable[str]) -> list[str]:
    """Return a line for each case with an unexpected result, and for each that was not run."""
    wanted = {case for case in EXPECTED for pattern in patterns if fnmatch.fnmatchcase(case, pattern)}
    lines = [f"{case}: not run" for case in sorted(wanted - set(results))]
    for case, result in results.items():
        expected = EXPECTED.get(case, "unknown to expected.txt")
        got = {result["behavior"], result["behaviorClose"]}
        if got != {expected}:
            lines.append(f"{case}: {' / '.join(sorted(got))}, expected {expected}")
    return lines


def summarize(results: dict[str, Result]) -> Iterable[str]:
    """Yield the lines of an RST table: the cases with the expected result, of those run, by section and role."""
    rule = "=" * 28 + " " + " ".join("=" * 12 for _ in results)
    yield from (rule, f"{'Section':28} " + " ".join(f"{role:12}" for role in results), rule)
    for section, title in SECTIONS.items():
        cells = []
        for result in results.values():
            of_section = {case: each for case, each in result.items() if case.split(".")[0] == section}
            cells.append(f"{len(of_section) - len(judge(of_section, ()))} of {len(of_section)}")
        yield f"{section:>2} {title:25} " + " ".join(f"{cell:12}" for cell in cells)
    cells = [f"{len(result) - len(judge(result, ()))} of {len(result)}" for result in results.values()]
    yield f"{'All':28} " + " ".join(f"{cell:12}" for cell in cells)
    yield rule


def main() -> int:
    """Run the cases from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "cases",
        nargs="*",
        default=DEFAULT,
        metavar="CASE",
        help="such as 7.*; all for all 517",
    )
    parser.add_argument("--wstest", default="wstest", help="the command of autobahntestsuite 0.8.2")
    parser.add_argument("--library", choices=["zlib", "zlib_ng"], help="default: zlib_ng if it is installed")
    parser.add_argument("--role", choices=["server", "client"], action="append", help="default: both")
    options = parser.parse_args()
    if options.library == "zlib":
        sys.modules["zlib_ng"] = None  # type: ignore[assignment]  # so that it cannot be imported
    if options.library not in (None, load_back_end()):
        parser.error(f"{options.library} is not installed")
    cases = ["*" if case == "all" else case for case in options.cases]

    tests = {"server": test_server, "client": test_client}
    results: dict[str, Result] = {}
    unexpected = 0
    for role in options.role or tests:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            trio.run(tests[role], options.wstest, cases, folder)
            results[role] = json.loads((folder / "index.json").read_text())[AGENT]
        wrong = judge(results[role], cases)
        unexpected += len(wrong)
        as_expected = len(results[role]) - len(judge(results[role], ()))
        seconds = time.monotonic() - started
        print(f"{role}: {as_expected} of {len(results[role])} cases as expected, {seconds:.0f} s", flush=True)
        for line in wrong:
            print(f"    {line}", flush=True)
    python = f"{platform.python_implementation()} {platform.python_version()}"
    print(f"\ntrio_ws {trio_ws.__version__}, {python}, {load_back_end()}:", "", *summarize(results), sep="\n")
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
