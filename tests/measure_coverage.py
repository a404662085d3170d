"""Measure the coverage of the package by all tests but the harnesses, and check it.

1. Each sans-I/O module must have complete branch coverage from its own test file alone. Accidental coverage by the
   tests of other modules is fragile, so it does not count. Each test file has its own pytest process, because other
   tests may have imported, run or cached something.
2. The other tests run together. They must reach the coverage of the other modules in pyproject.toml, in statements:
   before Python 3.14, watching branches would double the time that tests take.

``python tests/measure_coverage.py`` does both, ``... codec uri`` only checks these two modules. The test file of
``trio_ws/protocol/codec.py`` is ``tests/protocol/test_codec.py``, and that of ``trio_ws/uri.py`` is
``tests/test_uri.py``. A folder of modules, such as ``trio_ws/http11/``, has one test file, ``tests/test_http11.py``.
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
#: Random examples take most of the time while they are traced, and more of them run no more lines.
OPTIONS = ["-p", "no:cacheprovider", "--hypothesis-profile=few"]

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


def run(*command: str, capture: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command of this Python with variables of the environment."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if capture else None,
        stderr=subprocess.STDOUT if capture else None,
        text=True,
        encoding="utf-8",
        errors="replace",
        # This makes pytest write UTF-8 on every platform.
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **env},
    )


def pattern(module: Path) -> str:
    """Return the pattern of coverage for a module or a folder."""
    return f"{module}/*" if module.is_dir() else str(module)


def check(module: Path, test_file: Path, data_file: Path) -> str | None:
    """Run the tests of a module. Return an error message, or None if they pass and cover the module."""
    for file in (module, test_file):
        if not file.exists():
            return f"{file.relative_to(ROOT)} does not exist\n"
    for command in (
        ["coverage", "run", "--branch", "-m", "pytest", "-q", *OPTIONS, str(test_file)],
        ["coverage", "report", "--show-missing", "--fail-under=100", f"--include={pattern(module)}"],
    ):
        done = run(*command, COVERAGE_FILE=str(data_file))
        if done.returncode != 0:
            return done.stdout
    return None


def check_modules(modules: dict[Path, Path]) -> bool:
    """Check modules with their test files. Return whether all are covered."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        data_files = [Path(folder) / f"coverage.{number}" for number in range(len(modules))]
        problems = pool.map(check, modules, modules.values(), data_files)
        for (module, test_file), problem in zip(modules.items(), problems, strict=True):
            if problem is not None:
                failed += 1
                print(f"{module.relative_to(ROOT)} is not covered by {test_file.relative_to(ROOT)}:\n{problem}")
    print(
        f"{len(modules) - failed} of {len(modules)} modules are completely covered by their own test files", flush=True
    )
    return not failed


def check_others(modules: dict[Path, Path]) -> bool:
    """Run the tests of the other modules. Return whether they pass and cover the other modules.

    Args:
        modules: The modules, with their test files, that are left out.
    """
    others = [f"--ignore={file}" for file in modules.values()]
    command = ["pytest", "--numprocesses=auto", "-m", "not harness", *OPTIONS, *others]
    # Watching statements in this way takes hardly any time.
    env = {"COVERAGE_CORE": "sysmon"} if sys.version_info >= (3, 12) else {}
    passed = run(*command, "--cov", "--cov-report=", "--cov-fail-under=0", capture=False, **env).returncode == 0
    omitted = ",".join(map(pattern, modules))
    return run("coverage", "report", "--skip-covered", f"--omit={omitted}", capture=False).returncode == 0 and passed


def main(names: list[str]) -> int:
    """Check the named modules, or all of them. Return the exit status of the process."""
    modules = find_modules()
    unknown = set(names) - {module.stem for module in modules}
    if unknown:
        print("no such module:", ", ".join(sorted(unknown)))
        return 2
    if names:
        modules = {module: test_file for module, test_file in modules.items() if module.stem in names}
    passed = check_modules(modules)
    if not names:
        passed = check_others(modules) and passed
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
