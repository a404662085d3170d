"""Arguments of the wrong type or out of range: checks, and validators for attrs.

The errors name the argument and say what it must be. For arguments that may hold secrets, such as credentials, they
show only the type.
"""

from __future__ import annotations

import math
import ssl as ssl_module
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from attrs import Attribute

__all__ = [
    "Validator",
    "check_instance",
    "check_int",
    "check_path",
    "check_stream",
    "flag",
    "number",
    "optional_credentials",
    "optional_function",
    "optional_text",
    "text",
    "tls_context",
    "to_tuple",
]

Validator: TypeAlias = "Callable[[Any, Attribute[Any], Any], None]"


def check_instance(name: str, value: object, types: type | tuple[type, ...], expected: str) -> None:
    """Check the type of an argument.

    Args:
        name: The name of the argument.
        value: The value of the argument.
        types: The allowed type or types.
        expected: A description of the allowed types, such as ``"a str or None"``.

    Raises:
        TypeError: If the value has another type.
    """
    if not isinstance(value, types):
        raise TypeError(f"{name} must be {expected}, not {value!r}")


def check_int(name: str, value: object, minimum: int, maximum: int | None = None) -> None:
    """Check an argument that must be an int.

    Args:
        name: The name of the argument.
        value: The value of the argument.
        minimum: The smallest allowed value.
        maximum: The largest allowed value; None for no limit.

    Raises:
        TypeError: If the value is not an int, or is a bool.
        ValueError: If the value is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < minimum or (maximum is not None and value > maximum):
        allowed = f"at least {minimum}" if maximum is None else f"between {minimum} and {maximum}"
        raise ValueError(f"{name} must be {allowed}, not {value}")


def to_tuple(name: str, value: Any, expected: str, *, ordered: bool = False) -> tuple[Any, ...]:
    """Convert an argument to a tuple. Strings and bytes are not accepted as sequences.

    Args:
        name: The name of the argument.
        value: The value of the argument.
        expected: A description of the allowed values, such as ``"a sequence of str"``.
        ordered: Whether the order matters, so that only sequences are accepted.

    Raises:
        TypeError: If the value is a str, is bytes, is not iterable, or is not the sequence that it must be.
    """
    if (
        isinstance(value, (str, bytes, bytearray))
        or not isinstance(value, Iterable)
        or (ordered and not isinstance(value, Sequence))
    ):
        raise TypeError(f"{name} must be {expected}, not {value!r}")
    return tuple(value)


def check_stream(name: str, stream: object) -> None:
    """Check that an argument has the methods of a Trio stream.

    Raises:
        TypeError: If one is missing.
    """
    # Streams need not inherit from trio.abc.Stream.
    if not (hasattr(stream, "send_all") and hasattr(stream, "receive_some")) or isinstance(stream, type):
        raise TypeError(f"{name} must be a Trio stream, not {stream!r}")


def check_path(name: str, path: object) -> None:
    """Check that an argument is a file system path.

    Raises:
        TypeError: If the argument is neither str, bytes nor path-like.
    """
    if not isinstance(path, (str, bytes)) and not hasattr(path, "__fspath__"):
        raise TypeError(f"{name} must be a str or os.PathLike, not {path!r}")


# -- Validators ----------------------------------------------------------------------------------------------------


def _instance_of(types: type | tuple[type, ...], expected: str) -> Validator:
    def check(_instance: Any, attribute: Attribute[Any], value: Any) -> None:
        check_instance(attribute.name, value, types, expected)

    return check


text: Validator = _instance_of(str, "a str")
optional_text: Validator = _instance_of((str, type(None)), "a str or None")
flag: Validator = _instance_of(bool, "a bool")
tls_context: Validator = _instance_of((ssl_module.SSLContext, type(None)), "an ssl.SSLContext or None")


def number(*, minimum: float, none: bool, finite: bool = False, whole: bool = False) -> Validator:
    """Return a validator for numbers.

    Args:
        minimum: The smallest allowed number.
        none: Whether None is allowed.
        finite: Whether infinity is not allowed.
        whole: Whether only ints are allowed.
    """

    def check(_instance: Any, attribute: Attribute[Any], value: Any) -> None:
        if value is None and none:
            return
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            kind = "an int" if whole else "a number"
            raise TypeError(f"{attribute.name} must be {kind}{' or None' if none else ''}, not {value!r}")
        if not value >= minimum or (finite and math.isinf(value)):
            bounds = f"at least {minimum}{' and finite' if finite else ''}"
            raise ValueError(f"{attribute.name} must be {bounds}, not {value!r}")

    return check


def optional_function(_instance: Any, attribute: Attribute[Any], value: Any) -> None:
    """Check that a value is callable or None."""
    if value is not None and not callable(value):
        raise TypeError(f"{attribute.name} must be a function or None, not {value!r}")


def optional_credentials(_instance: Any, attribute: Attribute[Any], value: Any) -> None:
    """Check that a value is callable or None. The error does not show the value, because it may be a password."""
    if value is not None and not callable(value):
        raise TypeError(f"{attribute.name} must be a function or None, not {type(value).__name__}")
