"""The contenders. Each module here has a server of one library, and a client, except for the raw echo."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .. import before
from ..worker import TREE, WITHOUT


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A contender.

    Attributes:
        name: The name in tables.
        module: The name of its module here.
        package: The package that must be installed.
        loop: The event loop library.
        imports: The module that a program imports.
        environ: Changes of the environment of its processes.
        compresses: Whether it supports compression.
    """

    name: str
    module: str
    package: str
    loop: str
    imports: str
    environ: Mapping[str, str] = field(default_factory=dict)
    compresses: bool = True

    @property
    def raw(self) -> bool:
        """Whether it echoes bytes without the WebSocket protocol."""
        return self.module == "raw_trio"

    @property
    def tree(self) -> str | None:
        """The folder to import it from; None for this checkout."""
        return self.environ.get(TREE)

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None and (self.tree is None or Path(self.tree).is_dir())


OURS = Contender(name="trio_ws", module="trio_ws", package="trio_ws", loop="trio", imports="trio_ws")
PURE = Contender(
    name="trio_ws pure",
    module="trio_ws",
    package="trio_ws",
    loop="trio",
    imports="trio_ws",
    environ={"TRIO_WS_PURE": "1"},
)
ZLIB = Contender(
    name="trio_ws zlib",
    module="trio_ws",
    package="trio_ws",
    loop="trio",
    imports="trio_ws",
    environ={WITHOUT: "zlib_ng"},
)
BEFORE = Contender(
    name=f"trio_ws {before.COMMIT}",
    module="trio_ws",
    package="trio_ws",
    loop="trio",
    imports="trio_ws",
    environ={TREE: str(before.FOLDER)},
)
RAW = Contender(name="raw Trio", module="raw_trio", package="trio", loop="trio", imports="trio")
PICOWS = Contender(name="picows", module="picows", package="picows", loop="asyncio", imports="picows", compresses=False)
AIOHTTP = Contender(name="aiohttp", module="aiohttp", package="aiohttp", loop="asyncio", imports="aiohttp, aiohttp.web")
WEBSOCKETS_ASYNCIO = Contender(
    name="websockets asyncio",
    module="websockets_asyncio",
    package="websockets",
    loop="asyncio",
    imports="websockets.asyncio.client, websockets.asyncio.server",
)
WEBSOCKETS_TRIO = Contender(
    name="websockets trio",
    module="websockets_trio",
    package="websockets",
    loop="trio",
    imports="websockets.trio.client, websockets.trio.server",
)
TRIO_WEBSOCKET = Contender(
    name="trio-websocket",
    module="trio_websocket",
    package="trio_websocket",
    loop="trio",
    imports="trio_websocket",
    compresses=False,
)

#: The libraries, in the order of the tables.
LIBRARIES = (OURS, PURE, PICOWS, AIOHTTP, WEBSOCKETS_ASYNCIO, WEBSOCKETS_TRIO, TRIO_WEBSOCKET)

#: All contenders.
CONTENDERS = (*LIBRARIES, ZLIB, BEFORE, RAW)
