"""The machine and the versions of a run."""

from __future__ import annotations

import os
import platform
import re
import ssl
from importlib import metadata
from pathlib import Path

import trio_ws
from trio_ws.protocol import hot

PACKAGES = (
    "trio",
    "h11",
    "zlib-ng",
    "picows",
    "aiofastnet",
    "aiohttp",
    "websockets",
    "trio-websocket",
    "wsproto",
)


def describe() -> dict[str, str]:
    """Return the processor, the system, and all versions that matter."""
    versions = [f"trio_ws {trio_ws.__version__}, {'with' if hot.COMPILED else 'WITHOUT'} compiled code"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{package}: not installed")
    return {
        "Processor": f"{processor()}, {os.cpu_count()} cores",
        "System": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}, {ssl.OPENSSL_VERSION}",
        "Packages": ", ".join(versions),
    }


def processor() -> str:
    """Return the name of the processor."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", path.read_text(), re.MULTILINE) if path.exists() else None
    return found[1].strip() if found else platform.machine()
