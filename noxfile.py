"""Every check of the project, behind one door: tests, lint, types, docs, build, sanitizers.

``nox`` runs all of them, ``nox -s tests-3.12 -- -k handshake`` one of them in part; what follows ``--``
goes to pytest. CONTRIBUTING.md says more.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["tests", "lint", "types", "docs", "build"]
# An environment is made once and brought up to date by each run's `pip install`. Locally that saves most of
# the time; a clean clone has nothing to reuse. `nox -R` skips the installs too, `nox --reuse-venv=never`
# starts afresh.
nox.options.reuse_venv = "yes"
# CI turns this on. Testing with the interpreters that are there is what we want in CI too.
nox.options.error_on_missing_interpreters = False

PYPROJECT = nox.project.load_toml("pyproject.toml")


def group(*names: str) -> tuple[str, ...]:
    """Return the requirements of the dependency groups of these names."""
    return nox.project.dependency_groups(PYPROJECT, *names)


def run_interpreter(*command: str) -> tuple[str, Path] | None:
    """Run a Python interpreter and return its version ("3.12") and its own path; None if it does not run.

    Looking for a file is not enough: pyenv puts a ``python3.12`` on PATH that fails unless that version is
    selected.
    """
    code = "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"
    try:
        done = subprocess.run(
            [*command, "-c", code],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    version, _, executable = done.stdout.strip().partition(" ")
    return (version, Path(executable)) if executable else None


def find_interpreters() -> list[str]:
    """Return the versions to test with, ascending: those supported that run here, and the one that runs nox.

    Nox looks for ``pythonX.Y`` on PATH. Where it could not find an interpreter that is there, its folder is
    put in front of PATH.
    """
    current = "{}.{}".format(*sys.version_info)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = {current}
    for version in nox.project.python_versions(PYPROJECT):
        if version == current:
            continue
        name = f"python{version}"
        on_path = run_interpreter(name)
        if on_path is not None and on_path[0] == version:
            found.add(version)
            continue
        candidates = [(str(path),) for path in sorted(pyenv.glob(f"versions/{version}*/bin/{name}"))]
        if sys.platform == "win32":
            candidates.append(("py", f"-{version}"))
        for command in candidates:
            elsewhere = run_interpreter(*command)
            if elsewhere is not None and elsewhere[0] == version:
                found.add(version)
                os.environ["PATH"] = os.pathsep.join([str(elsewhere[1].parent), os.environ["PATH"]])
                break
    return sorted(found, key=lambda version: int(version.partition(".")[2]))


def find_python27() -> Path | None:
    """Return the path of a Python 2.7 that runs here; None if there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for command in ("python2.7", *map(str, sorted(pyenv.glob("versions/2.7*/bin/python2.7")))):
        try:
            done = subprocess.run(
                [command, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.SubprocessError):
            continue
        return Path(done.stdout.strip())
    return None


def find_sanitizers() -> list[str]:
    """Return the libraries of GCC for AddressSanitizer and UndefinedBehaviorSanitizer; none without GCC."""
    libraries = []
    for name in ("libasan.so", "libubsan.so"):
        try:
            done = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        except (OSError, subprocess.SubprocessError):
            return []
        library = Path(done.stdout.strip())
        # What is not there is printed as it was asked for, also by a Clang that calls itself gcc.
        if not library.is_absolute():
            return []
        libraries.append(str(library))
    return libraries


@contextmanager
def installed_elsewhere(session: nox.Session, env: dict[str, str]) -> Iterator[Path]:
    """Build the sdist, and the wheel from it in this environment; install it and change to a folder with the tests.

    The package is not in that folder, so the tests find the installed one. It yields where the wheel is. Built in the
    checkout, the compiled module would stay in build/, and get into the next wheel from there.
    """
    # Not a folder of the session, which pytest would use too: paths there may be too long for Unix sockets.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        session.run("pyproject-build", "--outdir", str(folder / "dist"), env=env, silent=True)
        (wheel,) = (folder / "dist").glob("*.whl")
        # Pip would take another wheel of the same version for the one that is installed.
        session.run("python", "-m", "pip", "uninstall", "--quiet", "--yes", "trio-ws", silent=True)
        session.run("python", "-m", "pip", "install", "--quiet", str(wheel))
        shutil.copytree("tests", folder / "tests", ignore=shutil.ignore_patterns("node_modules"))
        shutil.copy("pyproject.toml", folder)
        with session.chdir(folder):
            yield wheel


INTERPRETERS = find_interpreters()

#: What takes as long as all other tests together, and depends least on the version of Python. Without arguments for
#: pytest they run on the newest only.
HARNESSES = ("cancellation", "faults", "memory", "state_machine")


@nox.session(python=INTERPRETERS)
def tests(session: nox.Session) -> None:
    """Run pytest; on the newest Python, and without arguments for pytest, check the coverage too.

    On the other Pythons, some tests are left out that take long; with any argument they are not.
    """
    # Editable, because that is what runs anyway: the checkout comes before site-packages in sys.path. The
    # `types` session installs the package as users do and sees whether all of it arrives.
    session.install("-e", ".", *group("test"))
    if not os.environ.get("TRIO_WS_PURE"):
        # A build that fails is no error (`optional` in pyproject.toml), and then many tests would be skipped. Those who
        # have no C compiler: `TRIO_WS_PURE=1 nox -s tests`.
        session.run("python", "-c", "import trio_ws.protocol.compiled")
    if session.python == "3.10":
        # So all tests run with both libraries that compress, and with the compiled functions and those in Python.
        session.run_install("python", "-m", "pip", "uninstall", "--quiet", "--yes", "zlib-ng")
        session.env["TRIO_WS_PURE"] = "1"
    if session.posargs:
        session.run("pytest", *session.posargs)
    elif session.python == INTERPRETERS[-1]:
        session.run("pytest", "--numprocesses=auto", "--cov", "--cov-report=term")
        session.run("python", "tests/coverage_per_module.py")
        session.run("pytest", "--numprocesses=auto", "tests/protocol", env={"TRIO_WS_PURE": "1"})
    else:
        session.run("pytest", "--numprocesses=auto", *(f"--ignore=tests/test_{name}.py" for name in HARNESSES))


@nox.session
def random_order(session: nox.Session) -> None:
    """Run all tests ten times in a row, each time in another order and with other examples. After ``--``: how often.

    The seed of each run is in its command line: with the same one, pytest does the same again.
    """
    session.install("-e", ".", *group("test"), "pytest-randomly")
    for _ in range(int(session.posargs[0]) if session.posargs else 10):
        seed = random.randrange(2**32)
        # Of pytest-randomly and of Hypothesis.
        session.run("pytest", "--numprocesses=auto", f"--randomly-seed={seed}", f"--hypothesis-seed={seed}")


@nox.session
def lint(session: nox.Session) -> None:
    """Check the format and the rules of ruff, which repairs most itself: `ruff format; ruff check --fix`."""
    session.install(*group("lint"))
    session.run("ruff", "format", "--check")
    session.run("ruff", "check")


@nox.session
def types(session: nox.Session) -> None:
    """Check all types with mypy, and with pyright that everything public has one."""
    # Setuptools would pack what an earlier build left in build/, even modules that are gone since.
    shutil.rmtree("build", ignore_errors=True)
    session.install(".", *group("test", "types"))
    session.run("mypy")
    # Away from the checkout, pyright sees the installed package only.
    session.chdir(session.create_tmp())
    session.run(
        "pyright",
        "--verifytypes=trio_ws",
        "--ignoreexternal",
        # Otherwise it asks the network for a newer pyright.
        env={"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
    )


@nox.session
def build(session: nox.Session) -> None:
    """Build the sdist and the wheel, with a C compiler and with one that fails, and test what they install."""
    session.install("build", *group("test"))
    files = str(session.run("git", "ls-files", "trio_ws", external=True, silent=True)).split()
    for env, compiled in (({}, True), ({"CC": "false"}, False)):
        with installed_elsewhere(session, env) as wheel:
            with zipfile.ZipFile(wheel) as archive:
                missing = set(files) - set(archive.namelist())
            if missing:
                session.error(f"{wheel.name} does not have {', '.join(sorted(missing))}")
            session.run("python", "-c", f"from trio_ws.protocol import hot; assert hot.COMPILED is {compiled}")
            session.run("pytest", "tests/protocol/test_hot.py", "tests/protocol/test_pure.py")
            session.run("python", "-m", "trio_ws", "demo")


@nox.session
def sanitize(session: nox.Session) -> None:
    """Run the tests of what passes data through compiled code that stops where its behaviour is undefined. GCC only."""
    libraries = find_sanitizers()
    if not libraries:
        session.skip("There is no GCC with AddressSanitizer and UndefinedBehaviorSanitizer.")
    session.install("build", *group("test"))
    # -O3 is added as in pyproject.toml, so that what is checked is what users get.
    checks = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g"
    protocol = ["pure", "hot", "codec", "connection", "messages", "extensions"]
    connection = ["stream", "reader", "writer", "core", "websocket", "websocket_closing"]
    tests = [
        *(f"tests/protocol/test_{name}.py" for name in protocol),
        *(f"tests/connection/test_{name}.py" for name in connection),
        *(f"tests/test_{name}.py" for name in ("compression", "state_machine")),
        *(f"tests/server/test_{name}.py" for name in ("serve", "accept", "server")),
    ]
    env = {
        # They must be loaded before a Python that knows nothing of them.
        "LD_PRELOAD": ":".join(libraries),
        # Python's own allocator hides from them where an object ends.
        "PYTHONMALLOC": "malloc",
        # What Python does not free when it ends is no leak of ours. To keep less of what was freed, and of who had
        # allocated it, halves the time.
        "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=8:malloc_context_size=3",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    with installed_elsewhere(session, {"CC": "gcc", "CFLAGS": checks}) as wheel:
        with zipfile.ZipFile(wheel) as archive:
            code = b"".join(archive.read(name) for name in archive.namelist() if name.endswith(".so"))
        if b"__asan_report_load" not in code or b"__ubsan_handle" not in code:
            session.error(f"{wheel.name} has no compiled code with sanitizers in it")
        session.run("python", "-c", "from trio_ws.protocol import hot; assert hot.COMPILED", env=env)
        # They write what they found, and the process ends. It is not to be lost with what pytest has captured.
        session.run("pytest", "--numprocesses=auto", "--capture=sys", *(session.posargs or tests), env=env)


@nox.session
def wheels(session: nox.Session) -> None:
    """Build and test the wheels for this platform, as pyproject.toml says, with cibuildwheel (on Linux with Docker)."""
    session.install("cibuildwheel>=3.1")
    session.run("cibuildwheel", "--output-dir", "dist", *session.posargs)


@nox.session
@nox.parametrize("back_end", ["zlib", "zlib-ng"])
def conformance(session: nox.Session, back_end: str) -> None:
    """Run the Autobahn test suite, with each library that compresses. After ``--`` follow its cases: ``all``, ``7.*``.

    The suite needs Python 2.7, for itself only.
    """
    python = find_python27()
    if python is None:
        # Nobody has to install an interpreter that is out of support to work on this. CI has one.
        session.skip("The Autobahn test suite runs on Python 2.7, and there is none: try `pyenv install 2.7.18`.")
    # The last virtualenv that can make an environment for Python 2.7.
    session.install("virtualenv<20.22")
    suite = session.cache_dir.resolve() / "autobahn"
    scripts = suite / ("Scripts" if sys.platform == "win32" else "bin")
    if not (scripts / "wstest").exists():
        session.run_install("virtualenv", "--quiet", "--python", str(python), str(suite))
        session.run_install(str(scripts / "pip"), "install", "--quiet", "autobahntestsuite==0.8.2", external=True)
    session.install("." if back_end == "zlib" else ".[speedups]")
    session.run("python", "tests/conformance/run.py", "--wstest", str(scripts / "wstest"), *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into docs/_build/html; a warning is an error."""
    session.install("-e", ".", *group("docs"))
    # -E: pages that are read from a cache do not repeat their warnings.
    session.run("sphinx-build", "-n", "-W", "--keep-going", "-E", "docs", "docs/_build/html")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the library next to others, and write docs/benchmarks.md. After ``--``: ``--quick``, ``echo-32``.

    ``-- instructions`` counts the instructions of servers only. That needs Valgrind, and is skipped without it.
    """
    session.install("-e", ".", *group("bench"))
    session.run("python", "-m", "tests.benchmarks", *session.posargs)
