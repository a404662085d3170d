"""Routing by path to different handlers: ``route`` and ``Router``.

A router chooses the handler in the opening handshake, as the last ``process_request`` function. An unknown path gets
404 instead of a connection that closes at once, and a client that the application rejects does not learn which paths
exist. The handler is kept on the :class:`Opening` until it is called.

A path without converters is a key of a dict. Paths with converters are matched by werkzeug, an optional dependency that
is imported only when a path needs it.

Paths are percent-decoded once, as UTF-8, before they are compared. As in other applications that use werkzeug, ``%2F``
is a slash. A path that is not valid UTF-8 is not found.

The Location of a redirect has no scheme, and no host unless the redirect leads to another one: a server behind a proxy
does not know the scheme and the port that its clients use.
"""

from __future__ import annotations

import sys
import urllib.parse
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from ..http11 import Request, Response
from ..misuse.usage import call_async, check_async_function
from .server import Opening, ServerWebSocket
from .target import strip_port

if TYPE_CHECKING:
    from werkzeug.routing import Map

__all__ = ["RouteHandler", "Router", "route"]

#: A handler that takes the values of its path's converters as keyword arguments.
RouteHandler: TypeAlias = Callable[..., Awaitable[object]]

#: Characters that need not be quoted in a path or a query (RFC 3986, section 3.4); ``%`` is part of what is quoted.
_SAFE = "%!$&'()*+,;=:@/?"

_Match: TypeAlias = tuple[RouteHandler, Mapping[str, Any]]


def route(table: Mapping[str, RouteHandler] | Map, *, server_name: str | None = None) -> Router:
    """Return a handler for :func:`serve` that calls the handler of each connection's path.

    ::

        await trio_ws.serve(trio_ws.route({"/news": news, "/chat/<room>": chat}), 8765)

    The table maps paths to handlers. A path may contain werkzeug converters, such as ``<room>``, ``<int:number>``,
    ``<uuid:id>`` or ``<path:rest>``. Their values become keyword arguments of the handler: ``chat(ws, room="trio")``.
    Converters require werkzeug: ``pip install trio-ws[routing]``. Paths are written without percent-encoding
    (``"/grüße"``) and without a query.

    The table may also be a ``werkzeug.routing.Map`` whose endpoints are handlers, with everything that a map can do:
    custom converters, redirects, subdomains, hosts. If any of its rules have ``websocket=True``, only these are used;
    otherwise all are. Hosts in rules are names without a port.

    Requests are routed in the opening handshake, after ``process_request``. An unknown path gets 404, and a rule may
    redirect. Plain HTTP requests are routed too: they get 404 or a redirect like the others, and 426 where a WebSocket
    would have been opened.

    Args:
        table: The paths and their handlers.
        server_name: The host whose subdomains the rules of a ``Map`` match. Requests for other hosts get 404. None to
            ignore subdomains.

    Raises:
        ImportError: If a path contains a converter and werkzeug is not installed.
        TypeError: If ``table`` is neither a dict nor a ``Map``, or a handler cannot take the arguments that its path
            gives it; if ``server_name`` is given with a dict, whose paths have no host.
        ValueError: If a path does not begin with a slash, has a query or a fragment, or cannot be parsed.
        LookupError: If a converter is unknown.
    """
    return Router(table, server_name)


class Router:
    """A handler that calls another handler, chosen by the path of the request. :func:`route` returns it.

    When it is the handler of :func:`serve` or :func:`serve_over`, its :meth:`process_request` is called automatically.
    When another handler calls it, add that function to those of the server::

        await trio_ws.serve(measured(router), 8765, process_request=router.process_request)
    """

    def __init__(self, table: Mapping[str, RouteHandler] | Map, server_name: str | None = None) -> None:
        self._static: dict[str, RouteHandler] = {}
        self._rules: _Rules | None = None
        if isinstance(table, Mapping):
            if server_name is not None:
                raise TypeError("server_name must be given together with a werkzeug.routing.Map")
            patterns = {path: handler for path, handler in table.items() if "<" in _check_path(path)}
            self._static = {path: handler for path, handler in table.items() if path not in patterns}
            for path, handler in self._static.items():
                _check_handler(path, handler, ())
            if patterns:
                self._rules = _Rules(_make_map(patterns), server_name)
        elif _is_map(table):
            self._rules = _Rules(table, server_name)
        else:
            raise TypeError(f"table must be a dict or a werkzeug.routing.Map, not {table!r}")

    def process_request(self, opening: Opening, request: Request) -> Response | None:
        """Choose the handler for a request. This is a ``process_request`` function for :func:`serve`.

        Returns:
            A response (404, 405 or a redirect) if there is no handler; None if there is one.
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
        """Call the handler that :meth:`process_request` has chosen.

        Raises:
            RuntimeError: If :meth:`process_request` was not called in the opening handshake.
        """
        if ws.opening._match is None:
            raise RuntimeError(
                "the process_request of the router must be called first: add it to process_request of the server"
            )
        handler, arguments = ws.opening._match
        await call_async("the handler of a route", handler, ws, **arguments)


class _Rules:
    """The rules of a werkzeug map. They exist only if werkzeug can be imported."""

    def __init__(self, map: Map, server_name: str | None) -> None:
        if map.host_matching and server_name is not None:
            raise ValueError("server_name must be None if the Map has host_matching=True")
        rules = list(map.iter_rules())
        # True if only the rules with websocket=True are used.
        self._websocket = any(rule.websocket for rule in rules)
        self._map = map
        self._server_name = None if server_name is None else server_name.lower()
        for rule in rules:
            if rule.websocket is self._websocket and not rule.build_only and rule.redirect_to is None:
                _check_handler(rule.rule, rule.endpoint, rule.arguments)

    def __len__(self) -> int:
        return sum(1 for _ in self._map.iter_rules())

    def find(self, opening: Opening, request: Request, path: str, query: str) -> _Match | Response:
        """Return the handler for a request and its keyword arguments, or a response if there is none."""
        from werkzeug.exceptions import HTTPException, MethodNotAllowed
        from werkzeug.routing import RequestRedirect, WebsocketMismatch

        host = strip_port(opening.host or request.headers.get("Host", "").strip(" \t"))
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
                return opening.respond(exc.code, f"see {location}\n", {"Location": location})
        except WebsocketMismatch:
            return _not_found(opening)
        except MethodNotAllowed as exc:
            allow = {"Allow": ", ".join(sorted(exc.valid_methods or ()))}
            return opening.respond(405, "method not allowed, see the Allow header\n", allow)
        except HTTPException as exc:
            # NotFound, BadHost, or an exception from a converter or redirect of the application.
            status = exc.code or 500
            return _not_found(opening) if status == 404 else opening.respond(status, f"{exc.name}\n")
        return handler, arguments


def _not_found(opening: Opening) -> Response:
    return opening.respond(404, "not found, check the URL\n")


def _check_path(path: object) -> str:
    if not isinstance(path, str):
        raise TypeError(f"a path must be a str, not {path!r}")
    if not path.startswith("/"):
        raise ValueError(f"the path {path!r} must begin with a slash")
    if "<" not in path and ("?" in path or "#" in path):
        raise ValueError(f"the path {path!r} must not have a query or a fragment")
    return path


def _check_handler(path: str, handler: Any, arguments: Iterable[str]) -> None:
    """Raise TypeError if calling the handler with these keyword arguments would fail for every connection."""
    if isinstance(handler, Router):
        raise TypeError(f"the handler for {path!r} must not be a router: put its paths into this one")
    check_async_function(f"the handler for {path!r}", handler, arguments)


def _is_map(table: object) -> TypeGuard[Map]:
    # If the table is a Map, werkzeug.routing has been imported already.
    werkzeug_routing = sys.modules.get("werkzeug.routing")
    return werkzeug_routing is not None and isinstance(table, werkzeug_routing.Map)


def _make_map(patterns: Mapping[str, RouteHandler]) -> Map:
    try:
        from werkzeug.routing import Map, Rule
    except ImportError as exc:
        raise ImportError(
            f"converters in paths, as in {next(iter(patterns))!r}, require werkzeug: pip install trio-ws[routing]"
        ) from exc
    return Map([Rule(path, endpoint=handler, websocket=True) for path, handler in patterns.items()])


def _without_host(target: str) -> str:
    """Return the path of a request target, which may be a path or a whole URI (RFC 9112, section 3.2)."""
    if target.startswith("/"):
        return target
    return "/" + target.partition("://")[2].partition("/")[2]


def _to_location(url: str, host: str) -> str:
    """Return the Location for a redirect of werkzeug, as a reference relative to the request where possible.

    The URL from werkzeug begins with ``ws://`` and our host, but the client may use another scheme and port.
    """
    scheme, netloc, path, query, _ = urllib.parse.urlsplit(url)
    # Two leading slashes would introduce a host. quote() escapes backslashes, which browsers read as slashes.
    path = urllib.parse.quote("/" + path.lstrip("/"), safe=_SAFE)
    query = urllib.parse.quote(query, safe=_SAFE)
    if scheme in ("wss", "https"):
        return urllib.parse.urlunsplit(("https", netloc, path, query, ""))
    return urllib.parse.urlunsplit(("", "" if netloc == host else netloc, path, query, ""))
