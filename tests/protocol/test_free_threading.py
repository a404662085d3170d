"""The compiled code needs no GIL: it says so, and several threads may use it at the same time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from trio_ws.frames import Close, Opcode
from trio_ws.protocol import Protocol, Role, hot

compiled = pytest.importorskip("trio_ws.protocol.compiled")

KEY = b"\x01\x02\x03\x04"
THREADS = 4


def run_in_threads(function: Callable[[int], None]) -> None:
    """Call a function in several threads, which start at the same time. Raise their exceptions."""
    barrier = threading.Barrier(THREADS)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            barrier.wait()
            function(number)
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


def test_the_module_says_that_it_needs_no_gil() -> None:
    source = Path(hot.__file__).with_name("compiled.pyx").read_text(encoding="utf-8")
    directives = re.match(r"(?:# cython: .*\n)+", source)
    assert directives is not None
    assert "freethreading_compatible=True" in directives[0]


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python always has a GIL")
def test_the_gil_stays_off() -> None:
    code = "import sys, trio_ws; from trio_ws.protocol import hot; print(hot.COMPILED, sys._is_gil_enabled())"
    # The variable would keep the GIL off in any case.
    env = {name: value for name, value in os.environ.items() if name != "PYTHON_GIL"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.split() == ["True", "False"]


def test_the_module_has_no_mutable_state() -> None:
    """Its C variables, apart from what Cython itself needs, are constants: there are no `cdef` globals."""
    source = Path(hot.__file__).with_name("compiled.pyx").read_text(encoding="utf-8")
    for line in re.findall(r"^cdef .*", source, re.MULTILINE):
        assert re.match(r"cdef (extern|enum|class|.*\().*", line), line
    # And no names that are assigned, but __all__.
    assert re.findall(r"^(\w+) *=[^=]", source, re.MULTILINE) == ["__all__"]


def test_threads_that_add_to_one_payload() -> None:
    """The connection never does this. It must not corrupt memory all the same."""
    piece, count = bytes(range(256)), 500
    payload = compiled.Payload(THREADS * count * len(piece))

    def add(number: int) -> None:
        for _ in range(count):
            payload.add(piece, b"")

    run_in_threads(add)
    assert payload.size == THREADS * count * len(piece)
    assert payload.take() == piece * (THREADS * count)


def test_threads_that_add_and_take() -> None:
    for _ in range(20):
        payload = compiled.Payload(1_000_000)
        taken: list[bytes] = []

        def work(number: int, payload: object = payload, taken: list[bytes] = taken) -> None:
            for _ in range(50):
                try:
                    payload.add(b"abc" * 100, KEY)  # type: ignore[attr-defined]  # a Payload
                except ValueError:
                    break  # it was taken, so nothing fits any more
                if number == 0:
                    taken.append(payload.take())  # type: ignore[attr-defined]  # a Payload

        run_in_threads(work)
        assert all(len(data) % 300 == 0 for data in taken)


def test_threads_that_use_the_functions() -> None:
    frames = [(0x81, b"hello", True), (0x82, bytes(1000), True)] * 20
    packed = compiled.pack(frames, KEY * 40)

    def work(number: int) -> None:
        for _ in range(100):
            assert compiled.pack(frames, KEY * 40) == packed
            messages, position = compiled.take_messages(packed, 0, True, None, 100)
            assert messages == ["hello", bytes(1000)] * 20
            assert position == len(packed)
            assert compiled.take_small_frames(packed, 0, True, bytes(256), 5) == ([], 0)

    run_in_threads(work)


def test_a_list_that_another_thread_changes_while_it_is_packed() -> None:
    frames = [(0x82, bytes(100), True)] * 50
    working = [True]

    def work(number: int) -> None:
        if number:
            while working[0]:
                frames[:] = [(0x82, bytes(100 * number), True)] * (25 * number)
        else:
            try:
                for _ in range(300):
                    try:
                        assert len(compiled.pack(frames)) % 2 == 0
                    except RuntimeError:
                        pass  # it has noticed
            finally:
                working[0] = False

    run_in_threads(work)


def test_a_close_frame_while_a_thread_encodes() -> None:
    """A thread that was abandoned when a send was cancelled may still be encoding: keys are not used twice."""
    used: list[bytes] = []

    def key(size: int) -> bytes:
        data = len(used).to_bytes(2, "big") + bytes(size - 2)
        used.append(data)
        return data

    client = Protocol(Role.CLIENT, random=key)
    chunks: list[bytes] = []

    def work(number: int) -> None:
        if number == 0:
            chunks.extend(client.encode_close(Close(1001, "")))
        elif number == 1:
            try:
                for _ in range(100):
                    chunks.extend(client.encode(Opcode.BINARY, bytes(70_000)))
            except Exception:
                pass  # the connection is closed

    run_in_threads(work)
    keys = [chunk[2:6] if chunk[0] == 0x88 else chunk[10:14] for chunk in chunks]
    assert len(set(keys)) == len(keys)


def test_a_payload_after_an_allocation_has_failed() -> None:
    memory = pytest.importorskip("_testcapi", reason="this Python was built without its own test modules")
    more, results = bytes(500_000), set()
    # The first allocation that fails is another one each time; in the end, none does.
    for count in range(30):
        payload = compiled.Payload(1_000_000)
        payload.add(bytes(100), b"")
        memory.set_nomemory(count)
        try:
            payload.add(more, b"")
        except MemoryError:
            pass
        finally:
            memory.remove_mem_hooks()
        results.add(payload.take())
    assert results == {b"", bytes(100), bytes(500_100)}
