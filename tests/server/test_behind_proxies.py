"""A server behind real proxies, nginx, HAProxy and Caddy, with the configuration files in the documentation."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import pytest
import trio
import trustme

import trio_ws

from .. import proxies
from ..ports import free_port
from ..support import client_context, find_program

pytestmark = pytest.mark.usefixtures("watchdog")

EXAMPLES = Path(__file__).parent.parent.parent / "docs" / "examples"

CERTIFICATE = "/etc/ssl/example.org.pem"

#: The path of an nginx module on Debian, which its default configuration loads.
STREAM_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"

Serve: TypeAlias = Callable[..., Awaitable["ServerBehindProxy"]]


@pytest.fixture
def certificate(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "certificate.pem"
    authority.issue_cert("example.org", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)
    return path


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    return client_context(authority)


# -- The programs ----------------------------------------------------------------------------------------------------


def configure(example: str, path: Path, changes: dict[str, str]) -> None:
    """Write an example configuration with other ports, and with files that exist."""
    text = (EXAMPLES / example).read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in text, f"{example} has no {old!r}"
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


async def accepts(process: trio.Process, ports: list[int]) -> bool:
    """Wait until a process accepts connections on all ports. Return False if it ends before that."""
    waiting = list(ports)
    while waiting and process.poll() is None:
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", waiting[0])
        except OSError:
            continue
        await stream.aclose()
        del waiting[0]
    return not waiting


@contextlib.asynccontextmanager
async def started(
    example: str,
    folder: Path,
    command: Callable[[Path], list[str]],
    changes: Callable[[Callable[[], int]], dict[str, str]],
) -> AsyncIterator[list[int]]:
    """Run a proxy for the duration of a block. Yield the ports that it was given, in order."""
    while True:
        ports: list[int] = []

        def port(ports: list[int] = ports) -> int:
            ports.append(free_port())
            return ports[-1]

        path = folder / example
        configure(example, path, changes(port))
        async with proxies.process(command(path)) as process:
            if not await accepts(process, ports):
                assert process.stdout is not None
                said = b"".join([data async for data in process.stdout])
                if b"in use" in said:
                    continue  # another process has taken the port
                raise AssertionError(said.decode())
            yield ports
            return


@contextlib.asynccontextmanager
async def nginx(
    folder: Path, example: str, changes: Callable[[Callable[[], int]], dict[str, str]], lines: str = ""
) -> AsyncIterator[list[int]]:
    program = find_program("nginx")
    # Run in one process, in the foreground, and write only where an ordinary user may.
    settings = f"daemon off; master_process off; pid {folder}/nginx.pid; {lines}"

    def command(path: Path) -> list[str]:
        return [program, "-p", str(folder), "-c", str(path), "-e", "stderr", "-g", settings]

    async with started(example, folder, command, changes) as ports:
        yield ports


def http_block(folder: Path) -> str:
    """Return the beginning of a block that writes only to this folder."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "http { access_log off; " + " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)


@contextlib.asynccontextmanager
async def nginx_with_headers(folder: Path, certificate: Path, port: int) -> AsyncIterator[list[int]]:
    def changes(free_port: Callable[[], int]) -> dict[str, str]:
        return {
            "http {": http_block(folder),
            "listen 80;": f"listen 127.0.0.1:{free_port()};",
            "listen 443 ssl;": f"listen 127.0.0.1:{free_port()} ssl;",
            CERTIFICATE: str(certificate),
            "8765": str(port),
        }

    async with nginx(folder, "nginx.conf", changes) as ports:
        yield ports


@contextlib.asynccontextmanager
async def nginx_with_two_servers(folder: Path, first: int, second: int) -> AsyncIterator[list[int]]:
    def changes(free_port: Callable[[], int]) -> dict[str, str]:
        return {
            "http {": http_block(folder),
            "listen 80;": f"listen 127.0.0.1:{free_port()};",
            "8001 ": f"{first} ",
            "8002 ": f"{second} ",
        }

    async with nginx(folder, "nginx-rolling.conf", changes) as ports:
        yield ports


@contextlib.asynccontextmanager
async def haproxy(
    folder: Path, certificate: Path, *, headers: int = 1, bytes: int = 1, send: str = "send-proxy-v2-ssl"
) -> AsyncIterator[list[int]]:
    program = find_program("haproxy")

    def changes(free_port: Callable[[], int]) -> dict[str, str]:
        return {
            "bind :80\n": f"bind 127.0.0.1:{free_port()}\n",
            "bind :443 ": f"bind 127.0.0.1:{free_port()} ",
            "bind :8443\n": f"bind 127.0.0.1:{free_port()}\n",
            "bind :9443 ": f"bind 127.0.0.1:{free_port()} ",
            CERTIFICATE: str(certificate),
            "8765": str(headers),
            "8766": str(bytes),
            "send-proxy-v2-ssl": send,
        }

    # Run in one process, in the foreground.
    async with started("haproxy.cfg", folder, lambda path: [program, "-db", "-f", str(path)], changes) as ports:
        yield ports


@contextlib.asynccontextmanager
async def caddy(folder: Path, certificate: Path, port: int) -> AsyncIterator[list[int]]:
    program = find_program("caddy")

    def changes(free_port: Callable[[], int]) -> dict[str, str]:
        # One site without TLS, and one with a certificate that Caddy does not have to obtain.
        plain = f"http://:{free_port()} {{\n\timport site\n}}\n"
        tls = f"https://:{free_port()} {{\n\ttls {certificate} {certificate}\n\timport site\n}}\n"
        return {
            "example.org {\n": "{\n\tadmin off\n\tskip_install_trust\n\tdefault_bind 127.0.0.1\n}\n(site) {\n",
            "\t}\n}\n": f"\t}}\n}}\n{plain}{tls}",
            "8765": str(port),
        }

    def command(path: Path) -> list[str]:
        # Its files go into its home folder.
        return ["env", f"HOME={folder}", program, "run", "--adapter", "caddyfile", "--config", str(path)]

    async with started("Caddyfile", folder, command, changes) as ports:
        yield ports


# -- The server ------------------------------------------------------------------------------------------------------


@attrs.define
class ServerBehindProxy:
    """A server for tests with a proxy in front of it.

    Attributes:
        port: The port of the server.
        seen: What the server knew about each connection.
    """

    port: int = 0
    seen: list[trio_ws.Opening] = attrs.field(factory=list)

    async def echo(self, ws: trio_ws.ServerWebSocket) -> None:
        assert ws.remote_address == ws.opening.remote_address
        self.seen.append(ws.opening)
        async for message in ws:
            await ws.send(message)

    async def check(self, uri: str, secure: bool, tls: bool = False, **options: Any) -> None:
        """Connect through a proxy from another address, and check what the server knows about the client."""
        if uri.startswith("wss:"):
            options.setdefault("server_hostname", "example.org")
        async with trio_ws.connect(uri, proxy=None, local_address="127.0.0.2", **options) as ws:
            for message in ("hello", b"x" * 1_000_000):
                await ws.send(message)
                assert await ws.receive() == message
            host, port = ws.local_address
        assert ws.close_code == 1000
        opening = self.seen.pop()
        assert opening.remote_address[0] == host == "127.0.0.2"
        assert opening.remote_address[1] in (0, port)
        assert opening.proxy_address[0] == "127.0.0.1"
        assert opening.secure is secure


@pytest.fixture
async def serve(nursery: trio.Nursery) -> Serve:
    """Return a function that starts a server."""

    async def start(**options: Any) -> ServerBehindProxy:
        behind_proxy = ServerBehindProxy()
        server = await nursery.start(
            partial(trio_ws.serve, behind_proxy.echo, 0, host="127.0.0.1", trusted_proxies=["127.0.0.1"], **options)
        )
        behind_proxy.port = server.port
        return behind_proxy

    return start


#: Headers of a client that pretends to have another address.
FORGED = {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https", "Forwarded": "for=127.0.0.1;proto=https"}


async def ask(port: int, request: str) -> bytes:
    """Return the response to a plain request, sent from another address than the proxy's."""
    async with await trio.open_tcp_stream("127.0.0.1", port, local_address="127.0.0.2") as stream:
        await stream.send_all(request.encode())
        return b"".join([bytes(data) async for data in stream])


async def answer(opening: trio_ws.Opening, request: trio_ws.Request) -> trio_ws.Response | None:
    if "Upgrade" in request.headers:
        return None
    return opening.respond(200, f"{opening.remote_address[0]} {opening.secure} {request.headers['Host']}")


async def check_headers(place: ServerBehindProxy, plain: int, tls: int, trusting: ssl.SSLContext) -> None:
    await place.check(f"ws://127.0.0.1:{plain}/", secure=False)
    await place.check(f"wss://127.0.0.1:{tls}/", secure=True, ssl=trusting)
    await place.check(f"ws://127.0.0.1:{plain}/", secure=False, headers=FORGED)
    # A page of the same host may connect.
    await place.check(f"ws://127.0.0.1:{plain}/", secure=False, origin=f"http://127.0.0.1:{plain}")
    said = await ask(plain, "GET / HTTP/1.1\r\nHost: example.org:80\r\nConnection: close\r\n\r\n")
    assert b"127.0.0.2 False example.org:80" in said


async def test_nginx(serve: Serve, certificate: Path, trusting: ssl.SSLContext, tmp_path: Path) -> None:
    place = await serve(process_request=answer)
    async with nginx_with_headers(tmp_path, certificate, place.port) as (plain, tls):
        await check_headers(place, plain, tls, trusting)


async def test_nginx_while_a_server_is_drained(nursery: trio.Nursery, tmp_path: Path) -> None:
    """Clients that are connected stay, and all new ones get to the other server."""
    serve = partial(trio_ws.serve, ServerBehindProxy().echo, 0, host="127.0.0.1")
    old, new = [await nursery.start(serve) for _ in range(2)]

    async def check(ws: trio_ws.WebSocket) -> None:
        await ws.send("hello")
        assert await ws.receive() == "hello"

    async with nginx_with_two_servers(tmp_path, old.port, new.port) as (port,):
        async with contextlib.AsyncExitStack() as stack:
            uri = f"ws://127.0.0.1:{port}/"
            clients = [await stack.enter_async_context(trio_ws.connect(uri)) for _ in range(6)]
            assert len(old.connections) == len(new.connections) == 3
            assert not await old.drain(timeout=0)
            for _ in range(10):
                async with trio_ws.connect(uri) as ws:
                    await check(ws)
            for ws in clients:
                await check(ws)
            assert len(old.connections) == 3
        assert await old.drain()


async def test_haproxy(serve: Serve, certificate: Path, trusting: ssl.SSLContext, tmp_path: Path) -> None:
    place = await serve(process_request=answer)
    async with haproxy(tmp_path, certificate, headers=place.port) as (plain, tls, _, _):
        await check_headers(place, plain, tls, trusting)


async def test_caddy(serve: Serve, certificate: Path, trusting: ssl.SSLContext, tmp_path: Path) -> None:
    place = await serve(process_request=answer)
    async with caddy(tmp_path, certificate, place.port) as (plain, tls):
        await check_headers(place, plain, tls, trusting)


async def test_haproxy_in_front_of_nginx(
    serve: Serve, certificate: Path, trusting: ssl.SSLContext, tmp_path: Path
) -> None:
    place = await serve(process_request=answer)
    async with nginx_with_headers(tmp_path, certificate, place.port) as (inner, _):
        async with haproxy(tmp_path, certificate, headers=inner) as (plain, _, _, _):
            await place.check(f"ws://127.0.0.1:{plain}/", secure=False, headers=FORGED)


async def test_the_limit_per_client_address(serve: Serve, certificate: Path, tmp_path: Path) -> None:
    place = await serve(limits=trio_ws.Limits(per_address=1))
    async with nginx_with_headers(tmp_path, certificate, place.port) as (port, _):
        uri = f"ws://127.0.0.1:{port}/"
        connect = partial(trio_ws.connect, uri, proxy=None)
        async with connect(local_address="127.0.0.2"), connect(local_address="127.0.0.3"):
            with pytest.raises(trio_ws.InvalidStatus) as caught:
                async with connect(local_address="127.0.0.2", headers={"X-Forwarded-For": "127.0.0.4"}):
                    pytest.fail("the connection was opened")
            assert caught.value.status_code == 503


@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl"])
async def test_haproxy_with_the_proxy_protocol(
    send: str, serve: Serve, certificate: Path, trusting: ssl.SSLContext, tmp_path: Path
) -> None:
    place = await serve(proxy_protocol=True)
    async with haproxy(tmp_path, certificate, bytes=place.port, send=send) as (_, _, plain, tls):
        await place.check(f"ws://127.0.0.1:{plain}/", secure=False, headers=FORGED)
        # Only one of the two proxies can send the header.
        await place.check(f"wss://127.0.0.1:{tls}/", secure=send == "send-proxy-v2-ssl", ssl=trusting)


@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2"])
async def test_tls_through_haproxy_with_the_proxy_protocol(
    send: str, serve: Serve, certificate: Path, trusting: ssl.SSLContext, tmp_path: Path
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    place = await serve(proxy_protocol=True, ssl=context)
    async with haproxy(tmp_path, certificate, bytes=place.port, send=send) as (_, _, port, _):
        await place.check(f"wss://127.0.0.1:{port}/", secure=True, ssl=trusting)


@pytest.mark.skipif(not os.path.exists(STREAM_MODULE), reason="nginx is not installed with its stream module")
async def test_nginx_with_the_proxy_protocol(serve: Serve, tmp_path: Path) -> None:
    place = await serve(proxy_protocol=True)

    def changes(free_port: Callable[[], int]) -> dict[str, str]:
        return {"listen 443;": f"listen 127.0.0.1:{free_port()};", "8766": str(place.port)}

    async with nginx(tmp_path, "nginx-stream.conf", changes, f"load_module {STREAM_MODULE};") as (port,):
        await place.check(f"ws://127.0.0.1:{port}/", secure=False, headers=FORGED)
