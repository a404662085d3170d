"""Metrics for Prometheus: the values, and serving them on the server's port."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import prometheus_client
import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

import trio_ws
from trio_ws import PrometheusInstrument
from trio_ws.protocol import Role
from trio_ws.testing import memory_websocket_pair

from ..hub.backends import Engine
from ..support import HANGS, close, echo, opened, pipe_pair, text

settle = trio.testing.wait_all_tasks_blocked

Samples = dict[tuple[str, tuple[str, ...]], float]


def samples(page: str) -> Samples:
    """Return the values on a metrics page, by name and label values except the role."""
    return {
        (sample.name, tuple(value for label, value in sorted(sample.labels.items()) if label != "role")): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.labels.get("role") == "server"
    }


def fetch(url: str, headers: dict[str, str] | None = None, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(url, headers=headers or {}, method=method)
    # Ignore proxies configured on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=HANGS) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, dict(exc.headers), exc.read()


@asynccontextmanager
async def serving(metrics: PrometheusInstrument, **options: Any) -> AsyncIterator[int]:
    """Run an echo server with metrics. Yield its port."""
    async with trio.open_nursery() as nursery:
        options.setdefault("process_request", metrics.serve_at())
        server = await nursery.start(
            partial(trio_ws.serve, echo, 0, host="127.0.0.1", instruments=[metrics], **options)
        )
        yield server.port
        await server.aclose()


async def test_scrape() -> None:
    metrics = PrometheusInstrument(CollectorRegistry())

    async def scrape(port: int, **headers: str) -> Samples:
        url = f"http://127.0.0.1:{port}/metrics?name=any"
        status, found, body = await trio.to_thread.run_sync(fetch, url, headers)
        assert status == 200
        assert found["Content-Type"].startswith("text/plain; version=")
        return samples(body.decode())

    async with serving(metrics) as port:
        before = await scrape(port)
        assert before["trio_ws_open_connections", ()] == 0
        assert before["trio_ws_connections_total", ()] == 0
        async with trio_ws.connect(f"ws://127.0.0.1:{port}", compression=None) as ws:
            await ws.send("héllo")
            await ws.send(b"abc")
            assert [await ws.receive(), await ws.receive()] == ["héllo", b"abc"]
            during = await scrape(port, Accept="text/plain")
            assert during["trio_ws_open_connections", ()] == 1
            assert during["trio_ws_bytes_total", ("in",)] == 6 + 6 + 6 + 3
        after = await scrape(port)
    assert after["trio_ws_open_connections", ()] == 0
    assert after["trio_ws_connections_total", ()] == 1
    assert after["trio_ws_closes_total", ("true", "1000")] == 1
    assert after["trio_ws_connection_seconds_count", ()] == 1
    for direction in ("in", "out"):
        assert after["trio_ws_messages_total", (direction, "text")] == 1
        assert after["trio_ws_messages_total", (direction, "binary")] == 1
        assert after["trio_ws_message_bytes_total", (direction, "text")] == 6
        assert after["trio_ws_message_bytes_total", (direction, "binary")] == 3
    assert after["trio_ws_bytes_total", ("in",)] == 6 + 6 + 6 + 3 + 6 + 2
    assert after["trio_ws_bytes_total", ("out",)] == 2 + 6 + 2 + 3 + 2 + 2


async def test_handshake_failures() -> None:
    metrics = PrometheusInstrument(CollectorRegistry())
    failed = "trio_ws_handshake_failures_total"
    async with serving(metrics) as port:
        with pytest.raises(trio_ws.InvalidStatus):
            uri = f"ws://127.0.0.1:{port}"
            await trio_ws.connect(uri, origin="https://evil.example", instruments=[metrics]).__aenter__()
    with pytest.raises(trio_ws.ConnectFailed):
        await trio_ws.connect(uri, instruments=[metrics]).__aenter__()
    for role, status, count in (("server", "403", 1), ("client", "403", 1), ("client", "", 1)):
        assert metrics.registry.get_sample_value(failed, {"role": role, "status": status}) == count


async def test_openmetrics_format() -> None:
    metrics = PrometheusInstrument(CollectorRegistry())
    async with serving(metrics) as port:
        accept = {"Accept": "application/openmetrics-text; version=1.0.0,text/plain;q=0.5"}
        _, headers, body = await trio.to_thread.run_sync(fetch, f"http://127.0.0.1:{port}/metrics", accept)
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    families = list(openmetrics_parser.text_string_to_metric_families(body.decode()))  # type: ignore[no-untyped-call]  # prometheus_client has no types
    assert "trio_ws_open_connections" in [family.name for family in families]


async def test_an_unknown_version_is_answered_in_the_text_format() -> None:
    async with serving(PrometheusInstrument(CollectorRegistry())) as port:
        accept = {"Accept": "application/openmetrics-text; version=abc"}
        status, headers, _ = await trio.to_thread.run_sync(fetch, f"http://127.0.0.1:{port}/metrics", accept)
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")


async def test_other_requests() -> None:
    metrics = PrometheusInstrument(CollectorRegistry())

    async def fetch_in_thread(url: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        return await trio.to_thread.run_sync(fetch, url, None, method)

    async with serving(metrics, process_request=metrics.serve_at("/secret/metrics")) as port:
        url = f"http://127.0.0.1:{port}"
        assert (await fetch_in_thread(f"{url}/metrics"))[0] == 426
        status, headers, body = await fetch_in_thread(f"{url}/secret/metrics", "HEAD")
        assert (status, body) == (200, b"")
        assert int(headers["Content-Length"]) > 100
        status, headers, _ = await fetch_in_thread(f"{url}/secret/metrics", "POST")
        assert (status, headers["Allow"]) == (405, "GET, HEAD")


async def test_with_basic_auth() -> None:
    metrics = PrometheusInstrument(CollectorRegistry())
    both = [trio_ws.basic_auth({"ann": "secret"}), metrics.serve_at()]
    async with serving(metrics, process_request=both) as port:
        url = f"http://127.0.0.1:{port}/metrics"
        assert (await trio.to_thread.run_sync(fetch, url))[0] == 401
        headers = {"Authorization": "Basic YW5uOnNlY3JldA=="}
        assert (await trio.to_thread.run_sync(fetch, url, headers))[0] == 200


async def test_a_password_for_the_metrics_only() -> None:
    metrics = PrometheusInstrument(CollectorRegistry())
    check_password = trio_ws.basic_auth({"ann": "secret"})

    async def protect(opening: trio_ws.Opening, request: trio_ws.Request) -> trio_ws.Response | None:
        return await check_password(opening, request) if opening.path == "/metrics" else None

    async with serving(metrics, process_request=[protect, metrics.serve_at()]) as port:
        url = f"http://127.0.0.1:{port}/metrics"
        for same in (url, f"{url}?query", f"http://127.0.0.1:{port}/%6detrics"):
            assert (await trio.to_thread.run_sync(fetch, same))[0] == 401
        headers = {"Authorization": "Basic YW5uOnNlY3JldA=="}
        assert (await trio.to_thread.run_sync(fetch, url, headers))[0] == 200
        async with trio_ws.connect(f"ws://127.0.0.1:{port}/") as ws:
            assert await ws.ping() >= 0


def test_a_registry_has_one_instrument() -> None:
    registry = CollectorRegistry()
    first = PrometheusInstrument(registry)
    with pytest.raises(ValueError, match="registry must have only one PrometheusInstrument"):
        PrometheusInstrument(registry)
    assert value(first, "trio_ws_open_connections", role="server") == 0


def test_paths_that_no_request_has() -> None:
    metrics = PrometheusInstrument(CollectorRegistry())
    for path in ("metrics", "", "http://localhost/metrics", "/metrics?a", "/metrics#a"):
        with pytest.raises(ValueError, match="path must"):
            metrics.serve_at(path)
    with pytest.raises(TypeError, match="path must be a str"):
        metrics.serve_at(None)  # type: ignore[arg-type]  # wrong on purpose


def value(metrics: PrometheusInstrument, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


async def test_both_roles(autojump_clock: trio.testing.MockClock) -> None:
    metrics = PrometheusInstrument(CollectorRegistry())
    async with memory_websocket_pair(instruments=[metrics], compression=None) as (client, server):
        for role in ("client", "server"):
            assert value(metrics, "trio_ws_open_connections", role=role) == 1
        await client.ping()
        await server.send("hello")
        assert await client.receive() == "hello"
        assert value(metrics, "trio_ws_messages_total", role="server", direction="out", kind="text") == 1
        assert value(metrics, "trio_ws_messages_total", role="client", direction="in", kind="text") == 1
        await trio.sleep(90)
    assert value(metrics, "trio_ws_ping_seconds_count", role="client") == 5
    assert value(metrics, "trio_ws_ping_seconds_count", role="server") == 4
    assert value(metrics, "trio_ws_connection_seconds_bucket", role="client", le="600.0") == 1
    assert value(metrics, "trio_ws_connection_seconds_bucket", role="client", le="60.0") == 0


async def test_queues() -> None:
    metrics = PrometheusInstrument(CollectorRegistry())
    labels = {"role": "client"}

    def queued() -> tuple[float | None, float | None]:
        return (
            value(metrics, "trio_ws_queue_bytes", queue="inbox", **labels),
            value(metrics, "trio_ws_queue_bytes", queue="outbox", **labels),
        )

    async with trio.open_nursery() as nursery:
        async with opened(streams=pipe_pair(1000), instruments=[metrics], send_buffer=10_000) as (ws, peer):
            await peer.send(text("a" * 1000))
            await ws.send(bytes(9_000))
            nursery.start_soon(ignore, ws)
            await settle()
            inbox, outbox = queued()
            assert inbox is not None
            assert outbox is not None
            assert 1000 < inbox < 1200
            assert 9_000 < outbox < 9_200
    assert queued() == (0, 0)
    assert metrics._queued == {}


async def ignore(ws: trio_ws.WebSocket) -> None:
    with pytest.raises(trio_ws.ConnectionClosed):
        await ws.send(bytes(9_000))


@pytest.mark.parametrize(
    "code, shown",
    [(1000, "1000"), (1011, "1011"), (3000, "3000"), (3999, "3xxx"), (4000, "4xxx"), (4001, "4001"), (4999, "4xxx")],
)
async def test_codes(code: int, shown: str) -> None:
    metrics = PrometheusInstrument(CollectorRegistry(), codes=[4001])
    async with opened(Role.SERVER, instruments=[metrics]) as (ws, peer):
        await peer.send(close(code))
        with pytest.raises(trio_ws.ConnectionClosed):
            await ws.receive()
    clean = "true" if code == 1000 else "false"
    assert value(metrics, "trio_ws_closes_total", role="server", code=shown, clean=clean) == 1


async def test_a_connection_that_is_lost() -> None:
    metrics = PrometheusInstrument(CollectorRegistry())
    async with opened(instruments=[metrics]):
        pass
    assert value(metrics, "trio_ws_closes_total", role="client", code="1006", clean="false") == 1


def test_the_default_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = CollectorRegistry()
    monkeypatch.setattr(prometheus_client, "REGISTRY", registry)
    assert PrometheusInstrument().registry is registry
    with pytest.raises(ValueError):
        PrometheusInstrument()


def test_without_prometheus_client(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "prometheus_client"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"trio-ws\[prometheus\]") as caught:
        PrometheusInstrument()
    assert isinstance(caught.value.__cause__, ImportError)


async def test_hubs(autojump_clock: trio.testing.MockClock) -> None:
    registry = prometheus_client.CollectorRegistry()
    metrics = trio_ws.PrometheusInstrument(registry)
    engine = Engine()
    hub = trio_ws.Hub(
        backend=engine.backend(),
        instruments=[metrics],
        when_lost="ignore",
        backoff=trio_ws.Backoff(initial=2, maximum=2, random=lambda: 1.0),
    )
    values: dict[str, float | None] = {}

    def changed() -> dict[str, float | None]:
        names = [
            "connected",
            "connects_total",
            "losses_total",
            "backlog_messages",
            "published_total",
            "lag_seconds_sum",
        ]
        before = dict(values)
        values.update({name: registry.get_sample_value(f"trio_ws_hub_{name}") for name in names})
        return {name: value for name, value in values.items() if value != before.get(name)}

    changed()
    topic = hub.topic("news")
    async with trio.open_nursery() as nursery, memory_websocket_pair(ping_interval=None) as (_, server):
        await nursery.start(hub.run)
        assert changed() == {"connected": 1, "connects_total": 1}
        with topic.subscribe(server):
            await trio.testing.wait_all_tasks_blocked()
            engine.fail()
            engine.recover(empty=True)
            await trio.sleep(1)
            topic.publish("a")
            topic.publish("b")
            assert changed() == {"connected": 0, "backlog_messages": 2}
            assert hub._core.exchange is not None
            assert registry.get_sample_value("trio_ws_hub_backlog_bytes") == hub._core.exchange.outgoing.size
            await trio.sleep(5)
            assert changed() == {
                "connected": 1,
                "connects_total": 2,
                "losses_total": 1,
                "backlog_messages": 0,
                "published_total": 2,
                "lag_seconds_sum": 1,
            }
        nursery.cancel_scope.cancel()
    assert changed() == {"connected": 0}
