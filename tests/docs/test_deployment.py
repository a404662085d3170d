"""The files for deployments in the documentation: the image, Kubernetes and systemd."""

from __future__ import annotations

import configparser
import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_ws

from ..test_documentation import ENVIRONMENT, EXAMPLES, ROOT

IMAGE = "trio-ws-documentation"

yaml: Any = importlib.import_module("yaml")  # an import statement would need its types


def constant(name: str, program: str = "rolling_server.py") -> int:
    """Return a constant of an example, in seconds."""
    (value,) = re.findall(rf"^{name} = (\d+)", (EXAMPLES / program).read_text(encoding="utf-8"), re.MULTILINE)
    return int(value)


async def talk(ws: trio_ws.WebSocket) -> None:
    """Check that an echo server answers."""
    await ws.send("hello")
    assert await ws.receive() == "hello"


# -- Docker ----------------------------------------------------------------------------------------------------------


def instructions() -> dict[str, list[str]]:
    """Return the arguments of the instructions in the Dockerfile."""
    text = (EXAMPLES / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
    found: dict[str, list[str]] = {}
    for name, arguments in re.findall(r"^([A-Z]+) (.*)$", text, re.MULTILINE):
        found.setdefault(name, []).append(arguments)
    return found


def test_the_dockerfile_suits_its_program() -> None:
    found = instructions()
    (command,) = found["CMD"]
    python, program, port = json.loads(command)  # a list: no shell is started that would not pass on SIGTERM
    assert python == "python"
    assert f"{program} ./" in found["COPY"]
    assert (EXAMPLES / program).exists()
    assert found["EXPOSE"] == [port]
    (user,) = found["USER"]
    assert int(user) > 0
    (health,) = found["HEALTHCHECK"]
    assert f":{port}/healthz" in health
    assert "/healthz" in (EXAMPLES / program).read_text(encoding="utf-8")
    (base,) = found["FROM"]
    supported = re.findall(r":: Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert base.removeprefix("python:").removesuffix("-slim") in supported
    limit = re.findall(r"--stop-timeout (\d+)", (EXAMPLES / "Dockerfile").read_text(encoding="utf-8"))
    assert int(limit[0]) > sum(map(constant, ("PATIENCE", "SPREAD", "GRACE")))


def test_lint_the_dockerfile() -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    subprocess.run([hadolint, str(EXAMPLES / "Dockerfile")], check=True)


@pytest.fixture(scope="module")
def engine() -> str:
    """Return the program that builds and runs images."""
    (base,) = instructions()["FROM"]
    reasons = []
    for program in ("docker", "podman"):
        if shutil.which(program) is None:
            reasons.append(f"{program} is not installed")
            continue
        # This pulls the base image if necessary. Within some sandboxes, no container can be started.
        done = subprocess.run([program, "run", "--rm", base, "true"], capture_output=True, text=True)
        if done.returncode == 0:
            return program
        reasons.append(f"{program} cannot run {base}: {done.stderr.strip()[-200:]}")
    pytest.skip(f"no container can run here: {'; '.join(' '.join(reason.split()) for reason in reasons)}")


@pytest.fixture(scope="module")
def image(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Build the image with this version of the library."""
    context = tmp_path_factory.mktemp("context")
    with tarfile.open(context / "trio-ws.tar.gz", "w:gz") as archive:
        for name in ("pyproject.toml", "README.md", "LICENSE", "trio_ws"):
            archive.add(
                ROOT / name, f"trio-ws/{name}", filter=lambda info: None if "__pycache__" in info.name else info
            )
    (context / "requirements.txt").write_text("./trio-ws.tar.gz\n", encoding="utf-8")
    shutil.copy(EXAMPLES / "rolling_server.py", context)
    dockerfile = (EXAMPLES / "Dockerfile").read_text(encoding="utf-8")
    line = "COPY requirements.txt ./\n"
    assert line in dockerfile
    changed = dockerfile.replace(line, "COPY requirements.txt trio-ws.tar.gz ./\n")
    (context / "Dockerfile").write_text(changed, encoding="utf-8")
    # The host's network: the build needs PyPI, with the settings of this machine.
    settings = [f"--build-arg={name}" for name in os.environ if name.lower().endswith("_proxy")]
    subprocess.run([engine, "build", "--network=host", *settings, "-t", IMAGE, str(context)], check=True)
    yield IMAGE
    subprocess.run([engine, "rmi", "--force", IMAGE], capture_output=True)


async def test_the_image_runs_and_stops(engine: str, image: str) -> None:
    def call(*arguments: str) -> str:
        done = subprocess.run([engine, *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    container = call("run", "--detach", "--init", "--publish", "127.0.0.1::8765", "--stop-timeout", "90", image)
    try:
        port = int(call("port", container, "8765").rpartition(":")[2])
        # The first attempts fail, because the server is still starting.
        async for attempt in trio_ws.attempts(f"ws://127.0.0.1:{port}/", proxy=None):
            async with attempt as ws:
                await talk(ws)
                break
        assert call("exec", container, "id", "-u") == instructions()["USER"][0]
        (health,) = instructions()["HEALTHCHECK"]
        call("exec", container, *json.loads(health.partition("CMD ")[2]))
        await trio.to_thread.run_sync(call, "stop", container)
        # 0, and not 137: it has ended by itself.
        assert call("inspect", "--format", "{{.State.ExitCode}}", container) == "0"
    finally:
        call("rm", "--force", container)


# -- Kubernetes ------------------------------------------------------------------------------------------------------


def test_the_deployment_suits_its_program() -> None:
    deployment, service = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text(encoding="utf-8"))
    assert (deployment["kind"], service["kind"]) == ("Deployment", "Service")
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    pod = template["spec"]
    (container,) = pod["containers"]
    (port,) = container["ports"]
    assert str(port["containerPort"]) == instructions()["EXPOSE"][0]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": port["name"]}
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    parts = [pause, *map(constant, ("PATIENCE", "SPREAD", "GRACE"))]
    assert sum(parts) < pod["terminationGracePeriodSeconds"]
    comment = "# The preStop pause (10), draining (60), disconnecting (20),\n      # closing (5), and a reserve.\n"
    assert comment in (EXAMPLES / "kubernetes.yaml").read_text(encoding="utf-8")
    assert parts == [int(part) for part in re.findall(r"\((\d+)\)", comment)]


# -- systemd ---------------------------------------------------------------------------------------------------------


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keep capital letters
    parser.read_string((EXAMPLES / name).read_text(encoding="utf-8"))
    return parser


def test_the_units_suit_their_program() -> None:
    service = unit("server.service")["Service"]
    program = EXAMPLES / Path(service["ExecStart"].split()[1]).name
    grace = re.findall(r"grace=(\d+)", program.read_text(encoding="utf-8"))
    assert int(service["TimeoutStopSec"]) > int(grace[0])
    assert service["KillSignal"] == "SIGTERM"
    assert int(service["LimitNOFILE"]) > (trio_ws.Limits().connections or 0)
    assert "ListenStream" in unit("server.socket")["Socket"]


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd is not installed")
    for name in ("server.service", "server.socket"):
        text = (EXAMPLES / name).read_text(encoding="utf-8")
        text = text.replace("/srv/app/venv/bin/python", sys.executable)
        (tmp_path / name).write_text(text, encoding="utf-8")
    units = [str(tmp_path / name) for name in ("server.service", "server.socket")]
    done = subprocess.run([program, "verify", "--man=no", *units], capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if "/server." in line or line.startswith("server.")]
    assert (done.returncode, said) == (0, []), done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there is no systemd there")
async def test_activated_server_example() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        # As systemd does: the socket is file descriptor 3, and environment variables describe it.
        code = (
            "import os, sys\n"
            f"os.dup2({listening.fileno()}, 3)\n"
            "os.set_inheritable(3, True)\n"
            "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n"
            f"os.execv(sys.executable, [sys.executable, {str(EXAMPLES / 'activated_server.py')!r}])\n"
        )
        start = partial(trio.lowlevel.open_process, pass_fds=[listening.fileno()], env=ENVIRONMENT)
        process = await start([sys.executable, "-c", code])
        try:
            port = listening.getsockname()[1]
            async with trio_ws.connect(f"ws://127.0.0.1:{port}/", proxy=None) as ws:
                await talk(ws)
                process.send_signal(signal.SIGTERM)
                with pytest.raises(trio_ws.ConnectionClosedError) as caught:
                    await ws.receive()
                assert caught.value.rcvd == trio_ws.Close(1012, "restarting")
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
