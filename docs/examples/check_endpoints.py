"""A monitor: tries to connect to each WebSocket endpoint, and prints why that fails.

Run it with ``python check_endpoints.py URI...``. The URIs may be ``ws``, ``wss`` and
``ws+unix``. It follows redirects and prints where they lead.
"""

import sys

import trio
import trio_ws


async def check(uri: str) -> str | None:
    """Return the problem with an endpoint, or None."""
    try:
        async with trio_ws.connect(uri, open_timeout=5, max_redirects=3, close_timeout=1) as ws:
            seconds = await ws.ping()
            host = ws.request.headers["Host"]
            print(f"{uri}: fine, {seconds * 1000:.0f} ms, at {host}{ws.request.path}")
            return None
    except trio_ws.InvalidRedirect as exc:
        return f"leads to {exc.headers.get('Location', 'nowhere')}: {exc.reason}"
    except trio_ws.InvalidStatus as exc:
        retry = exc.headers.get("Retry-After")
        later = "" if retry is None else f" (again in {retry} s)"
        body = exc.body[:100].decode(errors="replace")
        return f"refuses with {exc.status_code} {exc.reason_phrase}{later}: {body}"
    except trio_ws.TLSFailed as exc:
        return f"cannot be trusted: {exc.reason}"
    except trio_ws.WebSocketException as exc:
        # Not reachable (the message gives the reason for each address), too slow, an
        # invalid URI, or not a WebSocket.
        return str(exc)


async def main(uris: list[str]) -> None:
    for uri in uris:
        problem = await check(uri)
        if problem is not None:
            print(f"{uri}: {problem}")


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
