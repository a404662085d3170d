"""The search of the documentation: words that users search for lead to the right pages.

The browser looks up the stem of each word in two tables, of the words in titles and of those in the text. Pages whose
titles have the word are shown first, so it must be in a title of the page: of the page itself or of a section.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

#: The pages for each word.
WORDS = {
    "heartbeat": "howto/keepalive",
    "keepalive": "howto/keepalive",
    "deploy": "howto/deploying",
    "shutdown": "howto/deploying",
    "systemd": "howto/deploying",
    "certificate": "howto/mutual-tls",
    "disconnect": "howto/disconnecting",
    "reconnect": "howto/reconnecting",
    "migrate": "howto/migrating",
    "aiohttp": "howto/migrating",
    "CORS": "howto/http-requests",
    "origin": "howto/http-requests",
    "JWT": "howto/authentication",
    "token": "howto/authentication",
    "cookie": "howto/authentication",
    "password": "howto/authentication",
    "authentication": "howto/authentication",
    "Docker": "howto/containers",
    "Kubernetes": "howto/containers",
    "nginx": "howto/behind-a-proxy",
    "HAProxy": "howto/behind-a-proxy",
    "Caddy": "howto/behind-a-proxy",
    "Cloudflare": "howto/behind-a-proxy",
    "AWS": "howto/behind-a-proxy",
    "Redis": "howto/topics",
    "publish": "howto/topics",
    "anyio": "scope",
    "asyncio": "scope",
    "ASGI": "howto/asgi",
    "Starlette": "howto/asgi",
    "GraphQL": "howto/typed-messages",
    "JSON": "howto/typed-messages",
    "Prometheus": "howto/logging",
    "broadcast": "howto/broadcast",
    "compression": "howto/compression",
    "FAQ": "faq",
    "error": "troubleshooting",
    "cancellation": "closing",
}


@pytest.fixture(scope="session")
def index(site: Path) -> dict[str, Any]:
    script = (site / "searchindex.js").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(script.removeprefix("Search.setIndex(").removesuffix(")"))
    return found


def pages(index: dict[str, Any], table: str, word: str) -> set[str]:
    """Return the pages with a word, as the browser looks it up."""
    from sphinx.search.en import SearchEnglish

    stem = SearchEnglish({}).stem(word.lower())
    numbers = index[table].get(stem, [])
    return {index["docnames"][number] for number in ([numbers] if isinstance(numbers, int) else numbers)}


def test_words_lead_to_their_pages(index: dict[str, Any]) -> None:
    missing = {word: page for word, page in WORDS.items() if page not in pages(index, "titleterms", word)}
    assert missing == {}


def test_words_that_do_not_occur_lead_nowhere(index: dict[str, Any]) -> None:
    assert pages(index, "terms", "kerfuffle") == set()
