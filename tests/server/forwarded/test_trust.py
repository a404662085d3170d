"""The trusted proxies of a server."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

import pytest

import trio_ws
from trio_ws.server.forwarded.trust import Forwarding

from ...support import echo

# -- Trusted proxies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "proxies, address, expected",
    [
        ([], ("127.0.0.1", 1), False),
        ([], "", False),
        (["127.0.0.1"], ("127.0.0.1", 1), True),
        (["127.0.0.1"], ("127.0.0.2", 1), False),
        (["127.0.0.1"], ("::1", 1, 0, 0), False),
        (["127.0.0.1"], "", False),
        (["127.0.0.1"], None, False),
        (["::1", "127.0.0.1"], ("::1", 1, 0, 0), True),
        (["::1", "127.0.0.1"], ("127.0.0.1", 1), True),
        (["10.0.0.0/8"], ("10.255.0.1", 1), True),
        (["10.0.0.0/8"], ("11.0.0.1", 1), False),
        # IPv4-mapped addresses, as on a dual-stack socket.
        (["10.0.0.0/8"], ("::ffff:10.0.0.1", 1, 0, 0), True),
        (["::ffff:10.0.0.0/104"], ("10.0.0.1", 1), True),
        (["::/0"], ("10.0.0.1", 1), False),
        (["fe80::/10"], ("fe80::1%eth0", 1, 0, 2), True),
        ([ipaddress.ip_address("10.0.0.1")], ("10.0.0.1", 1), True),
        ([ipaddress.ip_network("10.0.0.0/8")], ("10.0.0.1", 1), True),
        (["unix"], "", True),
        (["unix"], "/run/proxy.sock", True),
        (["unix"], b"\0proxy", True),
        (["unix"], ("127.0.0.1", 1), False),
        (["unix"], None, False),
        (["unix"], ("unix", 1), False),
    ],
)
def test_trusted(proxies: Sequence[Any], address: Any, expected: bool) -> None:
    assert Forwarding(trusted_proxies=proxies).trusts(address) is expected


@pytest.mark.parametrize(
    "proxies, error",
    [
        ("127.0.0.1", TypeError),
        (b"127.0.0.1", TypeError),
        ([None], TypeError),
        ([1], TypeError),
        ([b"\x7f\0\0\1"], TypeError),
        (["localhost"], ValueError),
        (["10.0.0.1/8"], ValueError),
        ([""], ValueError),
        (["Unix"], ValueError),
    ],
)
async def test_invalid_proxies(proxies: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        await trio_ws.serve(echo, 0, trusted_proxies=proxies)


async def test_proxy_protocol_is_a_bool() -> None:
    with pytest.raises(TypeError):
        await trio_ws.serve(echo, 0, proxy_protocol=2)  # type: ignore[arg-type]  # wrong on purpose
