"""URIs and redirects. The first line is a URI, the second the Location of a redirect from there."""

from __future__ import annotations

from tests.fuzz.harness import instrument, main, outcome

with instrument():
    from trio_ws.client.redirect import resolve_redirect, same_origin
    from trio_ws.exceptions import InvalidHeader, InvalidRedirect, InvalidURI
    from trio_ws.http11 import Request, Response
    from trio_ws.uri import WebSocketURI, is_unix, parse_unix_uri, parse_uri


def TestOneInput(data: bytes) -> None:
    text, _, location = data.decode(errors="surrogateescape").partition("\n")
    if is_unix(text):
        outcome(lambda: parse_unix_uri(text), InvalidURI)
    uri = outcome(lambda: parse_uri(text), InvalidURI)
    if not isinstance(uri, WebSocketURI):
        uri = parse_uri("wss://user:password@example.org:8443/a/b?c")
    check(uri)
    headers = outcome(lambda: [("Location", location.encode(errors="surrogateescape").decode("iso-8859-1"))])
    response = outcome(lambda: Response(302, "", headers), InvalidHeader)
    if isinstance(response, Response):
        target = outcome(lambda: resolve_redirect(uri, response), InvalidRedirect)
        if isinstance(target, WebSocketURI):
            check(target)
            assert target.secure or not uri.secure
            if not same_origin(uri, target):
                assert target.user_info is None or f"{target.username}" in _unquoted(location)


def _unquoted(location: str) -> str:
    import urllib.parse

    return urllib.parse.unquote(location, errors="surrogateescape") + urllib.parse.unquote(location)


def check(uri: WebSocketURI) -> None:
    """Check that a URI is safe in a request, and means the same when it is written and parsed again."""
    assert 0 <= uri.port <= 0xFFFF
    request = Request(uri.resource_name, {"Host": uri.host_header})
    assert request.serialize().count(b"\r\n") == 3
    scheme = "wss" if uri.secure else "ws"
    again = parse_uri(f"{scheme}://{uri.host_header}{uri.resource_name}")
    assert (again.secure, again.host, again.port) == (uri.secure, uri.host_without_zone, uri.port)
    assert again.resource_name == uri.resource_name


if __name__ == "__main__":
    main(TestOneInput)
