"""The handshake options of a server, checked: ``HandshakePolicy``."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import attrs

from ..datastructures import Headers
from ..exceptions import HostNotServed, InvalidHeader
from ..http11 import Request, Response
from ..http11.messages import software
from ..protocol.handshake import check_headers, is_upgrade
from ..version import __version__
from .forwarded.trust import Forwarding
from .origins import SAME_HOST, Origins, check_host, check_origin, check_origins
from .server import Opening, ProcessRequest, ProcessResponse, SelectSubprotocol

__all__ = ["HandshakePolicy"]

T = TypeVar("T")

#: The Server header.
SERVER = software(__version__)


def _in_order(functions: ProcessRequest | Sequence[ProcessRequest] | None) -> tuple[ProcessRequest, ...]:
    if functions is None:
        return ()
    return (functions,) if callable(functions) else tuple(functions)


def _to_hosts(hosts: Sequence[str] | None) -> frozenset[str] | None:
    if hosts is None:
        return None
    if isinstance(hosts, str):
        raise TypeError(f"hosts is a sequence of names, not {hosts!r}")
    return frozenset(host.lower() for host in hosts)


@attrs.frozen(kw_only=True)
class HandshakePolicy:
    """The handshake options of a server, checked; see :class:`ServeOptions` for their meaning."""

    process_request: tuple[ProcessRequest, ...] = attrs.field(default=None, converter=_in_order)
    process_response: ProcessResponse | None = None
    select_subprotocol: SelectSubprotocol | None = None
    origins: Origins = attrs.field(default=SAME_HOST, converter=check_origins)
    hosts: frozenset[str] | None = attrs.field(default=None, converter=_to_hosts)
    headers: Headers = attrs.field(factory=Headers, converter=check_headers)
    server_header: str | None = SERVER
    forwarding: Forwarding = attrs.field(factory=Forwarding)

    def check(self, request: Request) -> None:
        """Check for which host a request is, and from which page.

        Raises:
            InvalidHeader: if there is not one host, or none that can be one.
            HostNotServed: if it is for another host.
            InvalidOrigin: if a page wants a WebSocket that may not have one.
        """
        values = request.headers.get_all("Host")
        if not values and request.http_version != "1.1":
            return  # as it may be; and it cannot become a WebSocket
        if len(values) != 1 or not check_host(host := values[0].strip(" \t")):
            raise InvalidHeader("Host", ", ".join(values) if values else None, "a request is for one host")
        if self.hosts is not None and host.lower() not in self.hosts and _name(host) not in self.hosts:
            raise HostNotServed("Host", host, "this is another server")
        if is_upgrade(request):
            check_origin(request, self.origins)

    async def answer(self, opening: Opening, request: Request) -> Response | None:
        """Return the application's answer, or None. Raises what the application raises."""
        for function in self.process_request:
            response = await _call(function, opening, request)
            if response is not None:
                if response.status_code < 200:
                    raise ValueError(f"process_request() cannot answer with the status {response.status_code}")
                return response
        return None

    async def change(self, opening: Opening, request: Request, response: Response) -> Response:
        """Return the answer to an opening handshake after the application has seen it."""
        if self.process_response is None:
            return response
        changed = await _call(self.process_response, opening, request, response)
        if changed is None:
            return response
        if changed.status_code == 101 and not _has_headers_of(response, changed):
            raise ValueError("process_response() has changed what makes the response an opening handshake")
        if changed.status_code < 200 and changed.status_code != 101:
            raise ValueError(f"process_response() cannot answer with the status {changed.status_code}")
        return changed

    def add_headers(self, response: Response) -> Response:
        """Return a response of the application with the headers that all responses have."""
        missing = [(name, value) for name, value in self.headers.raw_items() if name not in response.headers]
        if self.server_header is not None and "Server" not in response.headers:
            missing.append(("Server", self.server_header))
        if not missing:
            return response
        headers = Headers(response.headers)
        headers.update(missing)
        return attrs.evolve(response, headers=headers)


async def _call(function: Callable[..., T | Awaitable[T]], *args: Any) -> T:
    result = function(*args)
    return await result if inspect.isawaitable(result) else result


def _name(host: str) -> str:
    """Return a host without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() and not name.endswith(":") else host).lower()


def _has_headers_of(response: Response, changed: Response) -> bool:
    """Whether a response still says all that makes it an opening handshake."""
    if response.status_code != 101:
        return False
    names = ("Upgrade", "Connection", "Sec-WebSocket-Accept", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions")
    return all(changed.headers.get_all(name) == response.headers.get_all(name) for name in names)
