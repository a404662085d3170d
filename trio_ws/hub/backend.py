"""The interface that connects the hubs of several processes: ``Backend``."""

from __future__ import annotations

import abc

from ..protocol import Message

__all__ = ["Backend"]


class Backend(abc.ABC):
    """Abstract base class for the back end of a :class:`Hub`, to implement with Redis, NATS or another broker.

    Each hub needs a back end object of its own. One task of :meth:`Hub.run` calls :meth:`receive`; another calls
    :meth:`publish` and :meth:`set_members`, one at a time. An exception from these methods ends :meth:`Hub.run`. Any
    task may call :meth:`count_members`. Calls can be cancelled at any time, and must leave nothing behind then. A
    message is a ``str`` or ``bytes``, and must arrive with the type with which it was published.
    """

    @abc.abstractmethod
    async def publish(self, topic: str, message: Message) -> None:
        """Send a message to all other hubs that have members in a topic, but not to this one.

        The messages of one hub to one topic must arrive in order.
        """

    @abc.abstractmethod
    async def receive(self) -> tuple[str, Message]:
        """Wait for a message from another hub. Return its topic and the message.

        The hub ignores messages to topics that have no members here.
        """

    @abc.abstractmethod
    async def set_members(self, topic: str, count: int) -> None:
        """Set the number of members that a topic has in this hub. Subscribe to the topic above 0, unsubscribe at 0.

        Called when the number has changed. If a process dies, the back end must forget its numbers after a while.
        """

    @abc.abstractmethod
    async def count_members(self, topic: str) -> int:
        """Return the number of members that a topic has in all other hubs."""
