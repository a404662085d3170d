"""The Date header: ``http_date``."""

from __future__ import annotations

import email.utils
import time

import pytest

from trio_ws.server.date import http_date


def test_dates_are_those_of_the_standard_library(monkeypatch: pytest.MonkeyPatch) -> None:
    # 37 days and a few hours, so that all days, months and hours occur.
    for seconds in range(0, 60 * 366 * 86400, 37 * 86400 + 7 * 3600 + 61):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: seconds + 0.9)
        assert http_date() == email.utils.formatdate(seconds, usegmt=True)
