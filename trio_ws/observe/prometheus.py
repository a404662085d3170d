"""Metrics for Prometheus: ``PrometheusInstrument``. Requires prometheus-client, the extra ``prometheus``."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ..exceptions import BackendUnavailable
from ..frames import Opcode
from ..instruments.interface import ConnectionSummary, HandshakeFailure, Instrument, ObservedHub, ObservedWebSocket
from ..misuse.values import check_instance
from ..protocol import Role
from .codes import code_label

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from ..http11 import Request, Response
    from ..server.server import Opening, ProcessRequest

__all__ = ["PrometheusInstrument"]

#: The upper bounds of the histograms' buckets, in seconds.
PING_BUCKETS: tuple[float, ...] = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
CONNECTION_BUCKETS: tuple[float, ...] = (0.1, 1, 10, 60, 600, 3600, 6 * 3600, 24 * 3600)


class PrometheusInstrument(Instrument):
    """Collects metrics of connections for Prometheus, and serves them over HTTP.

    ::

        metrics = trio_ws.PrometheusInstrument()
        await trio_ws.serve(handler, 8765, instruments=[metrics], process_request=metrics.serve_at("/metrics"))

    All metrics have the label ``role``, which is ``server`` or ``client``:

    * ``trio_ws_open_connections``: open connections.
    * ``trio_ws_connections_total``: connections opened.
    * ``trio_ws_handshake_failures_total``: opening handshakes that failed, by ``status`` (the status code of the
      response that refused the handshake; empty if there was none).
    * ``trio_ws_closes_total``: connections closed, by ``code`` (the peer's close code, or 1006 if the connection was
      lost without one) and ``clean`` (``true`` or ``false``).
    * ``trio_ws_connection_seconds``: a histogram of the durations of connections.
    * ``trio_ws_messages_total``: messages, by ``direction`` (``in`` or ``out``) and ``kind`` (``text`` or ``binary``).
    * ``trio_ws_message_bytes_total``: bytes of messages before compression, by ``direction`` and ``kind``.
    * ``trio_ws_bytes_total``: bytes on the wire, by ``direction``.
    * ``trio_ws_ping_seconds``: a histogram of the round trip times of pings.
    * ``trio_ws_queue_bytes``: memory in the buffers of all connections, in bytes, by ``queue`` (``inbox`` or
      ``outbox``).

    With ``Hub(instruments=[metrics])``, there are also metrics of hubs and their back ends, without labels:

    * ``trio_ws_hub_connected``: hubs whose back end is connected.
    * ``trio_ws_hub_connects_total``: connections to the engine; all but the first are reconnects.
    * ``trio_ws_hub_losses_total``: topics of which messages from other processes were lost, or may have been.
    * ``trio_ws_hub_backlog_messages`` and ``trio_ws_hub_backlog_bytes``: the queue of messages for the back end.
    * ``trio_ws_hub_published_total``: messages that the engine has accepted.
    * ``trio_ws_hub_lag_seconds``: a histogram of the times until the engine has accepted the first message of a batch.

    One instrument can be shared by any number of servers, clients and hubs.

    Args:
        registry: The registry for the metrics; None for the default registry of prometheus-client. A registry can have
            only one such instrument.
        codes: Close codes of the application to count separately. All other codes without a standard meaning are
            counted as ``3xxx`` and ``4xxx``: peers choose them, and each separate code creates a time series.

    Attributes:
        registry: The registry for the metrics.

    Raises:
        ImportError: If prometheus-client is not installed (``pip install trio-ws[prometheus]``).
        ValueError: If the registry has such an instrument already.
    """

    def __init__(self, registry: CollectorRegistry | None = None, *, codes: Collection[int] = ()) -> None:
        client = _import_client()
        registry = client.REGISTRY if registry is None else registry
        self.registry: CollectorRegistry = registry
        self._codes = frozenset(codes)
        try:
            self._open = client.Gauge(
                "trio_ws_open_connections", "Open WebSocket connections", ["role"], registry=registry
            )
        except ValueError as exc:
            raise ValueError(
                "registry must have only one PrometheusInstrument: share it between all servers, clients and hubs, or "
                "use another registry"
            ) from exc
        self._connections = client.Counter(
            "trio_ws_connections", "WebSocket connections opened", ["role"], registry=registry
        )
        self._handshake_failures = client.Counter(
            "trio_ws_handshake_failures", "WebSocket opening handshakes failed", ["role", "status"], registry=registry
        )
        self._closes = client.Counter(
            "trio_ws_closes", "WebSocket connections closed", ["role", "code", "clean"], registry=registry
        )
        self._connection_seconds = client.Histogram(
            "trio_ws_connection_seconds",
            "Duration of WebSocket connections in seconds",
            ["role"],
            buckets=CONNECTION_BUCKETS,
            registry=registry,
        )
        kinds = ["role", "direction", "kind"]
        self._messages = _Children(client.Counter("trio_ws_messages", "WebSocket messages", kinds, registry=registry))
        self._message_bytes = _Children(
            client.Counter(
                "trio_ws_message_bytes", "Bytes of WebSocket messages before compression", kinds, registry=registry
            )
        )
        self._bytes = _Children(
            client.Counter("trio_ws_bytes", "Bytes on the wire", ["role", "direction"], registry=registry)
        )
        self._ping_seconds = client.Histogram(
            "trio_ws_ping_seconds",
            "Round trip time of WebSocket pings in seconds",
            ["role"],
            buckets=PING_BUCKETS,
            registry=registry,
        )
        self._queues = _Children(
            client.Gauge(
                "trio_ws_queue_bytes",
                "Memory in the buffers of WebSocket connections in bytes",
                ["role", "queue"],
                registry=registry,
            )
        )
        self._hub_connected = client.Gauge(
            "trio_ws_hub_connected", "Hubs whose back end is connected", registry=registry
        )
        self._hub_connects = client.Counter(
            "trio_ws_hub_connects", "Connections of hubs to their engine", registry=registry
        )
        self._hub_losses = client.Counter(
            "trio_ws_hub_losses", "Topics of which messages may have been lost", registry=registry
        )
        self._hub_backlog_messages = client.Gauge(
            "trio_ws_hub_backlog_messages", "Messages queued for the back end", registry=registry
        )
        self._hub_backlog_bytes = client.Gauge(
            "trio_ws_hub_backlog_bytes", "Memory of messages queued for the back end in bytes", registry=registry
        )
        self._hub_published = client.Counter(
            "trio_ws_hub_published", "Messages accepted by the engine", registry=registry
        )
        self._hub_lag = client.Histogram(
            "trio_ws_hub_lag_seconds",
            "Time until the engine has accepted a message in seconds",
            buckets=PING_BUCKETS,
            registry=registry,
        )
        # The queue of each hub.
        self._backlogs: WeakKeyDictionary[ObservedHub, tuple[int, int]] = WeakKeyDictionary()
        # The bytes in the inbox and the outbox of each connection, by its id.
        self._queued: dict[int, tuple[int, int]] = {}
        # Create the time series now, with the value 0.
        for role in Role:
            self._open.labels(role.value)
            self._connections.labels(role.value)

    def serve_at(self, path: str = "/metrics") -> ProcessRequest:
        """Return a ``process_request`` function that serves the metrics of the registry at a path.

        Anyone who can reach the server can read them. To restrict access, call a :func:`basic_auth` before it, for this
        path only::

            check_password = trio_ws.basic_auth({"prometheus": "secret"})

            async def protect_metrics(opening, request):
                return await check_password(opening, request) if opening.path == "/metrics" else None

            process_request = [protect_metrics, metrics.serve_at("/metrics")]

        A :func:`basic_auth` in the sequence itself would require the password of WebSocket clients, too.

        Args:
            path: The path, which must begin with a slash. It is compared with that of the request without its query.

        Raises:
            TypeError: If the path is not a str.
            ValueError: If the path does not begin with a slash, or has a query or a fragment.
        """
        check_instance("path", path, str, "a str")
        if not path.startswith("/"):
            raise ValueError(f"path must begin with a slash, not {path!r}")
        if "?" in path or "#" in path:
            raise ValueError(f"path must not have a query or a fragment: {path!r}")

        def answer(opening: Opening, request: Request) -> Response | None:
            if request.path.partition("?")[0] != path:
                return None
            if request.method not in ("GET", "HEAD"):
                return opening.respond(405, "metrics are read-only, use GET or HEAD\n", {"Allow": "GET, HEAD"})
            accepted = ", ".join(request.headers.get_all("Accept"))
            choose_encoder = _import_client().exposition.choose_encoder
            try:
                encode, content_type = choose_encoder(accepted)
            except TypeError:  # it cannot read every version that a client may name
                encode, content_type = choose_encoder("")
            return opening.respond(200, encode(self.registry), {"Content-Type": content_type})

        return answer

    # -- Events ----------------------------------------------------------------------------------------------------

    def handshake_failed(self, failure: HandshakeFailure) -> None:
        """Count a failed opening handshake, by the status code of the response."""
        status = "" if failure.response is None else str(failure.response.status_code)
        self._handshake_failures.labels(failure.role.value, status).inc()

    def connection_opened(self, ws: ObservedWebSocket) -> None:
        """Count an opened connection."""
        role = _role(ws)
        self._open.labels(role).inc()
        self._connections.labels(role).inc()

    def connection_closed(self, ws: ObservedWebSocket, summary: ConnectionSummary) -> None:
        """Count a closed connection, by its close code, and record its duration."""
        role = _role(ws)
        self._open.labels(role).dec()
        self._closes.labels(role, code_label(summary.code, self._codes), "true" if summary.clean else "false").inc()
        self._connection_seconds.labels(role).observe(summary.seconds)
        self.queue_changed(ws, 0, 0)
        del self._queued[ws.id]

    def message_received(self, ws: ObservedWebSocket, opcode: Opcode, size: int) -> None:
        """Count a received message and its bytes."""
        labels = _role(ws), "in", opcode.name.lower()
        self._messages[labels].inc()
        self._message_bytes[labels].inc(size)

    def message_sent(self, ws: ObservedWebSocket, opcode: Opcode, size: int) -> None:
        """Count a sent message and its bytes."""
        labels = _role(ws), "out", opcode.name.lower()
        self._messages[labels].inc()
        self._message_bytes[labels].inc(size)

    def bytes_received(self, ws: ObservedWebSocket, size: int) -> None:
        """Count received bytes."""
        self._bytes[_role(ws), "in"].inc(size)

    def bytes_sent(self, ws: ObservedWebSocket, size: int) -> None:
        """Count sent bytes."""
        self._bytes[_role(ws), "out"].inc(size)

    def ping_answered(self, ws: ObservedWebSocket, seconds: float) -> None:
        """Record a round trip time."""
        self._ping_seconds.labels(_role(ws)).observe(seconds)

    def queue_changed(self, ws: ObservedWebSocket, inbox: int, outbox: int) -> None:
        """Update the totals by the change of one connection's buffers."""
        role = _role(ws)
        inbox_before, outbox_before = self._queued.get(ws.id, (0, 0))
        self._queued[ws.id] = inbox, outbox
        self._queues[role, "inbox"].inc(inbox - inbox_before)
        self._queues[role, "outbox"].inc(outbox - outbox_before)

    def hub_connected(self, hub: ObservedHub, attempts: int) -> None:
        """Count a connection of a hub."""
        self._hub_connected.inc()
        self._hub_connects.inc()

    def hub_disconnected(self, hub: ObservedHub, error: BackendUnavailable | None) -> None:
        """Count the end of a connection of a hub."""
        self._hub_connected.dec()

    def hub_lost(self, hub: ObservedHub, topic: str) -> None:
        """Count a loss."""
        self._hub_losses.inc()

    def hub_backlog_changed(self, hub: ObservedHub, messages: int, size: int) -> None:
        """Update the totals by the change of one hub's queue."""
        messages_before, size_before = self._backlogs.get(hub, (0, 0))
        self._backlogs[hub] = messages, size
        self._hub_backlog_messages.inc(messages - messages_before)
        self._hub_backlog_bytes.inc(size - size_before)

    def hub_published(self, hub: ObservedHub, messages: int, seconds: float) -> None:
        """Count published messages, and record the lag."""
        self._hub_published.inc(messages)
        self._hub_lag.observe(seconds)


class _Children(dict[tuple[str, ...], Any]):
    """Cache of the children of a metric, by label values. Calling ``labels()`` takes longer than counting."""

    def __init__(self, metric: Any) -> None:
        self._metric = metric

    def __missing__(self, labels: tuple[str, ...]) -> Any:
        child = self[labels] = self._metric.labels(*labels)
        return child


def _role(ws: ObservedWebSocket) -> str:
    return ws.role.value


def _import_client() -> Any:
    try:
        import prometheus_client.exposition
    except ImportError as exc:
        raise ImportError("PrometheusInstrument requires prometheus-client: pip install trio-ws[prometheus]") from exc
    return prometheus_client
