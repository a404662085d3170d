"""Traces and metrics for OpenTelemetry: ``OpenTelemetryInstrument``. Requires the extra ``opentelemetry``.

There are no semantic conventions for WebSocket. Attributes have the names of the conventions for HTTP and networks
where these fit, and metrics are named like those for HTTP, with ``websocket`` instead of ``http``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from ..datastructures import Headers
from ..exceptions import InvalidHandshake
from ..frames import Opcode
from ..http11 import Request
from ..instruments.interface import ConnectionSummary, HandshakeFailure, Instrument, ObservedWebSocket
from ..protocol import Role
from .codes import code_label

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["OpenTelemetryInstrument"]

#: The upper bounds of the histograms' buckets.
HANDSHAKE_BUCKETS: tuple[float, ...] = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
PING_BUCKETS: tuple[float, ...] = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
CONNECTION_BUCKETS: tuple[float, ...] = (0.1, 1, 10, 60, 600, 3600, 6 * 3600, 24 * 3600)
SIZE_BUCKETS: tuple[float, ...] = (16, 128, 1024, 8 * 1024, 64 * 1024, 512 * 1024, 4 * 1024 * 1024)


class OpenTelemetryInstrument(Instrument):
    """Records a span for each connection, and metrics, with OpenTelemetry.

    ::

        telemetry = trio_ws.OpenTelemetryInstrument()
        await trio_ws.serve(handler, 8765, instruments=[telemetry])

    The span is called ``websocket`` and lasts from the beginning of the opening handshake to the end of the connection.
    The handshake itself is a span inside it, ``websocket handshake``. A handshake that fails has only this span. On a
    server, the parent is the span that the client names in the headers of the request (``traceparent``, see
    ``opentelemetry.propagate``); on a client, it is the current span. Its attributes describe the request, the two
    ends, the close codes and the numbers of messages and bytes. The query of the URI is left out, because it may have
    secrets in it. If the connection was lost or closed with an error, so is the status of the span.

    These are the metrics of servers; those of clients have ``client`` in their names:

    * ``websocket.server.handshake.duration``: a histogram of the durations of opening handshakes, in seconds, by
      ``http.response.status_code`` and, for those that failed, ``error.type``: the status code if a response was the
      reason, and the type of the exception otherwise.
    * ``websocket.server.open_connections``: open connections.
    * ``websocket.server.connection.duration``: a histogram of the durations of connections, in seconds, by
      ``websocket.close.code`` (the peer's close code, or 1006 if the connection was lost without one) and, for
      connections that ended with an error, ``error.type``.
    * ``websocket.server.message.size``: a histogram of the sizes of messages in bytes, before compression, by
      ``network.io.direction`` (``receive`` or ``transmit``) and ``websocket.message.type`` (``text`` or ``binary``).
      Its count is the number of messages.
    * ``websocket.server.io``: bytes on the wire, by ``network.io.direction``.
    * ``websocket.server.ping.duration``: a histogram of the round trip times of pings, in seconds.

    One instrument can be shared by any number of servers and clients.

    Args:
        tracer_provider: The provider of the tracer; None for the global one.
        meter_provider: The provider of the meter; None for the global one.
        codes: Close codes of the application to count separately, as for :class:`PrometheusInstrument`.

    Raises:
        ImportError: If opentelemetry-api is not installed (``pip install trio-ws[opentelemetry]``).
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        *,
        codes: Collection[int] = (),
    ) -> None:
        try:
            from opentelemetry import metrics, propagate, trace
        except ImportError as exc:
            raise ImportError(
                "OpenTelemetryInstrument requires opentelemetry-api: pip install trio-ws[opentelemetry]"
            ) from exc
        self._trace = trace
        self._extract = propagate.extract
        self._tracer = trace.get_tracer("trio_ws", tracer_provider=tracer_provider)
        meter = metrics.get_meter("trio_ws", meter_provider=meter_provider)
        self._metrics = {role: _Metrics(meter, role.value) for role in Role}
        self._codes = frozenset(codes)
        # The spans of the open connections, by their ids.
        self._spans: dict[int, Span] = {}

    def span(self, ws: ObservedWebSocket) -> Span:
        """Return the span of an open connection, to add attributes or to make it the parent of other spans.

        ::

            async def handler(ws: trio_ws.ServerWebSocket) -> None:
                with opentelemetry.trace.use_span(telemetry.span(ws)): ...

        Args:
            ws: The connection. If it is closed or not observed by this instrument, the span records nothing.
        """
        return self._spans.get(ws.id, self._trace.INVALID_SPAN)

    # -- Events ----------------------------------------------------------------------------------------------------

    def connection_opened(self, ws: ObservedWebSocket) -> None:
        """Start the span, and count the connection."""
        now = time.time_ns()
        began_at = now - _to_ns(ws.handshake_seconds)
        attributes = _describe(ws.role, ws.request, ws.remote_address, ws.local_address)
        attributes["http.response.status_code"] = ws.response.status_code
        if ws.subprotocol is not None:
            attributes["websocket.subprotocol"] = ws.subprotocol
        span = self._start_span("websocket", ws.role, ws.request, attributes, began_at)
        self._spans[ws.id] = span
        inside = self._trace.set_span_in_context(span)
        self._tracer.start_span("websocket handshake", context=inside, start_time=began_at).end(now)
        self._metrics[ws.role].open_connections.add(1)
        self._metrics[ws.role].handshake_duration.record(
            ws.handshake_seconds, {"http.response.status_code": ws.response.status_code}
        )

    def handshake_failed(self, failure: HandshakeFailure) -> None:
        """Record a span for an opening handshake that has failed, and how long it took."""
        now = time.time_ns()
        role, response, error = failure.role, failure.response, failure.error
        outcome: dict[str, Any] = {}
        if response is not None:
            outcome["http.response.status_code"] = response.status_code
            outcome["error.type"] = str(response.status_code)
        elif error is not None:
            outcome["error.type"] = type(error).__name__
        else:
            outcome["error.type"] = "_OTHER"  # the fallback of the conventions: a timeout, or the end of the server
        attributes = {**_describe(role, failure.request, failure.remote_address), **outcome}
        began_at = now - _to_ns(failure.seconds)
        span = self._start_span("websocket handshake", role, failure.request, attributes, began_at)
        # These errors quote what the peer has sent, which may have secrets in it.
        quotes = isinstance(error, InvalidHandshake)
        if error is not None and not quotes:
            span.record_exception(error)
        # A server that has refused a faulty request works as it should.
        if role is Role.CLIENT or response is None or response.status_code >= 500:
            span.set_status(self._trace.StatusCode.ERROR, None if error is None or quotes else str(error))
        span.end(now)
        self._metrics[role].handshake_duration.record(failure.seconds, outcome)

    def _start_span(
        self, name: str, role: Role, request: Request | None, attributes: dict[str, Any], start_time: int
    ) -> Span:
        """Start a span whose parent is that of the peer on a server, and the current one on a client."""
        context = None
        if role is Role.SERVER:
            headers = Headers() if request is None else request.headers
            context = self._extract({name.lower(): ", ".join(headers.get_all(name)) for name in headers})
        kind = self._trace.SpanKind.SERVER if role is Role.SERVER else self._trace.SpanKind.CLIENT
        return self._tracer.start_span(name, context=context, kind=kind, attributes=attributes, start_time=start_time)

    def connection_closed(self, ws: ObservedWebSocket, summary: ConnectionSummary) -> None:
        """End the span, and record how long the connection lasted and how it ended."""
        attributes: dict[str, Any] = {"websocket.close.code": code_label(summary.code, self._codes)}
        span = self._spans.pop(ws.id)
        if not summary.clean:
            attributes["error.type"] = type(summary.error.__cause__ or summary.error).__name__
            span.record_exception(summary.error)
            span.set_status(self._trace.StatusCode.ERROR, str(summary.error))
        span.set_attributes(
            {
                **attributes,
                "websocket.close.code": summary.code,
                "websocket.close.reason": summary.reason,
                "websocket.messages.received": summary.messages_received,
                "websocket.messages.sent": summary.messages_sent,
                "websocket.bytes.received": summary.bytes_received,
                "websocket.bytes.sent": summary.bytes_sent,
            }
        )
        span.end()
        metrics = self._metrics[ws.role]
        metrics.open_connections.add(-1)
        metrics.connection_duration.record(summary.seconds, attributes)

    def message_received(self, ws: ObservedWebSocket, opcode: Opcode, size: int) -> None:
        """Record the size of a received message."""
        self._metrics[ws.role].message_size.record(size, _RECEIVED[opcode])

    def message_sent(self, ws: ObservedWebSocket, opcode: Opcode, size: int) -> None:
        """Record the size of a sent message."""
        self._metrics[ws.role].message_size.record(size, _SENT[opcode])

    def bytes_received(self, ws: ObservedWebSocket, size: int) -> None:
        """Count received bytes."""
        self._metrics[ws.role].io.add(size, _RECEIVE)

    def bytes_sent(self, ws: ObservedWebSocket, size: int) -> None:
        """Count sent bytes."""
        self._metrics[ws.role].io.add(size, _TRANSMIT)

    def ping_answered(self, ws: ObservedWebSocket, seconds: float) -> None:
        """Record a round trip time."""
        self._metrics[ws.role].ping_duration.record(seconds)


_RECEIVE = {"network.io.direction": "receive"}
_TRANSMIT = {"network.io.direction": "transmit"}
_TYPES = {opcode: {"websocket.message.type": opcode.name.lower()} for opcode in (Opcode.TEXT, Opcode.BINARY)}
_RECEIVED = {opcode: {**_RECEIVE, **kind} for opcode, kind in _TYPES.items()}
_SENT = {opcode: {**_TRANSMIT, **kind} for opcode, kind in _TYPES.items()}


class _Metrics:
    """The metrics of servers, or those of clients."""

    def __init__(self, meter: Any, role: str) -> None:
        prefix = f"websocket.{role}"
        self.handshake_duration = meter.create_histogram(
            f"{prefix}.handshake.duration",
            "s",
            "Duration of WebSocket opening handshakes",
            explicit_bucket_boundaries_advisory=HANDSHAKE_BUCKETS,
        )
        self.open_connections = meter.create_up_down_counter(
            f"{prefix}.open_connections", "{connection}", "Open WebSocket connections"
        )
        self.connection_duration = meter.create_histogram(
            f"{prefix}.connection.duration",
            "s",
            "Duration of WebSocket connections",
            explicit_bucket_boundaries_advisory=CONNECTION_BUCKETS,
        )
        self.message_size = meter.create_histogram(
            f"{prefix}.message.size",
            "By",
            "Size of WebSocket messages before compression",
            explicit_bucket_boundaries_advisory=SIZE_BUCKETS,
        )
        self.io = meter.create_counter(f"{prefix}.io", "By", "Bytes on the wire")
        self.ping_duration = meter.create_histogram(
            f"{prefix}.ping.duration",
            "s",
            "Round trip time of WebSocket pings",
            explicit_bucket_boundaries_advisory=PING_BUCKETS,
        )


def _to_ns(seconds: float) -> int:
    return int(seconds * 1e9)


def _describe(role: Role, request: Request | None, remote_address: Any, local_address: Any = None) -> dict[str, Any]:
    """Return the attributes that describe a request and its two ends."""
    attributes: dict[str, Any] = {"network.protocol.name": "websocket"}
    if request is not None:
        attributes |= _describe_request(request)
    for name, address in (("network.peer", remote_address), ("network.local", local_address)):
        if isinstance(address, tuple):
            attributes[f"{name}.address"], attributes[f"{name}.port"] = address[:2]
        elif address:  # the path of a Unix socket
            attributes[f"{name}.address"] = os.fsdecode(address)
    if role is Role.SERVER:
        attributes["client.address"] = attributes.get("network.peer.address")
    return {name: value for name, value in attributes.items() if value is not None}


def _describe_request(request: Request) -> dict[str, Any]:
    # The request may have been refused: nothing about its headers is certain.
    host, agent = (request.headers.get_all(name)[:1] for name in ("Host", "User-Agent"))
    name, _, port = host[0].rpartition(":") if host else ("", "", "")
    if not (port.isascii() and port.isdigit() and len(port) <= 5):
        name, port = host[0] if host else "", ""
    return {
        "http.request.method": request.method,
        "url.path": request.path.partition("?")[0],
        "server.address": name.strip("[]"),
        "server.port": int(port) if port else None,
        "user_agent.original": agent[0] if agent else None,
    }
