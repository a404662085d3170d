"""The handshake options of a server, validated: ``HandshakePolicy``."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

import attrs

from ..datastructures import Headers
from ..exceptions import HostNotServed, InvalidHandshake, InvalidHeader
from ..http11 import Request, Response
from ..http11.messages import software
from ..misuse.values import optional_function, optional_text, to_tuple
from ..protocol.extensions import ServerExtension
from ..protocol.handshake import accepts, check_headers, is_upgrade
from ..protocol.supported import check_server_extensions
from ..uri import ParseError, bracket_ipv6, parse_host_and_port
from ..version import __version__
from .date import http_date
from .forwarded.trust import Forwarding
from .origins import SAME_HOST, Origins, check_origin, is_valid_host, validate_origins
from .server import Opening, ProcessRequest, ProcessResponse, SelectSubprotocol
from .target import has_port, strip_port, to_origin_form

__all__ = ["HandshakePolicy"]


#: The default Server header.
SERVER = software(__version__)


def _to_tuple(functions: ProcessRequest | Sequence[ProcessRequest] | None) -> tuple[ProcessRequest, ...]:
    if functions is None:
        return ()
    if callable(functions):
        return (functions,)
    validated = to_tuple("process_request", functions, "a function, a sequence of functions or None", ordered=True)
    for function in validated:
        if not callable(function):
            raise TypeError(f"each of process_request must be a function, not {function!r}")
    return validated


def _to_hosts(hosts: Collection[str] | None) -> frozenset[str] | None:
    if hosts is None:
        return None
    return frozenset(map(_to_host, to_tuple("hosts", hosts, "a sequence of names or None")))


def _to_host(text: object) -> str:
    """Return one of ``hosts`` as clients send it: in ASCII and lower case, an IPv6 address in brackets."""
    if not isinstance(text, str):
        raise TypeError(f"each of hosts must be a str, not {text!r}")
    is_bare_ipv6 = text.count(":") > 1 and not text.startswith("[")
    try:
        host, port = parse_host_and_port(f"[{text}]" if is_bare_ipv6 else text, 0)
    except ParseError as exc:
        raise ValueError(
            f"each of hosts must be like 'example.org' or 'example.org:8080', not {text!r}: {exc}"
        ) from exc
    if "*" in host:
        raise ValueError(f"each of hosts must be a whole name, not {text!r}; process_request can check others")
    return bracket_ipv6(host) + (f":{port}" if port else "")


def _check_server_header(instance: HandshakePolicy, attribute: attrs.Attribute[str], value: str | None) -> None:
    optional_text(instance, attribute, value)
    if value is not None:
        try:
            Headers({"Server": value})
        except InvalidHeader as exc:
            raise ValueError(f"server_header must be the value of a header, not {value!r}") from exc


@attrs.frozen(kw_only=True, eq=False, repr=False)
class HandshakePolicy:
    """The handshake options of a server, validated. :class:`ServeOptions` describes them."""

    process_request: tuple[ProcessRequest, ...] = attrs.field(default=None, converter=_to_tuple)
    process_response: ProcessResponse | None = attrs.field(default=None, validator=optional_function)
    select_subprotocol: SelectSubprotocol | None = attrs.field(default=None, validator=optional_function)
    origins: Origins = attrs.field(default=SAME_HOST, converter=validate_origins)
    hosts: frozenset[str] | None = attrs.field(default=None, converter=_to_hosts)
    headers: Headers = attrs.field(factory=Headers, converter=check_headers)
    server_header: str | None = attrs.field(default=SERVER, validator=_check_server_header)
    extensions: tuple[ServerExtension, ...] = attrs.field(default=(), converter=check_server_extensions)
    forwarding: Forwarding = attrs.field(factory=Forwarding)

    def check(self, request: Request, opening: Opening) -> Request:
        """Check the target and the Host header of a request and, if it asks for a WebSocket, its Origin header.

        Args:
            request: The request.
            opening: The opening handshake. Its host and its request are set here.

        Returns:
            The request, with a path as its target.

        Raises:
            InvalidMessage: If the target of the request is not a path.
            InvalidMethod: If the method is CONNECT.
            InvalidHeader: If the request does not have exactly one valid Host header.
            HostNotServed: If the host is not one of ``hosts``.
            InvalidOrigin: If the origin may not open a WebSocket.
        """
        values = request.headers.get_all("Host")
        is_required = request.http_version in ("1.1", "2")  # HTTP/1.0 needs no Host header, and cannot be upgraded
        if (values or is_required) and (len(values) != 1 or not is_valid_host(values[0].strip(" \t"))):
            raise InvalidHeader(
                "Host", ", ".join(values) if values else None, "exactly one valid Host header is required"
            )
        opening._request = request = to_origin_form(request)
        forwarded = opening._peer.host
        opening.host = host = forwarded or request.headers.get("Host", "").strip(" \t")
        if not host:
            return request
        # A proxy may replace the port, or leave it out.
        any_port = opening._peer.is_trusted_proxy and not (forwarded and has_port(forwarded))
        if not self._serves(host, any_port):
            raise HostNotServed("Host", host, "host not served here")
        if is_upgrade(request):
            check_origin(request, self.origins, host=host, any_port=any_port)
        return request

    def _serves(self, host: str, any_port: bool) -> bool:
        """Whether a host is one of ``hosts``."""
        if self.hosts is None:
            return True
        name = strip_port(host)
        if any_port:
            return name in {strip_port(each) for each in self.hosts}
        return name in self.hosts or host.lower() in self.hosts

    async def call_process_request(self, opening: Opening, request: Request) -> Response | None:
        """Call the ``process_request`` functions. Return the first response, or None. Exceptions propagate."""
        for function in self.process_request:
            response = await _call("process_request", function, opening, request)
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
        changed = await _call("process_response", self.process_response, opening, request, response)
        if changed is None:
            return response
        if accepts(request, changed):
            if not (accepts(request, response) and _keeps_handshake(response, changed)):
                raise ValueError(
                    f"process_response must not change the handshake headers of a {changed.status_code}, or turn a "
                    "refusal into one"
                )
        elif changed.status_code < 200:
            allowed = "a status" if request.http_version == "2" else "101 or a status"
            raise ValueError(f"process_response must return {allowed} of at least 200, not {changed.status_code}")
        return changed

    def add_headers(self, response: Response) -> Response:
        """Return a final response with ``headers``, ``server_header`` and Date, except for headers that it has already.

        101 is not a final response: it has no Date, and the opening handshake adds the others.
        """
        headers = Headers(response.headers)
        headers.update((name, value) for name, value in self.headers.raw_items() if name not in response.headers)
        if self.server_header is not None and "Server" not in headers:
            headers["Server"] = self.server_header
        if "Date" not in headers:
            headers["Date"] = http_date()
        return attrs.evolve(response, headers=headers)


async def _call(
    name: str, function: Callable[..., Response | Awaitable[Response | None] | None], *args: Any
) -> Response | None:
    """Call a function of the application, async or not, that returns a response or None.

    Raises:
        RuntimeError: If it raises an :exc:`InvalidHandshake`, for example because it is a client itself. Without this,
            the fault would be that of our client, who would also see its text.
        TypeError: If it returns something else.
        Exception: If it raises another exception.
    """
    try:
        result = function(*args)
        response = await result if inspect.isawaitable(result) else result
    except InvalidHandshake as exc:
        raise RuntimeError(f"{name} has raised {type(exc).__name__}") from exc
    if not (response is None or isinstance(response, Response)):
        raise TypeError(f"{name} must return a Response or None, not {response!r}")
    return response


def _keeps_handshake(response: Response, changed: Response) -> bool:
    """Whether a changed response still completes the opening handshake, as the original one does."""
    names = ("Upgrade", "Connection", "Sec-WebSocket-Accept", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions")
    return all(changed.headers.get_all(name) == response.headers.get_all(name) for name in names)
