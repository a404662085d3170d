"""The version before: an earlier commit to compare with, exported and built in a folder of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .worker import ROOT

#: The last commit with the first core, in which receivers read for themselves.
COMMIT = "82baae8"
#: The folder for the builds, one for each version of Python. It is beside the caches of nox.
FOLDER = ROOT / ".nox" / ".cache" / f"trio_ws-{COMMIT}-{sys.implementation.cache_tag}"


class CannotBuild(Exception):
    """Git is missing, it does not have the commit, or the commit does not build on this machine."""


def build() -> Path:
    """Build the commit with its compiled module, unless it was built before. Return the folder to import it from.

    Raises:
        CannotBuild: If that is not possible on this machine.
    """
    if FOLDER.is_dir():
        return FOLDER
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER.parent) as name:
        source, archive, target = Path(name, "source"), Path(name, "source.tar"), Path(name, "target")
        run("git", "archive", "--output", str(archive), COMMIT)
        shutil.unpack_archive(archive, source)
        run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(source))
        if not list(target.glob("trio_ws/protocol/compiled.*.so")):
            raise CannotBuild("its compiled module does not build")
        # Renamed last, so the folder exists only when it is complete.
        target.rename(FOLDER)
    return FOLDER


def run(*command: str) -> None:
    """Run a command in the checkout."""
    try:
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise CannotBuild(f"{command[0]} is not installed") from None
    except subprocess.CalledProcessError as exc:
        # A shallow clone does not have the commit.
        raise CannotBuild(exc.stderr.strip() or f"{command[0]} ended with {exc.returncode}") from exc
