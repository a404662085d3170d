"""The options that ``serve`` and ``serve_over`` share: each is typed, and used by exactly one class."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio.testing

import trio_ws
from trio_ws.server.forwarded.trust import Forwarding
from trio_ws.server.policy import HandshakePolicy
from trio_ws.settings import Settings


def names(cls: type[Any]) -> set[str]:
    return {field.name for field in attrs.fields(cls)}


async def never(ws: trio_ws.WebSocket) -> None:
    raise AssertionError


async def serve(**options: Any) -> None:
    await trio_ws.serve(never, 0, **options)


async def serve_over(**options: Any) -> None:
    await trio_ws.serve_over(trio.testing.memory_stream_pair()[0], never, **options)


def test_every_option_is_used() -> None:
    used = names(Settings) | names(Forwarding) | (names(HandshakePolicy) - {"forwarding"})
    assert trio_ws.ServeOptions.__optional_keys__ == used


@pytest.mark.parametrize("function", [trio_ws.serve, trio_ws.serve_over])
def test_functions_are_typed(function: Callable[..., object]) -> None:
    parameter = inspect.signature(function).parameters["options"]
    assert parameter.kind is inspect.Parameter.VAR_KEYWORD
    assert parameter.annotation == "Unpack[ServeOptions]"


@pytest.mark.parametrize(
    "function, option",
    [(serve, "nonsense"), (serve, "forwarding"), (serve_over, "nonsense"), (serve_over, "port")],
)
async def test_unknown_options(function: Callable[..., Any], option: str) -> None:
    with pytest.raises(TypeError) as caught:
        await function(**{option: None})
    assert str(caught.value).startswith(f"{function.__name__}() has no option {option!r}; ")
