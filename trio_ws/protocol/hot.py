"""The functions that all bytes pass through: compiled ones if there are, otherwise those in Python.

There are none where the package was installed without a C compiler. The environment variable ``TRIO_WS_PURE``, with
anything but 0, is the way not to use them when they are there. Nothing else depends on which it is.
"""

from __future__ import annotations

import os

from .pure import Payload, apply_mask, pack, take_messages

__all__ = ["COMPILED", "Payload", "apply_mask", "pack", "take_messages"]

#: Whether it is the compiled ones.
COMPILED: bool = False

if os.environ.get("TRIO_WS_PURE", "0") in ("", "0"):
    try:
        from .compiled import Payload, apply_mask, pack, take_messages
    except ImportError:
        pass
    else:
        COMPILED = True
