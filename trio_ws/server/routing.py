"""Routing: which handler a request is for, by its path: ``route``, ``Router``.

The decision is made in the opening handshake, as the last of the functions in ``process_request``. So an unknown path
is answered with 404 and not with a connection that closes at once, and who may not connect is not told which paths
there are. What was found is kept on the :class:`Opening` until the handler is called.

A path without converters is looked up in a dict, as it is. All others are the work of werkzeug, which need not be
installed, and is imported when there is one of them.

Paths are compared after percent-decoding, once, as UTF-8. So ``%2F`` is a slash, as it is for other users of werkzeug,
and what is not UTF-8 is a path that is not there.

Where a redirect leads is said without a scheme, and without a host if it is the same: behind a proxy that does TLS, we
know neither as the client does.
"""

from __future__ import annotations

import inspect
import sys
import urllib.parse
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from ..http11 import Request, Response
from .server import Opening, ServerWebSocket

if TYPE_CHECKING:
    from werkzeug.routing import Map

__all__ = ["RouteHandler", "Router", "route"]

#: What is called for a connection: a handler that takes the values of its path's converters as keyword arguments.
RouteHandler: TypeAlias = Callable[..., Awaitable[object]]

#: What is quoted already, or need not be (RFC 3986, section 3.4).
_SAFE = "%!$&'()*+,;=:@/?"

_Match: TypeAlias = tuple[RouteHandler, Mapping[str, Any]]


def route(table: Mapping[str, RouteHandler] | Map, *, server_name: str | None = None) -> Router:
    """Return a handler for :func:`serve` that leaves each connection to the handler of its path.

    ::

        await trio_ws.serve(trio_ws.route({"/news": news, "/chat/<room>": chat}), 8765)

    The table maps paths to handlers. A path without ``<`` matches just this path. With converters in it, such as
    ``<room>``, ``<int:number>``, ``<uuid:id>`` or ``<path:rest>``, it matches as the rules of werkzeug do, and their
    values are keyword arguments of the handler: ``await chat(ws, room="trio")``. That needs werkzeug: ``pip install
    trio-ws[routing]``. Paths are written without percent-encoding: ``"/grüße"``. The query is not part of them.

    Instead of a dict it can be a ``werkzeug.routing.Map`` whose endpoints are handlers, with all that it can do: other
    converters, redirects, subdomains, hosts. If some of its rules are for WebSocket (``websocket=True``), these count;
    otherwise all do. Hosts in rules are names without a port.

    The answer is given in the opening handshake, after ``process_request``: 404 for an unknown path, a redirect where a
    rule says so (with a Location that does not depend on TLS or on the name that a proxy knows us by). Plain requests
    are routed too, so they get 404 or a redirect, and 426 where a WebSocket would have been opened.

    Args:
        table: The paths and their handlers.
        server_name: The host whose subdomains are those of a ``Map``. Requests for others get 404. None: subdomains are
            not looked at.

    Raises:
        ImportError: if there are converters, and werkzeug is not installed.
        TypeError: if it is no such table, or a handler does not take the arguments that it would be called with.
        ValueError: if a path is none, or cannot be parsed.
        LookupError: if there is no such converter.
    """
    return Router(table, server_name)


class Router:
    """A handler that leaves each connection to another one, by its path. :func:`route` returns it.

    :func:`serve` and :func:`serve_over` see that they are given one, and ask it in the opening handshake. Where it is
    called by another handler, add its :meth:`process_request` to that of the server::

        await trio_ws.serve(measured(router), 8765, process_request=router.process_request)
    """

    def __init__(self, table: Mapping[str, RouteHandler] | Map, server_name: str | None = None) -> None:
        self._static: dict[str, RouteHandler] = {}
        self._rules: _Rules | None = None
        if isinstance(table, Mapping):
            patterns = {path: handler for path, handler in table.items() if "<" in _check_path(path)}
            self._static = {path: handler for path, handler in table.items() if path not in patterns}
            for path, handler in self._static.items():
                _check_handler(path, handler, ())
            if patterns:
                self._rules = _Rules(_make_map(patterns), server_name)
        elif _is_map(table):
            self._rules = _Rules(table, server_name)
        else:
            raise TypeError(f"routes are a dict or a werkzeug.routing.Map, not {table!r}")

    def process_request(self, opening: Opening, request: Request) -> Response | None:
        """Find the handler for a request. It is what :func:`serve` has as ``process_request``.

        Returns:
            The answer, if there is no handler; None if there is one.
        """
        target, _, query = request.path.partition("?")
        try:
            path = urllib.parse.unquote(_without_host(target), errors="strict")
        except UnicodeDecodeError:
            return _not_found(opening)
        handler = self._static.get(path)
        if handler is not None:
            opening._match = handler, {}
            return None
        if self._rules is None:
            return _not_found(opening)
        found = self._rules.find(opening, request, path, query)
        if isinstance(found, Response):
            return found
        opening._match = found
        return None

    def __repr__(self) -> str:
        count = len(self._static) + (0 if self._rules is None else len(self._rules))
        return f"<{type(self).__name__} with {count} route{'s' * (count != 1)}>"

    async def __call__(self, ws: ServerWebSocket) -> None:
        """Call the handler that was found.

        Raises:
            RuntimeError: if the router was not asked in the opening handshake.
        """
        if ws.opening._match is None:
            raise RuntimeError("the router was not asked: add its process_request to that of the server")
        handler, arguments = ws.opening._match
        await handler(ws, **arguments)


class _Rules:
    """A map of werkzeug. It is there, so werkzeug is imported."""

    def __init__(self, map: Map, server_name: str | None) -> None:
        if map.host_matching and server_name is not None:
            raise ValueError("server_name goes with subdomains, not with host_matching")
        rules = list(map.iter_rules())
        #: Whether only the rules count that are for WebSocket.
        self._websocket = any(rule.websocket for rule in rules)
        self._map = map
        self._server_name = None if server_name is None else server_name.lower()
        for rule in rules:
            if rule.websocket is self._websocket and not rule.build_only and rule.redirect_to is None:
                _check_handler(rule.rule, rule.endpoint, rule.arguments)

    def __len__(self) -> int:
        return sum(1 for _ in self._map.iter_rules())

    def find(self, opening: Opening, request: Request, path: str, query: str) -> _Match | Response:
        """Return the handler for a request and its arguments, or the answer if there is none."""
        from werkzeug.exceptions import HTTPException, MethodNotAllowed
        from werkzeug.routing import RequestRedirect, WebsocketMismatch

        host = _name_of_host(request.headers.get("Host", ""))
        subdomain = None
        if self._server_name is not None:
            subdomain, dot, rest = host.rpartition(self._server_name)
            if rest or not dot or (subdomain and not subdomain.endswith(".")):
                return _not_found(opening)
            host, subdomain = self._server_name, subdomain.removesuffix(".")
        try:
            adapter = self._map.bind(host, subdomain=subdomain, url_scheme="ws", query_args=query)
            try:
                handler, arguments = adapter.match(path, request.method, websocket=self._websocket)
            except RequestRedirect as exc:
                location = _to_location(exc.new_url, adapter.get_host(None))
                return opening.respond(exc.code, f"it is at {location}\n", {"Location": location})
        except WebsocketMismatch:
            return _not_found(opening)
        except MethodNotAllowed as exc:
            allow = {"Allow": ", ".join(sorted(exc.valid_methods or ()))}
            return opening.respond(405, "this method cannot be used here\n", allow)
        except HTTPException as exc:
            # NotFound, BadHost; and whatever the converters and redirects of the application raise.
            status = exc.code or 500
            return _not_found(opening) if status == 404 else opening.respond(status, f"{exc.name}\n")
        return handler, arguments


def _not_found(opening: Opening) -> Response:
    return opening.respond(404, "there is nothing here\n")


def _check_path(path: object) -> str:
    if not isinstance(path, str):
        raise TypeError(f"a path is a str, not {path!r}")
    if not path.startswith("/"):
        raise ValueError(f"a path begins with a slash: {path!r}")
    if "<" not in path and ("?" in path or "#" in path):
        raise ValueError(f"a path has neither a query nor a fragment: {path!r}")
    return path


def _check_handler(path: str, handler: object, arguments: Iterable[str]) -> None:
    """Raise now what would otherwise be raised for each connection."""
    if not callable(handler):
        raise TypeError(f"the handler for {path!r} is an async function, not {handler!r}")
    try:
        signature = inspect.signature(handler)
    except ValueError:  # some callables do not tell
        return
    try:
        signature.bind(None, **dict.fromkeys(arguments))
    except TypeError as exc:
        raise TypeError(f"the handler for {path!r} cannot be called: {exc}") from None


def _is_map(table: object) -> TypeGuard[Map]:
    # Who has a Map has imported werkzeug.
    werkzeug_routing = sys.modules.get("werkzeug.routing")
    return werkzeug_routing is not None and isinstance(table, werkzeug_routing.Map)


def _make_map(patterns: Mapping[str, RouteHandler]) -> Map:
    try:
        from werkzeug.routing import Map, Rule
    except ImportError as exc:
        raise ImportError(
            f"converters in paths, as in {next(iter(patterns))!r}, need werkzeug: pip install trio-ws[routing]"
        ) from exc
    return Map([Rule(path, endpoint=handler, websocket=True) for path, handler in patterns.items()])


def _without_host(target: str) -> str:
    """Return the path in what a request asks for, which may also be a whole URI (RFC 9112, section 3.2)."""
    if target.startswith("/"):
        return target
    return "/" + target.partition("://")[2].partition("/")[2]


def _name_of_host(host: str) -> str:
    """Return a host without its port."""
    name, colon, port = host.strip(" \t").rpartition(":")
    return (name if colon and port.isdigit() and not name.endswith(":") else host.strip(" \t")).lower()


def _to_location(url: str, host: str) -> str:
    """Return where a redirect of werkzeug leads, in a way that is right for any client that has asked ``host``.

    It has made a URL from what it was told, which is ``ws``. The client may know it by another scheme and port.
    """
    scheme, netloc, path, query, _ = urllib.parse.urlsplit(url)
    # Not two slashes at the beginning: that would be a host. Nor a backslash, which browsers take for a slash.
    path = urllib.parse.quote("/" + path.lstrip("/"), safe=_SAFE)
    query = urllib.parse.quote(query, safe=_SAFE)
    if scheme in ("wss", "https"):
        return urllib.parse.urlunsplit(("https", netloc, path, query, ""))
    return urllib.parse.urlunsplit(("", "" if netloc == host else netloc, path, query, ""))
