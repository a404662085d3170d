"""The handshake options of a server, validated: ``HandshakePolicy``."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import attrs

from ..datastructures import Headers
from ..exceptions import HostNotServed, InvalidHeader
from ..http11 import Request, Response
from ..http11.messages import software
from ..misuse.values import optional_function, optional_text, to_tuple
from ..protocol.handshake import check_headers, is_upgrade
from ..version import __version__
from .forwarded.trust import Forwarding
from .origins import SAME_HOST, Origins, check_origin, is_valid_host, validate_origins
from .server import Opening, ProcessRequest, ProcessResponse, SelectSubprotocol

__all__ = ["HandshakePolicy"]

T = TypeVar("T")

#: The default Server header.
SERVER = software(__version__)


def _to_tuple(functions: ProcessRequest | Sequence[ProcessRequest] | None) -> tuple[ProcessRequest, ...]:
    if functions is None:
        return ()
    if callable(functions):
        return (functions,)
    validated = to_tuple("process_request", functions, "a function, a sequence of functions or None")
    for function in validated:
        if not callable(function):
            raise TypeError(f"each of process_request must be a function, not {function!r}")
    return validated


def _to_hosts(hosts: Sequence[str] | None) -> frozenset[str] | None:
    if hosts is None:
        return None
    names = to_tuple("hosts", hosts, "a sequence of names or None")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"each of hosts must be a str, not {name!r}")
    return frozenset(name.lower() for name in names)


@attrs.frozen(kw_only=True)
class HandshakePolicy:
    """The handshake options of a server, validated. :class:`ServeOptions` describes them."""

    process_request: tuple[ProcessRequest, ...] = attrs.field(default=None, converter=_to_tuple)
    process_response: ProcessResponse | None = attrs.field(default=None, validator=optional_function)
    select_subprotocol: SelectSubprotocol | None = attrs.field(default=None, validator=optional_function)
    origins: Origins = attrs.field(default=SAME_HOST, converter=validate_origins)
    hosts: frozenset[str] | None = attrs.field(default=None, converter=_to_hosts)
    headers: Headers = attrs.field(factory=Headers, converter=check_headers)
    server_header: str | None = attrs.field(default=SERVER, validator=optional_text)
    forwarding: Forwarding = attrs.field(factory=Forwarding)

    def check(self, request: Request) -> None:
        """Check the Host header of a request and, if it asks for a WebSocket, its Origin header.

        Raises:
            InvalidHeader: If the request does not have exactly one valid Host header.
            HostNotServed: If the host is not one of ``hosts``.
            InvalidOrigin: If the origin may not open a WebSocket.
        """
        values = request.headers.get_all("Host")
        if not values and request.http_version != "1.1":
            return  # HTTP/1.0 needs no Host header, and cannot be upgraded
        if len(values) != 1 or not is_valid_host(host := values[0].strip(" \t")):
            raise InvalidHeader(
                "Host", ", ".join(values) if values else None, "exactly one valid Host header is required"
            )
        if self.hosts is not None and host.lower() not in self.hosts and _strip_port(host) not in self.hosts:
            raise HostNotServed("Host", host, "host not served here")
        if is_upgrade(request):
            check_origin(request, self.origins)

    async def call_process_request(self, opening: Opening, request: Request) -> Response | None:
        """Call the ``process_request`` functions. Return the first response, or None. Exceptions propagate."""
        for function in self.process_request:
            response = await _call(function, opening, request)
            if response is not None:
                if response.status_code < 200:
                    raise ValueError(
                        f"process_request must return a status of at least 200, not {response.status_code}"
                    )
                return response
        return None

    async def call_process_response(self, opening: Opening, request: Request, response: Response) -> Response:
        """Call ``process_response``. Return its response, or the given one if there is none. Exceptions propagate."""
        if self.process_response is None:
            return response
        changed = await _call(self.process_response, opening, request, response)
        if changed is None:
            return response
        if changed.status_code == 101 and not _keeps_handshake(response, changed):
            raise ValueError(
                "process_response must not change the handshake headers of a 101, or turn a refusal into one"
            )
        if changed.status_code < 200 and changed.status_code != 101:
            raise ValueError(f"process_response must return 101 or a status of at least 200, not {changed.status_code}")
        return changed

    def add_headers(self, response: Response) -> Response:
        """Return a response with ``headers`` and ``server_header`` added, except for headers that it has already."""
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


def _strip_port(host: str) -> str:
    """Return the name in a Host header, in lower case."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() and not name.endswith(":") else host).lower()


def _keeps_handshake(response: Response, changed: Response) -> bool:
    """Whether a changed response still completes the opening handshake, as the original one does."""
    if response.status_code != 101:
        return False
    names = ("Upgrade", "Connection", "Sec-WebSocket-Accept", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions")
    return all(changed.headers.get_all(name) == response.headers.get_all(name) for name in names)
