"""A server that runs behind nginx or HAProxy on the same machine, and tells its clients who they are.

Run it with ``python behind_a_proxy.py``, and a proxy with ``nginx.conf`` or ``haproxy.cfg`` in front of it. What the
proxy says of its clients is believed, because it comes from 127.0.0.1; what others say is not.
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
    limits=trio_ws.Limits(per_address=20),  # of the clients, not of the proxy
)

trio.run(serve)
