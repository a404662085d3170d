"""Messages on a terminal: ``show``."""

from __future__ import annotations

import re

__all__ = ["show"]

# Characters that can control a terminal or reorder its text: C0 except newline and tab, DEL, C1, the separators of
# lines and paragraphs, and the controls for bidirectional text.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def show(message: str) -> str:
    r"""Return a text message for a terminal.

    Control characters are escaped, as in ``\x1b``. Lines after the first one are indented, so that they cannot pass for
    the output of this program.
    """
    escaped = _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), message)
    return escaped.replace("\n", "\n  ")
