"""Try to connect through a proxy: ``python through_proxy.py URI [PROXY]``.

Without PROXY, it uses the proxy from the environment, if there is one.
"""

import sys

import trio
import trio_ws


async def main(uri: str, proxy: str = "auto") -> None:
    try:
        async with trio_ws.connect(uri, proxy=proxy) as ws:
            print("connected to", ws.remote_address[0])
    except trio_ws.ProxyFailed as exc:
        print(exc)
        if exc.response is not None and exc.response.status_code == 407:
            print("it wants:", *exc.response.headers.get_all("Proxy-Authenticate"))
    except (trio_ws.ConnectFailed, trio_ws.OpenTimeout) as exc:
        print(exc)


trio.run(main, *sys.argv[1:])
