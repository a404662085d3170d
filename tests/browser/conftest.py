"""Fixtures for the tests in this folder."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
async def bounded(watchdog: None) -> None:
    """Fail a test that hangs."""


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for screenshots."""
    monkeypatch.setattr("tests.browser.site.ARTIFACTS", tmp_path / "artifacts")
    return tmp_path / "artifacts"
