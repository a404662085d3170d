"""The opening request of a client: ``RequestBuilder``."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable

import attrs

from ..datastructures import Headers, HeadersLike
from ..http11 import Request
from ..http11.messages import software
from ..misuse import values
from ..protocol.extensions import ClientExtension
from ..protocol.handshake import build_request
from ..protocol.supported import check_client_extensions, client_extensions
from ..settings import Settings
from ..uri import WebSocketURI
from ..version import __version__
from .cookies import Cookies
from .options import Credentials

__all__ = ["RequestBuilder"]

#: The User-Agent header.
USER_AGENT = software(__version__)

# Headers that must not be sent to another origin: credentials, and the name of the first server.
_FOR_FIRST_ORIGIN = ("Authorization", "Cookie", "Host", "Proxy-Authorization")


def _copy(headers: HeadersLike) -> Headers:
    return Headers(headers)


@attrs.frozen(eq=False, repr=False)
class RequestBuilder:
    """Builds the opening request for each attempt.

    Attributes:
        settings: The options of the connection.
        user_agent: See :class:`ConnectOverOptions`.
        origin: See :class:`ConnectOverOptions`.
        headers: See :class:`ConnectOverOptions`.
        cookies: See :class:`ConnectOverOptions`.
        credentials: See :class:`ConnectOverOptions`.
        extensions: See :class:`ConnectOverOptions`.
    """

    settings: Settings
    user_agent: str | None = attrs.field(default=USER_AGENT, validator=values.optional_text)
    origin: str | None = attrs.field(default=None, validator=values.optional_text)
    headers: Headers = attrs.field(factory=Headers, converter=_copy)
    cookies: Cookies | None = attrs.field(default=None, converter=attrs.converters.optional(Cookies))
    credentials: Credentials | None = attrs.field(default=None, validator=values.optional_credentials)
    extensions: tuple[ClientExtension, ...] = attrs.field(default=(), converter=check_client_extensions)

    def build(
        self,
        uri: WebSocketURI,
        *,
        first_origin: bool = True,
        credentials: Headers | None = None,
        http_version: str = "1.1",
    ) -> Request:
        """Return the opening request for a URI.

        Args:
            uri: The URI to request.
            first_origin: Whether the URI has the same origin as the URI that the user gave. Others get no credentials.
            credentials: The headers from :meth:`fetch_credentials`, if any. They replace headers of the same name.
            http_version: The version of HTTP, ``"1.1"`` or ``"2"``.
        """
        headers = Headers(self.headers)
        if not first_origin:
            _remove(headers, _FOR_FIRST_ORIGIN)
        if credentials is not None:
            _remove(headers, credentials)
            headers.update(credentials)
        if self.origin is not None and "Origin" not in headers:
            headers["Origin"] = self.origin
        if self.cookies is not None and "Cookie" not in headers:
            cookie = self.cookies.header(uri, first_origin=first_origin)
            if cookie is not None:
                headers["Cookie"] = cookie
        return build_request(
            uri,
            random=os.urandom,
            subprotocols=self.settings.subprotocols,
            extensions=self.offered_extensions(),
            user_agent=self.user_agent,
            headers=headers,
            http_version=http_version,
        )

    async def fetch_credentials(self, uri: WebSocketURI) -> Headers | None:
        """Return the headers from the ``credentials`` function; None without one. Its exceptions propagate.

        Raises:
            InvalidHeader: If a header is not valid.
            TypeError: If it returns no headers.
        """
        if self.credentials is None:
            return None
        returned = self.credentials(uri)
        headers = await returned if inspect.isawaitable(returned) else returned
        try:
            return Headers(headers)
        except TypeError as exc:
            raise TypeError(f"credentials must return valid headers: {exc}") from None

    def offered_extensions(self) -> list[ClientExtension]:
        """Return the extensions to offer to the server."""
        return client_extensions(self.extensions, self.settings.compression)

    @property
    def varies(self) -> bool:
        """Whether two requests for the same URI can differ."""
        return self.credentials is not None or self.cookies is not None


def _remove(headers: Headers, names: Iterable[str]) -> None:
    for name in names:
        if name in headers:
            del headers[name]
