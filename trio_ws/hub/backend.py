"""``Backend``: the interface of what connects the hubs of several processes."""

from __future__ import annotations

import abc

from ..protocol import Message

__all__ = ["Backend"]


class Backend(abc.ABC):
    """What connects hubs, in several processes: to be implemented on top of Redis, NATS, or whatever there is.

    Each hub has a back end of its own. One task of the hub calls :meth:`receive`, another one the other methods, one
    after the other, but for :meth:`count_members`, which any task may call. What they raise ends :meth:`Hub.run`; so
    does cancellation, at any time, and they leave nothing behind then. A message is a ``str`` or ``bytes``, and has to
    arrive as what it was.
    """

    @abc.abstractmethod
    async def publish(self, topic: str, message: Message) -> None:
        """Give a message to all other hubs that have members in a topic, but not to this one.

        Messages of one hub to one topic arrive in order.
        """

    @abc.abstractmethod
    async def receive(self) -> tuple[str, Message]:
        """Wait for the next message of another hub, and return its topic and the message.

        Topics without members here may be among them; they are ignored.
        """

    @abc.abstractmethod
    async def set_members(self, topic: str, count: int) -> None:
        """Take note of how many members a topic has here: above 0 its messages are wanted, at 0 no more.

        It is called when that changes. If a process ends without saying so, the number has to be forgotten after a
        while.
        """

    @abc.abstractmethod
    async def count_members(self, topic: str) -> int:
        """Return how many members a topic has in all other hubs."""
