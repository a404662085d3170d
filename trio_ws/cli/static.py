"""The files of a folder as answers to plain HTTP requests, to try a web page. Not a web server for the public.

Only regular files inside the folder are served, after symbolic links are resolved, and no names that begin with a dot.
"""

from __future__ import annotations

import mimetypes
import urllib.parse
from pathlib import Path

import trio

from ..http11 import Request, Response
from ..server.server import Opening, ProcessRequest
from .failure import WrongUsage

__all__ = ["MAX_SIZE", "serve_folder"]

#: The largest file that is served, in bytes. A response is held in memory.
MAX_SIZE = 64 * 2**20


def serve_folder(folder: str) -> ProcessRequest:
    """Return a ``process_request`` function that serves a folder.

    Args:
        folder: The folder. A path that ends with a slash stands for ``index.html``.

    Raises:
        WrongUsage: If it is not a folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise WrongUsage(f"--static must be a folder that exists, not {folder!r}")
    root = root.resolve()

    async def answer(opening: Opening, request: Request) -> Response | None:
        if "Upgrade" in request.headers:
            return None
        if request.method not in ("GET", "HEAD"):
            return opening.respond(405, "files are read-only, use GET or HEAD\n", {"Allow": "GET, HEAD"})
        path = request.path.partition("?")[0]
        return await trio.to_thread.run_sync(_answer, opening, root, path)

    return answer


def _answer(opening: Opening, root: Path, path: str) -> Response:
    try:
        file = _find(root, path)
        if file is None:
            return opening.respond(404, "not found\n")
        if file.is_dir():  # Relative links in index.html need the slash.
            return opening.respond(301, "", {"Location": f"{_without_host(path)}/"})
        if file.stat().st_size > MAX_SIZE:
            return opening.respond(403, f"files of more than {MAX_SIZE} bytes are not served\n")
        body = file.read_bytes()
    except (OSError, RuntimeError):  # RuntimeError: symbolic links that form a circle.
        return opening.respond(404, "not found\n")
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    if kind.startswith("text/") or kind in ("application/javascript", "application/json"):
        kind += "; charset=utf-8"
    headers = {"Content-Type": kind, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return opening.respond(200, body, headers)


def _find(root: Path, path: str) -> Path | None:
    """Return the file or the folder for a path of a request; None if it must not be served."""
    try:
        names = urllib.parse.unquote(path, errors="strict").split("/")[1:]
    except UnicodeDecodeError:
        return None
    if not names[-1]:
        names[-1] = "index.html"
    # The first condition covers "..", too. A backslash separates names on Windows, where a colon may follow a drive.
    if any(not name or name.startswith(".") or set(name) & set("\0\\:") for name in names):
        return None
    file = root.joinpath(*names).resolve(strict=True)
    if not file.is_relative_to(root) or not (file.is_file() or file.is_dir()):
        return None
    return file


def _without_host(path: str) -> str:
    """Return the path with one slash at its beginning: two would make it lead to another host."""
    return "/" + path.lstrip("/")
