"""Every fuzz target with its corpus, and with some random inputs. It needs no atheris."""

from __future__ import annotations

import importlib
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .harness import chunks, decoded_in_python, outcome

FOLDER = Path(__file__).parent
TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in FOLDER.glob("fuzz_*.py"))


def load(target: str) -> Callable[[bytes], None]:
    function: Callable[[bytes], None] = importlib.import_module(f"tests.fuzz.fuzz_{target}").TestOneInput
    return function


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus(target: str) -> None:
    test_one_input = load(target)
    inputs = sorted((FOLDER / "corpus" / target).iterdir())
    assert len(inputs) >= 3
    for path in inputs:
        test_one_input(path.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_changed_inputs(target: str) -> None:
    """A few changes that a fuzzer makes, always the same."""
    test_one_input = load(target)
    source = random.Random(1)
    for path in sorted((FOLDER / "corpus" / target).iterdir())[:10]:
        data = bytearray(path.read_bytes()[:500])
        for _ in range(3):
            if data:
                data[source.randrange(len(data))] = source.randrange(256)
            test_one_input(bytes(data))
        test_one_input(bytes(data[: len(data) // 2]))
    test_one_input(b"")
    test_one_input(b"a")


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_has_what_oss_fuzz_wants(target: str) -> None:
    source = (FOLDER / f"fuzz_{target}.py").read_text(encoding="utf-8")
    assert source.endswith('\n\nif __name__ == "__main__":\n    main(TestOneInput)\n')
    # What is tested is imported with instrumentation.
    for line in re.findall(r"^( *)from trio_ws", source, re.MULTILINE):
        assert line == "    "
    assert (FOLDER / "corpus" / target).is_dir()
    dictionary = FOLDER / f"fuzz_{target}.dict"
    if dictionary.exists():
        for line in dictionary.read_text(encoding="utf-8").splitlines():
            assert re.fullmatch(r'"([^"\\]|\\["\\]|\\x[0-9a-f]{2})+"', line), line


def test_the_build_script_is_valid() -> None:
    if sys.platform == "win32":
        pytest.skip("there is no bash here")
    subprocess.run(["bash", "-n", str(FOLDER / "oss-fuzz" / "build.sh")], check=True)


def test_chunks() -> None:
    assert chunks(b"abcde", 2) == [b"ab", b"cd", b"e"]
    assert chunks(b"abcde", 0) == [b"abcde"]
    assert chunks(b"", 0) == chunks(b"", 3) == []


def test_outcomes() -> None:
    assert outcome(lambda: 1, ValueError) == 1
    assert outcome(lambda: int("a"), ValueError) is ValueError
    with pytest.raises(ZeroDivisionError):
        outcome(lambda: 1 / 0, ValueError)


def test_a_difference_between_the_implementations_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from trio_ws.protocol import pure

    test_one_input = load("frames")
    monkeypatch.setattr(pure, "apply_mask", lambda data, key, offset=0: bytes(len(data)))
    with pytest.raises(AssertionError):
        test_one_input(b"\x01\x00" + b"abcdefgh")


def test_the_functions_in_python_are_used() -> None:
    from trio_ws.protocol import hot, pure

    codec: Any = importlib.import_module("trio_ws.protocol.codec")

    with decoded_in_python():
        assert codec.take_messages is pure.take_messages
    assert codec.take_messages is hot.take_messages
