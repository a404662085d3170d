"""The language of the documentation: titles, paragraphs and list items begin with their subject."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *(path for path in sorted((ROOT / "docs").rglob("*.*")) if path.suffix in (".rst", ".md")),
]

#: Openings that put off the subject: "What the server sends is ..." instead of "The server sends ...".
REFUSED = re.compile(
    r"(What|Who|Whom|Whose|Whether|Take note|See to|Say|It is \w+ (that|who)|That \w+ (is|are|does))\b"
)

#: Directives and code, which may contain anything.
SAMPLE = re.compile(r"^( *)(?:\.\. [\w-]+::.*\n(?:\1 +.*\n|\n)+|```(?:.*\n)+?```\n)", re.MULTILINE)


def refused_openings(page: str) -> list[str]:
    """Return the first line of each title, paragraph and list item that begins with a refused opening."""
    text = SAMPLE.sub("\n", page)
    blocks = [re.sub(r"^([*#-]+|\d+\.) ", "", block.strip()) for block in re.split(r"\n\n|\n(?=[*-] )", text)]
    return [block.partition("\n")[0] for block in blocks if REFUSED.match(block)]


def test_the_documentation_has_no_refused_openings() -> None:
    pages = [path for path in PAGES if "_build" not in path.parts]
    assert len(pages) > 50
    found = {path.relative_to(ROOT).as_posix(): refused_openings(path.read_text(encoding="utf-8")) for path in pages}
    assert {page: openings for page, openings in found.items() if openings} == {}


def test_refused_openings_are_found() -> None:
    rst = "What stops it\n=============\n\nWhose it is.\n\n* Who sends, waits.\n\n.. note::\n\n   What?\n\nFine."
    assert refused_openings(rst) == ["What stops it", "Whose it is.", "Who sends, waits."]
    assert refused_openings("## What it is\n\n```text\nWhat?\n```\n\n1. Fine.\n") == ["What it is"]
