"""Conversions of command line arguments, for ``type=`` of :mod:`argparse`."""

from __future__ import annotations

import argparse
import re

from ..frames import may_send

__all__ = ["close_code", "count", "header", "port", "seconds", "size", "sizes"]

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def port(text: str) -> int:
    """Return a TCP port; 0 stands for any free one."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"the port must be between 0 and 65535, not {text!r}")
    return int(text)


def header(text: str) -> tuple[str, str]:
    """Return the name and the value of a header."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"a header must look like 'NAME: VALUE', not {text!r}")
    return name.strip(), value.strip()


def size(text: str) -> int:
    """Return a number of bytes. ``K``, ``M`` and ``G`` stand for KiB, MiB and GiB."""
    match = re.fullmatch(r"([0-9]{1,15})([KMG]?)", text.strip().upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"a size must be a number of bytes such as 4096, 64K or 1M, not {text!r}")
    return int(match[1]) * _UNITS[match[2]]


def sizes(text: str) -> list[int]:
    """Return numbers of bytes, separated by commas."""
    return [size(part) for part in text.split(",")]


def count(text: str) -> int:
    """Return a number that is at least 1."""
    if not (text.isascii() and text.isdigit() and len(text) <= 15 and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"the number must be at least 1, not {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """Return a number of seconds that is positive and finite."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e9:
        raise argparse.ArgumentTypeError(f"the number of seconds must be positive, not {text!r}")
    return number


def close_code(text: str) -> int:
    """Return a close code that an application may send."""
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and may_send(int(text))):
        raise argparse.ArgumentTypeError(
            f"the close code must be between 3000 and 4999, or a standard one such as 1000, not {text!r}"
        )
    return int(text)
