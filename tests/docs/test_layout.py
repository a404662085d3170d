"""The width of samples: those of Python and of configuration files fit into the column of a page."""

from __future__ import annotations

import re
from pathlib import Path

from ..benchmarks.chart import render_chart
from ..benchmarks.results import Results
from ..test_documentation import DOCS, EXAMPLES, PAGES, blocks, name

#: The characters that fit into the column on a wide screen; docs/_static/site.css sets the width of both.
COLUMN = 100
#: The characters that fit on a phone. Drawings cannot be wrapped.
PHONE = 44


def test_samples_fit_into_the_column() -> None:
    wide = [
        f"{name(path)}:{block.line + number}"
        for path in PAGES
        for block in blocks(path)
        if block.language == "python"
        for number, line in enumerate(block.text.splitlines())
        if len(line) > COLUMN
    ]
    assert wide == []


def test_examples_fit_into_the_column() -> None:
    files = [path for path in EXAMPLES.iterdir() if path.is_file()]
    assert [
        f"{path.name}:{number}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").expandtabs(8).splitlines(), 1)
        if len(line) > COLUMN
    ] == []


def test_the_formatter_has_the_same_limit() -> None:
    assert f"line-length = {COLUMN}\n" in (EXAMPLES / "ruff.toml").read_text(encoding="utf-8")


def test_drawings_fit_on_a_phone() -> None:
    drawings = [block for path in PAGES for block in blocks(path) if block.language == "none"]
    assert drawings
    assert max(len(line) for block in drawings for line in block.text.splitlines()) <= PHONE


def test_pictures_are_readable_in_dark_mode() -> None:
    pictures = sorted(path.name for path in (DOCS / "_static").iterdir() if path.suffix != ".css")
    assert pictures == ["benchmarks-lines.svg", "benchmarks.svg", "connection.svg", "redis.svg"]
    for picture in pictures:
        svg = (DOCS / "_static" / picture).read_text(encoding="utf-8")
        if picture == "connection.svg":
            assert "on light and dark pages" in svg  # its colours have enough contrast to both
        else:
            assert "prefers-color-scheme: dark" in svg


def test_the_chart_shows_the_figures_of_the_last_run() -> None:
    results = Results.load(DOCS.parent / "tests" / "benchmarks" / "results.json")
    chart = render_chart(results)
    assert (DOCS / "_static" / "benchmarks.svg").read_text(encoding="utf-8") == chart
    assert chart.count('class="title"') == 6
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    assert page.index("benchmarks.svg") < page.index("## ")  # the page leads with it


def test_every_picture_has_a_description() -> None:
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        for options in re.findall(r"^( *)\.\. (?:image|figure)::.*\n((?:\1   .*\n)+)", page, re.MULTILINE):
            assert ":alt:" in options[1], name(path)
        assert page.count("<img ") == len(re.findall(r'<img [^>]*alt="[^"]', page)), name(path)


def contents(page: Path) -> list[str]:
    """Return the pages in the tables of contents of a page."""
    text = page.read_text(encoding="utf-8")
    trees = re.findall(r"^\.\. toctree::\n(?:   :.*\n)*\n((?:   \S+\n)+)", text, re.MULTILINE)
    return [entry for tree in trees for entry in tree.split()]


def test_the_sidebar_has_sections_for_the_usual_tasks() -> None:
    index = (DOCS / "index.rst").read_text(encoding="utf-8")
    captions = re.findall(r"^   :caption: (.*)$", index, re.MULTILINE)
    assert {"Closing and cancellation", "Deployment", "Migration", "FAQ and troubleshooting"} < set(captions)
    entries = contents(DOCS / "index.rst")
    assert len(set(entries)) == len(entries)


# -- README and home page --------------------------------------------------------------------------------------------


def table_of_readme() -> list[list[str]]:
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in re.findall(r"^\|.*\|$", readme, re.MULTILINE)]
    return rows[2:]


def test_readme_and_home_page_compare_the_same() -> None:
    index = (DOCS / "index.rst").read_text(encoding="utf-8")
    rows = re.findall(r"^   \* - (.+)\n     - (.+)\n     - (.+)\n     - (.+)\n", index, re.MULTILINE)
    shown = [[cell.replace("``", "`") for cell in row] for row in rows]
    assert shown == table_of_readme()
    assert len(shown) > 10


def test_links_of_the_readme_lead_to_files() -> None:
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^):]+)\)", readme) + re.findall(r'src="([^"]+)"', readme)
    assert len(targets) > 15
    assert [target for target in targets if not (DOCS.parent / target).exists()] == []
