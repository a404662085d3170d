"""Check that each sans-I/O module has complete branch coverage from its own test file alone.

``python tests/coverage_per_module.py`` checks all modules, ``... codec uri`` only these two. The test file of
``trio_ws/protocol/codec.py`` is ``tests/protocol/test_codec.py``, and that of ``trio_ws/uri.py`` is
``tests/test_uri.py``. A folder of modules, such as ``trio_ws/http11/``, has one test file, ``tests/test_http11.py``.

Accidental coverage by the tests of other modules is fragile, so it does not count. Each module has its own pytest
process, because other tests may have imported, run or cached something.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "trio_ws"
DATA_STRUCTURES = ["datastructures", "exceptions", "frames", "http11", "uri"]


def find_modules() -> dict[Path, Path]:
    """Return the modules and folders to check, with their test files."""
    modules = {}
    for name in DATA_STRUCTURES:
        folder = PACKAGE / name
        modules[folder if folder.is_dir() else PACKAGE / f"{name}.py"] = ROOT / "tests" / f"test_{name}.py"
    for module in sorted(PACKAGE.glob("protocol/*")):
        is_module = module.suffix == ".py" and module.stem != "__init__"
        if is_module or (module / "__init__.py").exists():
            modules[module] = ROOT / "tests" / "protocol" / f"test_{module.stem}.py"
    return modules


def check(module: Path, test_file: Path, data_file: Path) -> str | None:
    """Run the tests of a module. Return an error message, or None if they pass and cover the module."""
    for file in (module, test_file):
        if not file.exists():
            return f"{file.relative_to(ROOT)} does not exist\n"
    coverage = [sys.executable, "-m", "coverage"]
    data = f"--data-file={data_file}"
    commands = [
        [*coverage, "run", data, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test_file)],
        [
            *coverage,
            "report",
            data,
            "--show-missing",
            "--fail-under=100",
            f"--include={module}/*" if module.is_dir() else f"--include={module}",
        ],
    ]
    for command in commands:
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            # This makes pytest write UTF-8 on every platform.
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )
        if done.returncode != 0:
            return done.stdout
    return None


def main(names: list[str]) -> int:
    """Check the named modules, or all of them. Return the exit status of the process."""
    modules = find_modules()
    unknown = set(names) - {module.stem for module in modules}
    if unknown:
        print("no such module:", ", ".join(sorted(unknown)))
        return 2
    if names:
        modules = {module: test_file for module, test_file in modules.items() if module.stem in names}
    failed = 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = pool.map(
            check, modules, modules.values(), [Path(folder) / f"coverage.{n}" for n in range(len(modules))]
        )
        for (module, test_file), problem in zip(modules.items(), problems, strict=True):
            if problem is not None:
                failed += 1
                print(f"{module.relative_to(ROOT)} is not covered by {test_file.relative_to(ROOT)}:\n{problem}")
    print(f"{len(modules) - failed} of {len(modules)} modules are completely covered by their own test files")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
