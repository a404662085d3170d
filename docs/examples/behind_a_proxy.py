"""A server behind nginx or HAProxy on the same machine. It tells its clients who they are.

Run it with ``python behind_a_proxy.py``, behind a proxy with ``nginx.conf`` or
``haproxy.cfg``. The server trusts the headers from 127.0.0.1, where the proxy runs, and
ignores those from other addresses.
"""

from functools import partial

import trio
import trio_ws


async def who_am_i(ws: trio_ws.ServerWebSocket) -> None:
    with_tls = "with" if ws.opening.secure else "without"
    await ws.send(f"you are {ws.remote_address[0]}, {with_tls} TLS")


serve = partial(
    trio_ws.serve,
    who_am_i,
    8765,
    host="localhost",
    trusted_proxies=["127.0.0.1", "::1"],
    limits=trio_ws.Limits(per_address=20),  # counts clients, not the proxy
)

trio.run(serve)
