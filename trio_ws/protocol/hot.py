"""The functions that process every byte: compiled if available, otherwise in Python.

The compiled module is missing if the package was installed from source without a C compiler. Setting the environment
variable ``TRIO_WS_PURE`` to anything but 0 or an empty text disables it. Both versions behave the same.
"""

from __future__ import annotations

import os

from .pure import Payload, apply_mask, pack, take_messages, take_small_frames

__all__ = ["COMPILED", "Payload", "apply_mask", "pack", "take_messages", "take_small_frames"]

#: Whether the compiled functions are used.
COMPILED: bool = False

if os.environ.get("TRIO_WS_PURE", "0") in ("", "0"):
    try:
        from .compiled import Payload, apply_mask, pack, take_messages, take_small_frames
    except ImportError:
        pass
    else:
        COMPILED = True
