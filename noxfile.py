"""All checks of the project: tests, lint, types, docs, build, sanitizers, conformance, benchmarks.

``nox`` runs the default checks, ``nox -s tests -- -k handshake`` some tests: the arguments after ``--`` are passed to
pytest. See CONTRIBUTING.md.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["tests", "lint", "types", "docs", "build"]
# uv creates an environment in seconds, if it is installed.
nox.options.default_venv_backend = "uv|virtualenv"
# Environments are reused, and updated in each run, which saves most of the time. `nox -R` skips the installs too,
# `nox --reuse-venv=never` creates new environments.
nox.options.reuse_venv = "yes"
# Tests start many interpreters, which would take most of the time if each compiled the standard library's and our
# modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Nox turns this on in CI, but CI too should test with the interpreters that it has.
nox.options.error_on_missing_interpreters = False

PYPROJECT = nox.project.load_toml("pyproject.toml")


def group(*names: str) -> tuple[str, ...]:
    """Return the requirements of dependency groups."""
    return nox.project.dependency_groups(PYPROJECT, *names)


def run_interpreter(*command: str) -> tuple[str, Path] | None:
    """Run a Python interpreter, and return its version ("3.12") and its path; None if it does not run.

    Looking for the file is not enough: pyenv puts a ``python3.12`` on PATH that fails unless that version is selected.
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
    """Return the Python versions to test with, ascending: the supported ones that are installed, and nox's own.

    Nox looks for ``pythonX.Y`` on PATH. The folders of interpreters that are installed elsewhere are added to PATH.
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
    """Return the path of a working Python 2.7; None if there is none."""
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
    """Return the paths of GCC's AddressSanitizer and UndefinedBehaviorSanitizer libraries; none without GCC."""
    libraries = []
    for name in ("libasan.so", "libubsan.so"):
        try:
            done = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        except (OSError, subprocess.SubprocessError):
            return []
        library = Path(done.stdout.strip())
        # GCC, and a Clang that is called gcc, print the bare name of a library that does not exist.
        if not library.is_absolute():
            return []
        libraries.append(str(library))
    return libraries


def skip(session: nox.Session, reason: str) -> None:
    """Skip a session. It is an error in CI, which must not be without something unnoticed."""
    stop = session.error if os.environ.get("TRIO_WS_NO_SKIPS") else session.skip
    stop(reason)


@contextmanager
def installed_elsewhere(session: nox.Session, env: dict[str, str]) -> Iterator[Path]:
    """Build sdist and wheel, install the wheel, and change to a temporary folder with a copy of the tests.

    The package is not in that folder, so the tests import the installed one. Yields the path of the wheel, which is
    built from the sdist: a build in the checkout would leave the compiled module in build/, from where the next wheel
    would take it.
    """
    # The temporary folder of the session is no alternative: paths in it may be too long for Unix sockets.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        installer = "uv" if session.venv_backend == "uv" else "pip"
        arguments = ["--outdir", str(folder / "dist"), "--installer", installer]
        session.run("pyproject-build", *arguments, env=env, silent=True)
        (wheel,) = (folder / "dist").glob("*.whl")
        install_again(session, str(wheel))
        shutil.copytree("tests", folder / "tests", ignore=shutil.ignore_patterns("node_modules"))
        shutil.copy("pyproject.toml", folder)
        with session.chdir(folder):
            yield wheel


def install_again(session: nox.Session, *arguments: str) -> None:
    """Install the package, although this version may be installed already. Its dependencies must be installed."""
    session.install("--quiet", "--force-reinstall", "--no-deps", *arguments)


INTERPRETERS = find_interpreters()


def install_for_tests(session: nox.Session, *without: str) -> None:
    """Install the package and what its tests need, without some distributions."""
    # Editable, because the checkout comes first in sys.path anyway. The `types` and `build` sessions test the package
    # as users install it.
    session.install("-e", ".", *(each for each in group("test") if not each.startswith(without)))
    if not os.environ.get("TRIO_WS_PURE"):
        # Without a C compiler the build does not fail (`optional` in pyproject.toml), but tests would be skipped. Use
        # `TRIO_WS_PURE=1 nox -s tests` in that case.
        session.run("python", "-c", "import trio_ws.protocol.compiled")


def run_pytest(session: nox.Session, *default: str) -> None:
    """Run pytest with the arguments after ``--``, otherwise with the default ones on all processors."""
    session.run("pytest", *(session.posargs or ["--numprocesses=auto", *default]))


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests that find nearly everything, with this Python, in less than three minutes."""
    install_for_tests(session)
    run_pytest(session, "-m", "not slow and not harness")


@nox.session(python=INTERPRETERS)
def tests_all(session: nox.Session) -> None:
    """Run the tests with every Python that is installed; the slow ones with the newest only."""
    if session.python == "3.10":
        # All tests should run with both compression libraries, and with both the compiled and the Python functions.
        install_for_tests(session, "zlib-ng")
        session.env["TRIO_WS_PURE"] = "1"
    else:
        install_for_tests(session)
    newest = session.python == INTERPRETERS[-1]
    run_pytest(session, "-m", "not harness" if newest else "not slow and not harness")


@nox.session
def harnesses(session: nox.Session) -> None:
    """Cancel at every point, fail at every byte, open ten thousand connections, measure memory, and so on."""
    install_for_tests(session)
    run_pytest(session, "-m", "harness")


# The newest Python takes the least time to measure it.
@nox.session(python=INTERPRETERS[-1])
def coverage(session: nox.Session) -> None:
    """Run all tests but the harnesses. Check the coverage of the package, and of modules by their own tests."""
    install_for_tests(session)
    session.run("python", "tests/measure_coverage.py", *session.posargs)


@nox.session
def random_order(session: nox.Session) -> None:
    """Run all tests repeatedly, in random order and with new random examples. After ``--``: the number of runs (10).

    The command line of each run shows its seeds, which reproduce the run.
    """
    session.install("-e", ".", *group("test"), "pytest-randomly")
    for _ in range(int(session.posargs[0]) if session.posargs else 10):
        seed = random.randrange(2**32)
        # pytest-randomly and Hypothesis have separate seeds.
        session.run("pytest", "--numprocesses=auto", f"--randomly-seed={seed}", f"--hypothesis-seed={seed}")


@nox.session
def lint(session: nox.Session) -> None:
    """Check the format, the rules of ruff, the first lines of docstrings, the Dockerfile in docs/, and the workflows.

    `ruff format; ruff check --fix` repairs most problems.
    """
    session.install(*group("lint"))
    session.run("ruff", "format", "--check")
    session.run("ruff", "check")
    session.run("python", "tests/docstring_lint.py")
    if shutil.which("hadolint", path=session.bin):  # it is not on PyPI for every platform
        session.run("hadolint", "docs/examples/Dockerfile")
    session.run("zizmor", "--offline", "--quiet", ".github")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy, and with pyright that everything public has a type."""
    # Setuptools packs everything in build/, including modules that have been deleted since the last build.
    shutil.rmtree("build", ignore_errors=True)
    # Nothing has to be compiled for it.
    session.install(".", *group("test", "types"), env={"CC": "false"})
    session.run("mypy")
    # Outside the checkout, pyright finds only the installed package.
    session.chdir(session.create_tmp())
    session.run(
        "pyright",
        "--verifytypes=trio_ws",
        "--ignoreexternal",
        # This stops pyright from looking for a newer version on the network.
        env={"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
    )


@nox.session
def build(session: nox.Session) -> None:
    """Build and test the sdist and the wheel, with a C compiler and without."""
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
            session.run("trio-ws", "demo")


@nox.session
def sanitize(session: nox.Session) -> None:
    """Run the tests that use compiled code, with AddressSanitizer and UndefinedBehaviorSanitizer. GCC only."""
    libraries = find_sanitizers()
    if not libraries:
        skip(session, "This needs GCC with AddressSanitizer and UndefinedBehaviorSanitizer.")
    session.install("build", *group("test"))
    # pyproject.toml adds -O3, so the tests run the same code that users get.
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
        # Python itself is not built with sanitizers, so their libraries must be loaded first.
        "LD_PRELOAD": ":".join(libraries),
        # Python's own allocator would hide the boundaries of objects.
        "PYTHONMALLOC": "malloc",
        # Memory that Python does not free on exit is not our leak. A small quarantine and short stack traces halve the
        # run time.
        "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=8:malloc_context_size=3",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    with installed_elsewhere(session, {"CC": "gcc", "CFLAGS": checks}) as wheel:
        with zipfile.ZipFile(wheel) as archive:
            code = b"".join(archive.read(name) for name in archive.namelist() if name.endswith(".so"))
        if b"__asan_report_load" not in code or b"__ubsan_handle" not in code:
            session.error(f"{wheel.name} has no compiled code with sanitizers in it")
        session.run("python", "-c", "from trio_ws.protocol import hot; assert hot.COMPILED", env=env)
        # A sanitizer writes its report and ends the process, so pytest must not capture file descriptors.
        session.run("pytest", "--numprocesses=auto", "--capture=sys", *(session.posargs or tests), env=env)


@nox.session
def wheels(session: nox.Session) -> None:
    """Build and test the wheels for this platform with cibuildwheel; on Linux this needs Docker."""
    session.install("cibuildwheel>=3.1")
    session.run("cibuildwheel", "--output-dir", "dist", *session.posargs)


@nox.session
def conformance(session: nox.Session) -> None:
    """Run the Autobahn test suite, with each compression library. After ``--``: its cases, such as ``all`` or ``7.*``.

    Without arguments, zlib-ng runs only those of compressed fragments, for each kind of content and all parameters, and
    only those for servers. The suite itself runs on Python 2.7.
    """
    python = find_python27()
    if python is None:
        # Contributors need not install an unsupported interpreter.
        skip(session, "The Autobahn test suite needs Python 2.7. Try `pyenv install 2.7.18`.")
    # The last versions of virtualenv that support Python 2.7.
    session.install("virtualenv<20.22")
    suite = session.cache_dir.resolve() / "autobahn"
    scripts = suite / ("Scripts" if sys.platform == "win32" else "bin")
    if not (scripts / "wstest").exists():
        session.run_install("virtualenv", "--quiet", "--python", str(python), str(suite))
        session.run_install(str(scripts / "pip"), "install", "--quiet", "autobahntestsuite==0.8.2", external=True)
    session.install(".[speedups]")
    command = ["python", "tests/conformance/run.py", "--wstest", str(scripts / "wstest")]
    session.run(*command, "--library", "zlib", *session.posargs)
    session.run(*command, "--library", "zlib_ng", *(session.posargs or ["--role", "server", "12.*.11", "13.*.11"]))


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation in docs/_build/html, and test its search and its layout. Warnings are errors."""
    # Nothing has to be compiled for it.
    session.install("-e", ".", *group("docs", "test"), env={"CC": "false"})
    # -E disables the cache: cached pages do not repeat their warnings.
    session.run("sphinx-build", "-n", "-W", "--keep-going", "-E", "docs", "docs/_build/html")
    built = str(Path("docs/_build/html").resolve())
    session.run("pytest", "tests/docs/test_search.py", "tests/docs/test_browser.py", env={"TRIO_WS_HTML": built})


@nox.session
def bench(session: nox.Session) -> None:
    """Compare the library with others, and write docs/benchmarks.md. After ``--``: arguments such as ``--quick``.

    ``-- echo-32`` runs one benchmark. ``-- hostile`` only measures the cost of many small frames, and saves the results
    in tests/benchmarks/hostile.json. ``-- instructions`` only counts the instructions of the servers, which needs
    Valgrind and is skipped without it.
    """
    session.install("-e", ".", *group("bench"))
    session.run("python", "-m", "tests.benchmarks", *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    """Drive Chromium: pages that connect to our server. Skipped without Chromium. Arguments are passed to pytest.

    Screenshots of tests that fail are in artifacts/.
    """
    if shutil.which(os.environ.get("CHROMIUM", "chromium")) is None:
        skip(session, "This needs Chromium. On Debian, `apt install chromium`; or set CHROMIUM to the name of another.")
    session.install("-e", ".", *group("test"))
    session.run("pytest", "tests/browser", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz with atheris for ten minutes. After ``--``: names of targets, such as ``uri``, and options of libFuzzer.

    An input that fails is saved in artifacts/. ``nox -s fuzz -- uri artifacts/uri-crash-...`` runs it again. New inputs
    that reach more code are kept in the cache of nox.
    """
    if sys.platform not in ("linux", "darwin"):
        skip(session, "There is no atheris for this system.")
    session.install("-e", ".", *group("fuzz"))
    session.run("python", "-c", "import trio_ws.protocol.compiled")
    targets = sorted(path.stem.removeprefix("fuzz_") for path in Path("tests/fuzz").glob("fuzz_*.py"))
    chosen = [target for target in session.posargs if target in targets] or targets
    options = [option for option in session.posargs if option not in targets]
    Path("artifacts").mkdir(exist_ok=True)
    for target in chosen:
        found = session.cache_dir / "fuzz" / target
        found.mkdir(parents=True, exist_ok=True)
        reproduces = any(not option.startswith("-") for option in options)
        folders = [] if reproduces else [str(found), f"tests/fuzz/corpus/{target}"]
        limits = [f"-max_total_time={600 // len(chosen)}", "-timeout=60", "-max_len=4096"]
        prefix = f"-artifact_prefix=artifacts/{target}-"
        session.run("python", "-m", f"tests.fuzz.fuzz_{target}", *limits, prefix, *options, *folders)


@nox.session
def soak(session: nox.Session) -> None:
    """Run hundreds of clients for ten minutes; for an hour with ``-- --long``.

    ``-- --save docs/soak.md`` writes the page of the documentation.
    """
    session.install("-e", ".[speedups]")
    session.run("python", "-m", "tests.soak", *session.posargs)


@nox.session
def sdist(session: nox.Session) -> None:
    """Build the sdist in dist/, check its content, and install it without a network.

    After ``--``: the tag of a release, which must be that of the version.
    """
    version = (Path("trio_ws") / "version.py").read_text().split('"')[-2]
    if session.posargs and session.posargs != [f"v{version}"]:
        session.error(f"the tag must be v{version}, not {session.posargs[0]}")
    session.install("build", *PYPROJECT["build-system"]["requires"], *PYPROJECT["project"]["dependencies"])
    shutil.rmtree("dist", ignore_errors=True)
    session.run("pyproject-build", "--sdist", "--outdir", "dist", silent=True)
    (archive,) = Path("dist").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        packed = {name.partition("/")[2] for name in tar.getnames()}
    files = set(str(session.run("git", "ls-files", external=True, silent=True)).split())
    missing = {name for name in files - packed if not name.startswith((".ci/", ".gitignore"))}
    if missing:
        session.error(f"{archive.name} does not have {', '.join(sorted(missing))}")
    install_again(session, "--no-index", "--no-build-isolation", str(archive))
    # Outside of the checkout, Python finds only the installed package.
    session.chdir(session.create_tmp())
    session.run("python", "-c", "from trio_ws.protocol import hot; assert hot.COMPILED")
    session.run("python", "-m", "trio_ws", "demo")


@nox.session
def free_threading(session: nox.Session) -> None:
    """Check that the GIL stays off, and run tests without it. Skipped unless nox runs on a free-threaded Python."""
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        skip(session, "Run nox with a free-threaded Python, such as python3.14t.")
    # Not the whole group: some of these packages have no wheels for a free-threaded Python, or turn the GIL on.
    session.install("-e", ".", "pytest", "pytest-trio", "hypothesis", "trustme", "websockets")
    session.run("python", "-c", "import sys, trio_ws.protocol.compiled; assert not sys._is_gil_enabled()")
    tests = ["free_threading", "codec", "connection", "hot", "messages", "pure"]
    # Another package may turn the GIL on, but not here.
    session.run("pytest", *(f"tests/protocol/test_{name}.py" for name in tests), env={"PYTHON_GIL": "0"})


@nox.session
def pyodide(session: nox.Session) -> None:
    """Run the tests of the protocol on CPython for WebAssembly, in Node: without threads, sockets and compiled code."""
    if shutil.which("npm") is None:
        skip(session, "This needs Node and npm.")
    folder = session.cache_dir.resolve() / "pyodide"
    session.run_install("npm", "install", "--silent", "--prefix", str(folder), "pyodide@^314", external=True)
    # Packages in pure Python, for any version: that of Pyodide differs from that of nox.
    pure = ["--only-binary=:all:", "--python-version=3.14", "--implementation=py", "--abi=none", "--platform=any"]
    packages = [*PYPROJECT["project"]["dependencies"], "pytest", "pytest-trio", "hypothesis", "websockets", "wsproto"]
    target = ["--quiet", "--upgrade", "--target", str(folder / "packages")]
    session.install("pip")  # uv cannot choose the implementation
    session.run_install("python", "-m", "pip", "install", *target, *pure, *packages)
    tests = session.posargs or ["tests/protocol", "tests/test_uri.py", "tests/test_frames.py", "tests/test_http11.py"]
    paths = [Path.cwd(), folder / "packages", folder / "node_modules" / "pyodide"]
    session.run("node", "tests/pyodide/run.mjs", *map(str, paths), *tests, external=True)
