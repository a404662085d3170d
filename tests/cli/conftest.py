"""Fixtures for the tests of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from .commands import Certificates, Command


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """A function that runs a command in this process."""
    return Command(capsys, monkeypatch)
