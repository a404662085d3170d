"""Instruments that log: ``LogConnections`` and ``LogFrames``."""

from __future__ import annotations

import logging
from typing import Any

import attrs

from ..exceptions.shown import show_fields
from ..instruments.interface import ConnectionSummary, FrameInfo, Instrument, ObservedWebSocket
from ..misuse.values import number
from ..protocol import Role
from ..uri import bracket_ipv6

__all__ = ["LogConnections", "LogFrames"]

_LOGGERS = {role: logging.getLogger(f"trio_ws.{role.value}") for role in Role}
_LEVEL = number(minimum=0, none=False, whole=True)


class _Log(Instrument):
    level: int

    def wants_connection(self) -> bool:
        return any(logger.isEnabledFor(self.level) for logger in _LOGGERS.values())

    def _log(self, ws: ObservedWebSocket, extra: dict[str, Any], message: str, *args: object) -> None:
        logger = _LOGGERS[ws.role]
        logger.log(self.level, f"connection %d {message}", ws.id, *args, extra={"id": ws.id, **extra})


@attrs.frozen
class LogConnections(_Log):
    """Logs one line when a connection is opened, and one when it is closed.

    The lines go to the loggers ``trio_ws.server`` and ``trio_ws.client``. For structured logging, each record has the
    attributes ``id``, ``peer``, ``path`` and ``subprotocol``. The record of a closed connection also has those of its
    :class:`ConnectionSummary`: ``code``, ``reason``, ``clean``, ``seconds``, ``bytes_received``, ``bytes_sent``,
    ``messages_received`` and ``messages_sent``.

    The query of the path is not logged, because it may contain secrets.

    Args:
        level: The level of the lines. Connections that are opened while neither logger is enabled for this level are
            not logged at all.

    Raises:
        TypeError: If the level is not an int.
        ValueError: If the level is negative.
    """

    level: int = attrs.field(default=logging.INFO, validator=_LEVEL)

    __repr__ = show_fields

    def connection_opened(self, ws: ObservedWebSocket) -> None:
        """Log that the connection is open."""
        fields = _describe(ws)
        subprotocol = "" if ws.subprotocol is None else f", subprotocol {ws.subprotocol}"
        self._log(ws, fields, "opened: %s, path %s%s", fields["peer"] or "no address", fields["path"], subprotocol)

    def connection_closed(self, ws: ObservedWebSocket, summary: ConnectionSummary) -> None:
        """Log how the connection ended, and its totals."""
        fields = attrs.asdict(summary, recurse=False, filter=attrs.filters.exclude("error"))
        self._log(
            ws,
            {**_describe(ws), **fields},
            "closed: %s; in %d messages (%d bytes), out %d messages (%d bytes), %.3f seconds",
            summary.error if summary.error.__cause__ is None else f"{summary.error} [{summary.error.__cause__}]",
            summary.messages_received,
            summary.bytes_received,
            summary.messages_sent,
            summary.bytes_sent,
            summary.seconds,
        )


@attrs.frozen
class LogFrames(_Log):
    """Logs each frame, with the beginning of its payload. For debugging.

    ::

        connection 1 < TEXT 'hello' [5 bytes]
        connection 1 > PONG '' [0 bytes]

    ``<`` marks a received frame, ``>`` a sent one. The lines go to the loggers ``trio_ws.server`` and
    ``trio_ws.client``; each record has the attribute ``id``. The payloads may be confidential.

    Args:
        level: The level of the lines. Connections that are opened while neither logger is enabled for this level are
            not logged at all.

    Raises:
        TypeError: If the level is not an int.
        ValueError: If the level is negative.
    """

    level: int = attrs.field(default=logging.DEBUG, validator=_LEVEL)

    __repr__ = show_fields

    def frame_received(self, ws: ObservedWebSocket, frame: FrameInfo) -> None:
        """Log a received frame."""
        self._log(ws, {}, "< %s", frame)

    def frame_sent(self, ws: ObservedWebSocket, frame: FrameInfo) -> None:
        """Log a sent frame."""
        self._log(ws, {}, "> %s", frame)


def _describe(ws: ObservedWebSocket) -> dict[str, Any]:
    return {
        "peer": _format_address(ws.remote_address),
        "path": ws.request.path.partition("?")[0],
        "subprotocol": ws.subprotocol,
    }


def _format_address(address: Any) -> str | None:
    """Return a socket address as ``host:port`` or the path of a Unix socket; None if there is no address."""
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"{bracket_ipv6(host)}:{port}"
    text = str(address or "")
    return (text if text.isprintable() else repr(text)) or None  # a client chooses the path of its Unix socket
