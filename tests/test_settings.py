"""Options: their defaults and their validation."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import attrs
import pytest

from trio_ws import Deflate
from trio_ws.settings import Options, Settings

DEFAULTS = {
    "open_timeout": 10,
    "close_timeout": 10,
    "ping_interval": 20,
    "ping_timeout": 20,
    "write_timeout": 60,
    "max_message_size": 1024 * 1024,
    "max_fragments": 16_384,
    "max_head_size": 32 * 1024,
    "max_headers": 128,
    "receive_buffer": 64 * 1024,
    "send_buffer": 64 * 1024,
    "compression": Deflate(),
    "subprotocols": (),
    "instruments": (),
}
TIMES = ["open_timeout", "close_timeout", "ping_interval", "ping_timeout", "write_timeout"]
SIZES = ["max_message_size", "receive_buffer", "send_buffer"]
COUNTS = ["max_fragments", "max_head_size", "max_headers"]
NUMBERS = TIMES + SIZES + COUNTS
OPTIONAL = ["open_timeout", "ping_interval", "ping_timeout", "write_timeout", "max_message_size", "max_fragments"]


def make(**options: Any) -> Settings:
    return Settings(**options)


def test_defaults() -> None:
    assert attrs.asdict(Settings(), recurse=False) == DEFAULTS


def test_options_are_the_settings() -> None:
    # Settings and Options have the same names.
    assert list(Options.__annotations__) == [field.name for field in attrs.fields(Settings)] == list(DEFAULTS)
    assert Options.__total__ is False


@pytest.mark.parametrize("name", ["max_head_size", "max_headers"])
@pytest.mark.parametrize("value, error", [(0, ValueError), (-1, ValueError), (1.5, TypeError), (None, TypeError)])
def test_limits_of_heads(name: str, value: Any, error: type[Exception]) -> None:
    assert getattr(make(**{name: 1_000_000}), name) == 1_000_000
    with pytest.raises(error, match=name):
        make(**{name: value})


@pytest.mark.parametrize(
    "value", [{"a", "b"}, frozenset("a"), {"a": None}, {"a": None}.keys(), iter("a"), "a", b"a", 1]
)
def test_subprotocols_have_an_order(value: Any) -> None:
    with pytest.raises(TypeError, match="subprotocols"):
        make(subprotocols=value)


def test_frozen() -> None:
    settings = Settings()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        settings.ping_interval = 1  # type: ignore[misc]  # that is the point
    assert settings == Settings()
    assert hash(settings) == hash(Settings())


def test_keywords_only() -> None:
    with pytest.raises(TypeError):
        Settings(1)  # type: ignore[call-arg]  # that is the point
    with pytest.raises(TypeError):
        make(ping_internal=1)


@pytest.mark.parametrize("name", NUMBERS)
def test_not_a_number(name: str) -> None:
    for value in [True, False, "1", b"1", 1j, Fraction(1), [1]]:
        with pytest.raises(TypeError, match=f"^{name} must be "):
            make(**{name: value})


@pytest.mark.parametrize("name", SIZES + COUNTS)
def test_sizes_are_whole(name: str) -> None:
    for value in [1.0, 0.5, math.inf, math.nan]:
        with pytest.raises(TypeError):
            make(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
def test_none(name: str) -> None:
    if name in OPTIONAL:
        assert getattr(make(**{name: None}), name) is None
    else:
        with pytest.raises(TypeError):
            make(**{name: None})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [-1, -(10**400)])
def test_negative(name: str, value: float) -> None:
    with pytest.raises(ValueError):
        make(**{name: value})


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", [math.nan, -math.inf, -0.001])
def test_values_that_are_not_a_time(name: str, value: float) -> None:
    with pytest.raises(ValueError):
        make(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
def test_zero(name: str) -> None:
    if name.startswith("ping") or name == "write_timeout" or name in COUNTS:
        with pytest.raises(ValueError, match=f"^{name} must be at least [0-9.]+, not 0$"):
            make(**{name: 0})
    else:
        assert getattr(make(**{name: 0}), name) == 0


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", [0.001, 1, 1.5, 10**6])
def test_times(name: str, value: float) -> None:
    assert getattr(make(**{name: value}), name) == value


@pytest.mark.parametrize("name", TIMES)
def test_forever(name: str) -> None:
    # Closing always has a deadline.
    if name == "close_timeout":
        with pytest.raises(ValueError):
            make(**{name: math.inf})
    else:
        assert getattr(make(**{name: math.inf}), name) == math.inf


@pytest.mark.parametrize("name", SIZES + COUNTS)
@pytest.mark.parametrize("value", [1, 125, 2**63])
def test_sizes(name: str, value: int) -> None:
    assert getattr(make(**{name: value}), name) == value


def test_compression() -> None:
    deflate = Deflate(level=1)
    assert Settings(compression="deflate").compression == Deflate()
    assert Settings(compression=deflate).compression is deflate
    assert Settings(compression=None).compression is None


@pytest.mark.parametrize("value", [True, False, 6, "zlib", "", b"deflate", Deflate, {}])
def test_compression_of_wrong_type(value: object) -> None:
    with pytest.raises(TypeError, match=r"^compression must be 'deflate', a Deflate or None, not "):
        make(compression=value)


def test_subprotocols() -> None:
    names = ["chat", "superchat"]
    settings = Settings(subprotocols=names)
    names.append("more")
    assert settings.subprotocols == ("chat", "superchat")


@pytest.mark.parametrize("value", ["chat", b"chat", [b"chat"], [1], 1, None, {"a", "b"}, frozenset("a"), {"a": 1}])
def test_subprotocols_of_wrong_type(value: object) -> None:
    with pytest.raises(TypeError, match=r"^subprotocols must be a sequence of str(ings)?, "):
        make(subprotocols=value)


@pytest.mark.parametrize("value", [set(), {}, frozenset()])
def test_instruments_have_an_order(value: object) -> None:
    with pytest.raises(TypeError, match="instruments"):
        make(instruments=value)


@pytest.mark.parametrize("value", [[""], ["a b"], ["a", "a"], ["é"]])
def test_invalid_subprotocols(value: object) -> None:
    with pytest.raises(ValueError):
        make(subprotocols=value)
