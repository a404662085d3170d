"""Traces and metrics for OpenTelemetry, with the SDK's in-memory exporters."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from opentelemetry import propagate, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import trio_ws
from trio_ws import OpenTelemetryInstrument
from trio_ws.protocol import Role
from trio_ws.testing import memory_websocket_pair

from ..server.clients import KEY
from ..support import close, echo, opened

ROOT = Path(__file__).resolve().parent.parent.parent


class Telemetry:
    """An instrument, and what it has exported."""

    def __init__(self, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = provider.get_tracer("test")
        meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self.instrument = OpenTelemetryInstrument(provider, meters, **options)

    def spans(self) -> dict[SpanKind, ReadableSpan]:
        """Return the finished spans, by kind."""
        return {span.kind: span for span in self._exporter.get_finished_spans()}

    def handshakes(self) -> list[ReadableSpan]:
        """Return the finished spans of opening handshakes."""
        return [span for span in self._exporter.get_finished_spans() if span.name == "websocket handshake"]

    def metrics(self) -> dict[tuple[str, tuple[object, ...]], Any]:
        """Return the data points, by name and attribute values."""
        data: Any = self._reader.get_metrics_data()
        return {
            (metric.name, tuple(value for _, value in sorted(point.attributes.items()))): point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        }


async def test_spans_over_sockets() -> None:
    telemetry = Telemetry()
    options: Any = {"instruments": [telemetry.instrument], "subprotocols": ["chat"], "compression": None}
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(trio_ws.serve, echo, 0, host="127.0.0.1", **options))
        with telemetry.tracer.start_as_current_span("caller") as caller:
            headers: dict[str, str] = {}
            propagate.inject(headers)
            uri = f"ws://127.0.0.1:{server.port}/feed?token=secret"
            async with trio_ws.connect(uri, headers=headers, user_agent="test/1", **options) as ws:
                await ws.send("héllo")
                await ws.receive()
                local_port = ws.local_address[1]
        await server.aclose()
    spans = telemetry.spans()
    for kind in (SpanKind.CLIENT, SpanKind.SERVER):
        span = spans[kind]
        assert span.name == "websocket"
        assert span.parent is not None
        assert span.parent.span_id == caller.get_span_context().span_id
        assert span.context.trace_id == caller.get_span_context().trace_id
        assert span.status.status_code is StatusCode.UNSET
        assert span.end_time is not None
    common = {
        "http.request.method": "GET",
        "http.response.status_code": 101,
        "url.path": "/feed",
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "network.protocol.name": "websocket",
        "network.peer.address": "127.0.0.1",
        "network.local.address": "127.0.0.1",
        "websocket.subprotocol": "chat",
        "user_agent.original": "test/1",
        "websocket.close.code": 1000,
        "websocket.close.reason": "",
        "websocket.messages.received": 1,
        "websocket.messages.sent": 1,
    }
    assert spans[SpanKind.CLIENT].attributes == {
        **common,
        "network.peer.port": server.port,
        "network.local.port": local_port,
        "websocket.bytes.received": 2 + 6 + 4,
        "websocket.bytes.sent": 6 + 6 + 8,
    }
    assert spans[SpanKind.SERVER].attributes == {
        **common,
        "client.address": "127.0.0.1",
        "network.peer.port": local_port,
        "network.local.port": server.port,
        "websocket.bytes.received": 6 + 6 + 8,
        "websocket.bytes.sent": 2 + 6 + 4,
    }


async def test_the_span_of_the_handshake(autojump_clock: trio.testing.MockClock) -> None:
    async def let_in(opening: trio_ws.Opening, request: trio_ws.Request) -> None:
        await trio.sleep(2)

    telemetry = Telemetry()
    options: Any = {"instruments": [telemetry.instrument], "process_request": let_in}
    client, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio_ws.serve_over, server, echo, **options))
        async with trio_ws.connect_over(client, "ws://example.org/"):
            await trio.sleep(3)
    (handshake,) = telemetry.handshakes()
    connection = telemetry.spans()[SpanKind.SERVER]
    assert handshake.parent is not None
    assert handshake.parent.span_id == connection.context.span_id
    assert handshake.start_time == connection.start_time
    assert handshake.start_time is not None
    assert handshake.end_time is not None
    assert handshake.end_time - handshake.start_time == 2_000_000_000  # the connection's end is in real time
    point = telemetry.metrics()["websocket.server.handshake.duration", (101,)]
    assert (point.count, point.sum) == (1, 2)


@pytest.mark.parametrize("refuse", [True, False], ids=["refused", "failed"])
async def test_the_span_of_a_handshake_that_fails(refuse: bool) -> None:
    def answer(opening: trio_ws.Opening, request: trio_ws.Request) -> trio_ws.Response:
        if refuse:
            return opening.respond(401)
        raise ZeroDivisionError("no mercy")

    telemetry = Telemetry()
    options: Any = {"instruments": [telemetry.instrument]}
    client, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio_ws.serve_over, server, echo, process_request=answer, **options))
        with telemetry.tracer.start_as_current_span("caller") as caller:
            headers: dict[str, str] = {}
            propagate.inject(headers)
            with pytest.raises(trio_ws.InvalidStatus):
                await trio_ws.connect_over(
                    client, "ws://example.org/feed?key=1", headers=headers, **options
                ).__aenter__()
    status = 401 if refuse else 500
    spans = {span.kind: span for span in telemetry.handshakes()}
    assert len(spans) == 2
    for span in spans.values():
        assert span.parent is not None
        assert span.parent.span_id == caller.get_span_context().span_id
        assert span.attributes is not None
        assert span.attributes["http.response.status_code"] == status
        assert span.attributes["error.type"] == str(status)
        assert span.attributes["url.path"] == "/feed"
    assert spans[SpanKind.CLIENT].status.status_code is StatusCode.ERROR
    # A server that has refused a client works as it should.
    assert spans[SpanKind.SERVER].status.status_code is (StatusCode.UNSET if refuse else StatusCode.ERROR)
    assert [event.name for event in spans[SpanKind.SERVER].events] == ([] if refuse else ["exception"])
    for role in ("client", "server"):
        assert telemetry.metrics()[f"websocket.{role}.handshake.duration", (str(status), status)].count == 1


async def test_a_handshake_without_a_response(autojump_clock: trio.testing.MockClock) -> None:
    telemetry = Telemetry()
    options: Any = {"instruments": [telemetry.instrument], "open_timeout": 1}
    client, _peer = trio.testing.memory_stream_pair()
    with pytest.raises(trio_ws.OpenTimeout):
        await trio_ws.connect_over(client, "ws://example.org/", **options).__aenter__()
    client, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio_ws.serve_over, server, echo, **options))
        await client.send_all(b"GET")
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(2)
    by_kind = {span.kind: dict(span.attributes or {}) for span in telemetry.handshakes()}
    assert by_kind[SpanKind.CLIENT]["error.type"] == "OpenTimeout"
    assert by_kind[SpanKind.SERVER]["error.type"] == "408"
    assert telemetry.metrics()["websocket.client.handshake.duration", ("OpenTimeout",)].count == 1


@pytest.mark.parametrize(
    "headers",
    [
        [("Host", "a"), ("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-For", "192.0.2.2")],
        [("Host", "a"), ("User-Agent", "one"), ("User-Agent", "two")],
        [("Host", "a:\xb2")],
        [("Host", "a:" + "9" * 5000)],
        [("Host", "a"), ("Host", "b")],
    ],
    ids=["repeated", "repeated agent", "other digits", "many digits", "repeated host"],
)
async def test_unusual_requests(headers: list[tuple[str, str]], autojump_clock: trio.testing.MockClock) -> None:
    telemetry = Telemetry()
    upgrade = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")]
    lines = [f"{name}: {value}" for name, value in [*headers, *upgrade, ("Sec-WebSocket-Key", KEY)]]
    client, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio_ws.serve_over, server, echo, instruments=[telemetry.instrument]))
        await client.send_all("\r\n".join(["GET / HTTP/1.1", *lines, "", ""]).encode("iso-8859-1"))
        await client.receive_some()
        await client.send_stream.aclose()
    assert not telemetry.instrument._is_broken
    (handshake,) = telemetry.handshakes()
    assert handshake.end_time is not None


async def test_errors_that_quote_the_peer_are_not_exported(autojump_clock: trio.testing.MockClock) -> None:
    telemetry = Telemetry()
    client, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio_ws.serve_over, server, echo, instruments=[telemetry.instrument]))
        await client.send_all(b"GET /?token=secret HTTP/1.1\r\nHost: a\r\nCookie: secret\x01\r\n\r\n")
        await client.receive_some()
        await client.send_stream.aclose()
    (handshake,) = telemetry.handshakes()
    assert "secret" not in handshake.to_json()


async def test_metrics(autojump_clock: trio.testing.MockClock) -> None:
    telemetry = Telemetry()
    async with memory_websocket_pair(instruments=[telemetry.instrument], compression=None) as (client, server):
        for role in ("client", "server"):
            assert telemetry.metrics()[f"websocket.{role}.open_connections", ()].value == 1
        await client.send("héllo")
        await client.send(b"abc")
        assert [await server.receive(), await server.receive()] == ["héllo", b"abc"]
        await client.ping()
        await trio.sleep(15)
    metrics = telemetry.metrics()
    for role in ("client", "server"):
        assert metrics[f"websocket.{role}.open_connections", ()].value == 0
        duration = metrics[f"websocket.{role}.connection.duration", ("1000",)]
        assert (duration.count, duration.sum) == (1, pytest.approx(15))
    assert metrics["websocket.client.ping.duration", ()].count == 1
    for role, direction in (("client", "transmit"), ("server", "receive")):
        for kind, size in (("text", 6), ("binary", 3)):
            point = metrics[f"websocket.{role}.message.size", (direction, kind)]
            assert (point.count, point.sum) == (1, size)
        # Two messages, a ping with its random payload, and the Close frame.
        assert metrics[f"websocket.{role}.io", (direction,)].value > 6 + 6 + 6 + 3 + 6 + 8


@pytest.mark.parametrize(
    "code, shown",
    [(1011, "1011"), (3999, "3xxx"), (4000, "4xxx"), (4001, "4001")],
    ids=["1011", "3999", "4000", "4001"],
)
async def test_a_connection_that_ends_with_an_error(code: int, shown: str) -> None:
    telemetry = Telemetry(codes=[4001])
    async with opened(Role.SERVER, instruments=[telemetry.instrument]) as (ws, peer):
        await peer.send(close(code, "no"))
        with pytest.raises(trio_ws.ConnectionClosed):
            await ws.receive()
    span = telemetry.spans()[SpanKind.SERVER]
    assert span.status.status_code is StatusCode.ERROR
    assert str(code) in str(span.status.description)
    assert span.attributes is not None
    assert span.attributes["websocket.close.code"] == code
    assert span.attributes["websocket.close.reason"] == "no"
    assert span.attributes["error.type"] == "ConnectionClosedError"
    assert [event.name for event in span.events] == ["exception"]
    assert telemetry.metrics()["websocket.server.connection.duration", ("ConnectionClosedError", shown)].count == 1


async def test_the_error_type_is_the_cause() -> None:
    telemetry = Telemetry()
    async with opened(Role.CLIENT, instruments=[telemetry.instrument]) as (ws, peer):
        await peer.send(b"\xff\xff")
        with pytest.raises(trio_ws.ConnectionClosedError):
            await ws.receive()
    attributes = telemetry.spans()[SpanKind.CLIENT].attributes
    assert attributes is not None
    assert attributes["error.type"] == "ProtocolError"


async def test_the_span_of_a_connection() -> None:
    telemetry = Telemetry()
    async with memory_websocket_pair(instruments=[telemetry.instrument]) as (client, server):
        span = telemetry.instrument.span(client)
        assert span.is_recording()
        assert telemetry.instrument.span(server) is not span
        span.set_attribute("room", "lobby")
        with trace.use_span(span), telemetry.tracer.start_as_current_span("child") as child:
            assert child.get_span_context().trace_id == span.get_span_context().trace_id
    assert not telemetry.instrument.span(client).is_recording()
    attributes = telemetry.spans()[SpanKind.CLIENT].attributes
    assert attributes is not None
    assert attributes["room"] == "lobby"
    assert telemetry.instrument._spans == {}


@pytest.mark.parametrize(
    "uri, address, port",
    [
        ("ws://[2001:db8::1]:81/", "2001:db8::1", 81),
        ("ws://[2001:db8::1]/", "2001:db8::1", None),
        ("ws://example.org/", "example.org", None),
    ],
    ids=["IPv6", "IPv6 without a port", "without a port"],
)
async def test_server_address(uri: str, address: str, port: int | None) -> None:
    telemetry = Telemetry()
    async with memory_websocket_pair(uri=uri, instruments=[telemetry.instrument]):
        pass
    attributes = telemetry.spans()[SpanKind.SERVER].attributes
    assert attributes is not None
    assert (attributes["server.address"], attributes.get("server.port")) == (address, port)
    assert "network.peer.address" not in attributes  # there is no socket


@pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets here")
async def test_unix_sockets(tmp_path: Path) -> None:
    telemetry = Telemetry()
    path = str(tmp_path / "socket")
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(trio_ws.serve, echo, path=path))
        async with trio_ws.connect_unix(path, instruments=[telemetry.instrument]):
            pass
        await server.aclose()
    attributes = telemetry.spans()[SpanKind.CLIENT].attributes
    assert attributes is not None
    assert attributes["network.peer.address"] == path
    assert "network.peer.port" not in attributes


async def test_without_an_sdk() -> None:
    # The API alone records nothing, which is the case of a program that does not configure OpenTelemetry.
    instrument = OpenTelemetryInstrument()
    async with memory_websocket_pair(instruments=[instrument]) as (client, server):
        await client.send("x")
        await server.receive()
    assert not instrument._is_broken


def test_without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "opentelemetry"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"trio-ws\[opentelemetry\]") as caught:
        OpenTelemetryInstrument()
    assert isinstance(caught.value.__cause__, ImportError)


def test_importing_the_package_imports_no_extra() -> None:
    code = "import sys, trio_ws; assert not {'opentelemetry', 'prometheus_client', 'pytest'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
