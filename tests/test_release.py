"""Releases: versions agree, and workflows run only reviewed actions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import trio_ws

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_changelog_begins_with_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first = re.search(r"^## (\S+) \((.+)\)$", changelog, re.MULTILINE)
    assert first is not None
    assert first[1] == trio_ws.__version__.removesuffix(".dev0")
    assert first[2] == "unreleased" or re.fullmatch(r"20\d\d-\d\d-\d\d", first[2])


def test_wheels_are_built_for_all_supported_versions() -> None:
    classifiers = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT)
    (build,) = re.findall(r"^build = \[(.*)\]$", PYPROJECT, re.MULTILINE)
    wheels = re.findall(r'"cp3(\d+)-\*"', build)
    assert [f"3.{minor}" for minor in wheels] == classifiers
    (matrix,) = re.findall(r"^ +python: \[(.*)\]$", (ROOT / ".github/workflows/ci.yml").read_text(), re.MULTILINE)
    assert re.findall(r'"([\d.]+)"', matrix) == classifiers


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned(path: Path) -> None:
    workflow = path.read_text(encoding="utf-8")
    used = re.findall(r"uses: (.*)", workflow)
    assert used
    for action in used:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_sessions_exist(path: Path) -> None:
    """Workflows, and the documents, run sessions of nox that exist."""
    sessions = re.findall(r"^def (\w+)\(session: nox.Session", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
    for line in re.findall(r"nox (?:-R )?-s ([\w. -]+)", path.read_text(encoding="utf-8")):
        for name in line.partition(" --")[0].split():
            assert name.partition("-")[0] in sessions, name
