"""The documentation in a real browser, driven over the DevTools protocol: nothing is wider than its column."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.examples.devtools import Browser

#: The widths of a laptop and of a phone.
WIDTHS = (1400, 390)

#: A function in JavaScript. It returns what is wider than its column: the page, samples, tables that do not scroll,
#: and pictures; and, in wide windows, samples whose lines are wrapped.
MEASURE = """(() => {
    const found = [];
    const root = document.documentElement;
    if (root.scrollWidth > root.clientWidth) {
        found.push(`the page: ${root.scrollWidth} px`);
    }
    for (const each of document.querySelectorAll("pre")) {
        if (each.scrollWidth > each.clientWidth) {
            found.push(`a sample: ${each.innerText.slice(0, 40)}`);
        }
    }
    for (const each of document.querySelectorAll(".highlight-python pre")) {
        const style = getComputedStyle(each);
        const height = each.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
        const lines = each.innerText.replace(/\\n+$/, "").split("\\n").length;
        if (innerWidth > 1000 && height > (lines + 0.7) * parseFloat(style.lineHeight)) {
            found.push(`a wrapped sample: ${each.innerText.slice(0, 40)}`);
        }
    }
    for (const each of document.querySelectorAll("article table")) {
        const column = each.parentElement;
        if (each.scrollWidth > column.clientWidth + 1 && getComputedStyle(column).overflowX !== "auto") {
            found.push(`a table: ${each.innerText.slice(0, 40)}`);
        }
    }
    const width = document.querySelector("article").clientWidth;
    for (const each of document.querySelectorAll("article img")) {
        if (each.naturalWidth === 0 || each.clientWidth > width) {
            found.push(`a picture: ${each.src}`);
        }
    }
    return found;
})()"""


def find_pages(site: Path) -> list[Path]:
    """Return the pages of the documentation, without those of source code."""
    return [path for path in sorted(site.rglob("*.html")) if not {"_static", "_modules"} & {*path.parts}]


@pytest.mark.parametrize("width", WIDTHS)
async def test_nothing_is_wider_than_its_column(width: int, site: Path, browser: Browser) -> None:
    pages = find_pages(site)
    assert len(pages) > 50
    found: dict[str, list[str]] = {}
    async with browser.open_page() as tab:
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 1000}
        await tab.call("Emulation.setDeviceMetricsOverride", **size)
        for page in pages:
            await tab.open(page.as_uri())
            found[str(page.relative_to(site))] = await tab.evaluate(MEASURE)
    assert {page: wide for page, wide in found.items() if wide} == {}
