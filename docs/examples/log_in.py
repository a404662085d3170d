"""A client that logs in before it connects, and says who it is with a cookie and a token.

Run it with ``python log_in.py URI``. The cookies that the server sets are kept in a jar; with a
``http.cookiejar.LWPCookieJar`` they could be kept in a file. The token is asked for whenever a connection is made, so
it is never too old.
"""

import sys
from http.cookiejar import CookieJar

import trio
import trio_ws


async def fetch_token(uri: trio_ws.WebSocketURI) -> dict[str, str]:
    """Get a token; a real one would come from a service that knows us."""
    await trio.sleep(0.1)
    return {"Authorization": f"Bearer token-for-{uri.host}"}


async def main(uri: str) -> None:
    jar = CookieJar()
    try:
        async with trio_ws.connect(uri, cookies=jar, credentials=fetch_token, origin="https://example.org") as ws:
            print("connected to", ws.request.path)
            async for message in ws:
                print(message)
    except trio_ws.InvalidStatus as exc:
        print("refused:", exc.status_code, exc.reason_phrase)
        print(exc.body.decode(errors="replace"))


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
