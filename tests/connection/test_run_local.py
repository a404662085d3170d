"""Tests of values that exist once per run of Trio."""

from __future__ import annotations

import trio

from trio_ws.connection.run_local import RunLocal


def test_each_run_has_its_own() -> None:
    made: list[object] = []

    def make() -> object:
        made.append(object())
        return made[-1]

    one, other = RunLocal(make), RunLocal(make)

    async def main() -> list[object]:
        return [one.get(), one.get(), other.get(), one.get()]

    first, second = trio.run(main), trio.run(main)
    assert len(made) == 4
    for got in (first, second):
        assert got[0] is got[1] is got[3]
        assert got[0] is not got[2]
    assert first[0] is not second[0]
