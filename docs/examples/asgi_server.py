"""An ASGI server on the hooks of ``serve``.

It serves an application of Starlette: HTTP and WebSocket on one port.
"""

from contextvars import ContextVar
from functools import partial
from typing import Any
from urllib.parse import unquote

import attrs
import trio
import trio_ws
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

Event = dict[str, Any]


class Session:
    """A WebSocket connection of an application. It starts before the handshake has ended."""

    def __init__(self) -> None:
        self.answer: Event = {}
        self.answered, self.opened, self.ended = trio.Event(), trio.Event(), trio.Event()
        self.failure: Exception | None = None
        self._ws: trio_ws.WebSocket | None = None
        self._events = iter([{"type": "websocket.connect"}])

    async def run(self, app: Any, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception as exc:
            self.failure = exc  # the connection's own task raises it
        finally:
            self.answered.set()
            self.ended.set()

    async def serve(self, ws: trio_ws.WebSocket) -> None:
        self._ws = ws
        self.opened.set()
        await self.ended.wait()
        if self.failure is not None:
            raise self.failure

    async def _receive(self) -> Event:
        for event in self._events:
            return event
        try:
            message = await (await self._websocket()).receive()
        except trio_ws.ConnectionClosed as exc:
            return {"type": "websocket.disconnect", "code": exc.code, "reason": exc.reason}
        return {
            "type": "websocket.receive",
            "text" if isinstance(message, str) else "bytes": message,
        }

    async def _send(self, event: Event) -> None:
        if not self.answer:
            self.answer = event  # websocket.accept or websocket.close
            self.answered.set()
        elif event["type"] == "websocket.close":
            await (await self._websocket()).aclose(
                event.get("code", 1000), event.get("reason") or ""
            )
        else:
            text = event.get("text")
            try:
                await (await self._websocket()).send(event["bytes"] if text is None else text)
            except trio_ws.ConnectionClosed as exc:
                raise OSError(str(exc)) from exc  # as ASGI requires it

    async def _websocket(self) -> trio_ws.WebSocket:
        with trio.move_on_after(10):  # the client may leave before the handshake ends
            await self.opened.wait()
        if self._ws is None:
            raise trio_ws.ConnectionClosedError(None, None)
        return self._ws


#: The session of a connection. All hooks of a connection run in its task.
session: ContextVar[Session] = ContextVar("session")


def make_scope(kind: str, opening: trio_ws.Opening, request: trio_ws.Request) -> dict[str, Any]:
    path, _, query = request.path.partition("?")
    offered = ",".join(request.headers.get_all("Sec-WebSocket-Protocol"))
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": request.http_version,
        "method": request.method,
        "scheme": ("http" if kind == "http" else "ws") + ("s" if opening.secure else ""),
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [
            (name.lower().encode(), value.encode("latin-1"))
            for name, value in request.headers.raw_items()
        ],
        "client": opening.remote_address[:2] if isinstance(opening.remote_address, tuple) else None,
        "server": opening.local_address[:2] if isinstance(opening.local_address, tuple) else None,
        "subprotocols": [name.strip() for name in offered.split(",") if name.strip()],
    }


def decode_headers(event: Event) -> list[tuple[str, str]]:
    return [(name.decode(), value.decode("latin-1")) for name, value in event.get("headers", ())]


async def answer_http(
    app: Any, opening: trio_ws.Opening, request: trio_ws.Request
) -> trio_ws.Response:
    if request.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in request.headers:
        return opening.respond(501, "this server reads no bodies\n")
    requests = iter([{"type": "http.request"}])
    events: list[Event] = []

    async def receive() -> Event:
        for event in requests:
            return event
        return await trio.sleep_forever()

    async def send(event: Event) -> None:
        events.append(event)

    await app(make_scope("http", opening, request), receive, send)
    start, *parts = events
    return opening.respond(
        start["status"], b"".join(part.get("body", b"") for part in parts), decode_headers(start)
    )


async def serve_asgi(app: Any, port: int, **options: Any) -> None:
    async def process_request(
        opening: trio_ws.Opening, request: trio_ws.Request
    ) -> trio_ws.Response | None:
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return await answer_http(app, opening, request)
        new = Session()
        session.set(new)
        nursery.start_soon(new.run, app, make_scope("websocket", opening, request))
        await new.answered.wait()
        if new.failure is not None:
            raise new.failure
        if new.answer.get("type") != "websocket.accept":
            return opening.respond(403, "the application has refused\n")
        return None

    def select_subprotocol(_opening: object, _offered: object) -> str | None:
        return session.get().answer.get("subprotocol")

    def process_response(
        _opening: object, _request: object, response: trio_ws.Response
    ) -> trio_ws.Response | None:
        if response.status_code != 101:
            return None
        headers = [*response.headers.raw_items(), *decode_headers(session.get().answer)]
        return attrs.evolve(response, headers=headers)

    async def handle(ws: trio_ws.ServerWebSocket) -> None:
        await session.get().serve(ws)

    hooks = {
        "process_request": process_request,
        "process_response": process_response,
        "select_subprotocol": select_subprotocol,
    }
    async with trio.open_nursery() as nursery:
        await trio_ws.serve(handle, port, **hooks, **options)
        nursery.cancel_scope.cancel()


async def page(request: Request) -> PlainTextResponse:
    return PlainTextResponse(
        f"hello, {request.query_params.get('name', 'stranger')}\n", headers={"X-From": "Starlette"}
    )


async def echo(ws: WebSocket) -> None:
    if "chat" not in ws.scope["subprotocols"]:
        await ws.close()  # before accept(): the client gets 403
        return
    await ws.accept(subprotocol="chat", headers=[(b"x-room", ws.path_params["room"].encode())])
    try:
        while (message := await ws.receive_text()) != "bye":
            await ws.send_text(message)
        await ws.close(4000, "goodbye")
    except WebSocketDisconnect as exc:
        print("the client left with", exc.code)


app = Starlette(routes=[Route("/", page), WebSocketRoute("/rooms/{room}", echo)])

trio.run(partial(serve_asgi, app, 8765, host="localhost"))
