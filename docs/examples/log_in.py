"""A client that authenticates with cookies and a token.

Run it with ``python log_in.py URI``. Cookies from the server are stored in a jar; an
``http.cookiejar.LWPCookieJar`` could save them in a file. A new token is fetched for
each connection, so it has never expired.
"""

import sys
from http.cookiejar import CookieJar

import trio
import trio_ws


async def fetch_token(uri: trio_ws.WebSocketURI) -> dict[str, str]:
    """Fetch a token. A real program would ask an authentication service."""
    await trio.sleep(0.1)
    return {"Authorization": f"Bearer token-for-{uri.host}"}


async def main(uri: str) -> None:
    jar = CookieJar()
    try:
        async with trio_ws.connect(
            uri, cookies=jar, credentials=fetch_token, origin="https://example.org"
        ) as ws:
            print("connected to", ws.request.path)
            async for message in ws:
                print(message)
    except trio_ws.InvalidStatus as exc:
        print("refused:", exc.status_code, exc.reason_phrase)
        print(exc.body.decode(errors="replace"))


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
