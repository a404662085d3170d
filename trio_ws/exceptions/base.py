"""The base class of every exception of the library.

The classes are not frozen, because the interpreter sets __traceback__, __context__ and __notes__; not
slotted, because two bases with slots do not mix; and compared by identity, as exceptions are. A subclass without
attributes of its own takes everything from its base.
"""

__all__ = ["WebSocketException"]


class WebSocketException(Exception):
    """Base class of every exception that this library defines."""
