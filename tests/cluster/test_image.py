"""Is the image small, is nothing in it that should not be there, and does it run as a careful cluster runs it?"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from typing import TYPE_CHECKING, Any

import pytest

import loadgen
from loadgen.errors import RefusedError
from tests.cluster.controlplane import machine
from tests.cluster.controlplane.part import free_ports
from tests.cluster.controlplane.patience import until
from tests.cluster.image import REPOSITORY, Image, build_image, first_process
from tests.story.command import SCENARIOS, Loadgen, finish, interrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

pytestmark = pytest.mark.timeout(1200)  # the first one waits for debootstrap and pip
MOST_BYTES = 120_000_000
START_S = STOP_S = 2.0
TRIES = 3
"""A machine that is busy with something else says nothing about the image."""
LOOPBACK = "127.0.0.1"
LIB, BYTECODE = "opt/loadgen/lib", "opt/loadgen/bytecode"


@pytest.fixture(scope="module")
def image() -> Image:
    machine.install_missing()
    try:
        return build_image()
    except RefusedError as error:
        pytest.skip(f"{error.message}: {error.hint}")


@pytest.fixture(scope="module")
def locust() -> Image:
    """The image with Locust."""
    machine.install_missing()
    try:
        return build_image(target="locust")
    except RefusedError as error:
        pytest.skip(f"{error.message}: {error.hint}")


@pytest.fixture(scope="module")
def added(image: Image) -> list[str]:
    """The paths of all files that the image adds to its base."""
    names = []
    for layer in image.layers:
        with tarfile.open(layer) as archive:
            names += [member.name for member in archive if not member.isdir()]
    return names


def ran(image: Image, arguments: Sequence[str], *, entrypoint: Sequence[str] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    command = image.command(arguments, entrypoint=entrypoint, environment=environment)
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def in_python(image: Image, code: str) -> str:
    ended = ran(image, ["-c", code], entrypoint=["python3"])
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_the_image_adds_little_to_its_base(image: Image) -> None:
    print(f"{image.size_bytes / 1e6:.1f} MB beyond the base")
    assert image.size_bytes <= MOST_BYTES


def test_all_that_is_added_lies_in_one_folder(added: list[str]) -> None:
    assert [name for name in added if not name.startswith((f"{LIB}/", f"{BYTECODE}/"))] == []


def test_the_image_holds_the_locked_packages_and_no_other(added: list[str]) -> None:
    locked = re.findall(r"^([a-z0-9-]+)==([^ ]+)", (REPOSITORY / "requirements" / "pod.txt").read_text(encoding="utf-8"), re.MULTILINE)
    wanted = {f"{name.replace('-', '_')}-{version}" for name, version in [*locked, ("loadgen", loadgen.__version__)]}
    found = {name.split("/")[3].removesuffix(".dist-info") for name in added if name.endswith(".dist-info/METADATA")}
    assert found == wanted


def test_the_image_of_locust_holds_its_locked_packages_and_no_other(locust: Image) -> None:
    text = (REPOSITORY / "requirements" / "locust-pod.txt").read_text(encoding="utf-8")
    locked = re.findall(r"^([a-z0-9-]+)==([^ ]+)(?! ; sys_platform == 'win32')", text, re.MULTILINE)
    wanted = {name.replace("-", "_") for name, _ in [*locked, ("loadgen", loadgen.__version__)]}
    folder = locust.rootfs / LIB
    found = {each.name.split("-")[0].lower().replace(".", "_") for each in folder.glob("*.dist-info")}
    assert found <= wanted
    assert {"locust", "gevent", "loadgen", "uvloop"} <= found
    print(f"{locust.size_bytes / 1e6:.1f} MB beyond the base")
    assert locust.size_bytes <= MOST_BYTES


def test_locust_runs_in_its_image_as_a_number_on_a_read_only_root_file_system(locust: Image) -> None:
    assert (locust.config["User"], locust.config["Entrypoint"]) == ("65532:65532", ["python3", "-m", "locust"])
    ended = ran(locust, ["--version"])
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("locust 2."), ended.stdout
    code = "import loadgen.desk.cluster, loadgen.desk.desk, loadgen.render.formats, socket; print(socket.gethostname())"
    command = locust.command(["-c", code], entrypoint=["python3"], host_name="locust-worker-1")
    assert subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout == "locust-worker-1\n"


def test_every_module_has_its_bytecode_once(added: list[str]) -> None:
    sources = {name for name in added if name.endswith(".py")}
    compiled = [name for name in added if name.endswith(".pyc")]
    ours = {
        re.sub(r"\.cpython-\d+\.pyc$", ".py", name.removeprefix(f"{BYTECODE}/")) for name in compiled if name.startswith(f"{BYTECODE}/opt")
    }
    assert ours == sources
    assert all(name.startswith(f"{BYTECODE}/") for name in compiled)


def test_no_trace_of_how_it_was_built_stays(image: Image) -> None:
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True).stdout
    values = {value.strip("'") for _, _, value in (line.partition("=") for line in listed.splitlines())}
    traces = [value for value in values if "/" in value] + [
        str(REPOSITORY),
        sys.prefix,
        str(image.rootfs),
        "pip.conf",
        "/run/secrets/ca.crt",
    ]
    described = json.dumps(image.config)
    contents = [layer.read_bytes() for layer in image.layers]
    assert [trace for trace in traces if trace in described or any(trace.encode() in content for content in contents)] == []


def test_the_image_says_what_it_is_and_runs_as_a_number(image: Image) -> None:
    assert image.config["User"] == "65532:65532"
    assert image.config["Entrypoint"] == ["python3", "-m", "loadgen"]
    assert image.config["Cmd"] == ["pod"]
    labels = image.config["Labels"]
    assert isinstance(labels, dict)
    assert labels["org.opencontainers.image.version"] == loadgen.__version__
    assert {f"org.opencontainers.image.{name}" for name in ("title", "description", "licenses", "revision")} <= set(labels)


def test_the_command_runs_on_a_read_only_root_file_system_without_a_shell(image: Image) -> None:
    ended = ran(image, ["--version"])
    assert (ended.stdout, ended.returncode) == (f"loadgen, version {loadgen.__version__}\n", 0), ended.stderr
    assert in_python(image, "import os; print(os.getuid(), os.getgid(), os.getgroups(), os.getpid())") == "65532 65532 [] 1"
    cannot = "import errno, pathlib\nfor name in ('/x', '/tmp/x', '/run/x', '/opt/loadgen/x'):\n try: pathlib.Path(name).touch()\n except OSError as e: print(errno.errorcode[e.errno])"
    assert in_python(image, cannot).split() == ["EROFS"] * 4
    assert (
        "Permission denied: '/bin/sh'"
        in ran(image, ["-c", "import subprocess; subprocess.run('true', shell=True)"], entrypoint=["python3"]).stderr
    )


def test_the_image_has_what_the_guard_needs_to_begin(image: Image) -> None:
    ended = ran(image, ["guard", "--host", "user.base.svc.cluster.local", "--namespace", "test"])
    assert ended.returncode == 3
    assert ended.stderr.startswith("loadgen: "), ended.stderr


def test_the_image_can_print_the_manifests(image: Image) -> None:
    ended = ran(image, ["manifests"])
    assert ended.returncode == 0, ended.stderr
    assert f"image: loadgen:{loadgen.__version__}" in ended.stdout


@contextlib.contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a container until the end of the block; what it says is in ``log``."""
    with (
        log.open("w") as said,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, text=True) as runner,
    ):
        try:
            yield runner
        finally:
            runner.kill()


def asked(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=1)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def seconds_until_ok(port: int, path: str, since: float, log: Path) -> float:
    """Ask every 10 ms until the answer is 200; give how long that took since then."""
    status = 0
    while time.monotonic() < since + 30:
        with contextlib.suppress(OSError):
            status, _ = asked(port, path)
        if status == 200:
            return time.monotonic() - since
        time.sleep(0.01)
    raise AssertionError(f"{path} still answered {status}: {log.read_text(encoding='utf-8')}")


def stopped(runner: subprocess.Popen[str]) -> tuple[int, float]:
    """End a container as the kubelet does; give its exit code, and how long it took."""
    begun = time.monotonic()
    os.kill(first_process(runner), signal.SIGTERM)
    return runner.wait(timeout=30), time.monotonic() - begun


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """A real sidecar before a real service: what a load pod has to be told of it."""
    up = Loadgen(tmp_path).start("up", SCENARIOS / "connection-pool.yaml", "--clients", "1")
    assert up.stdout is not None
    first = up.stdout.readline()
    found = re.match(r"client-1 +(?P<url>\S+) .*sidecar admin http://(?P<admin>[^/]+)/", first)
    assert found, first
    try:
        yield {
            "LOADGEN_TARGET": found["url"],
            "LOADGEN_ADMIN": found["admin"],
            "LOADGEN_CLUSTER": "outbound|7000||user.base.svc.cluster.local",
        }
    finally:
        interrupt(up)
        finish(up)


@pytest.fixture
def as_a_pod(image: Image, sidecar: Mapping[str, str]) -> Callable[..., tuple[list[str], int]]:
    """Give the command of the image with no arguments, as the Deployment runs it, and the port that it serves."""

    def command(**environment: str) -> tuple[list[str], int]:
        (port,) = free_ports(LOOPBACK, 1)
        settings = {"POD_NAME": "client-1", "POD_NAMESPACE": "test", "REGION": "here", "LOADGEN_PORT": str(port), "LOADGEN_BIND": LOOPBACK}
        return image.command(environment={**settings, **sidecar, **environment}), port

    return command


def lived(pod: tuple[list[str], int], log: Path) -> tuple[float, float]:
    """Run a pod from its start to its end in order; give the seconds until it was ready, and from SIGTERM to its end."""
    command, port = pod
    begun = time.monotonic()
    with running(command, log) as runner:
        seconds_until_ok(port, "/healthz", begun, log)
        ready_s = seconds_until_ok(port, "/readyz", begun, log)
        assert "loadgen_requests_total" in asked(port, "/metrics")[1]
        assert json.loads(asked(port, "/snapshot")[1])["name"] == "client-1"
        until(lambda: "Kevin" in log.read_text(encoding="utf-8"), "the pod says what it was answered")
        code, end_s = stopped(runner)
    said = log.read_text(encoding="utf-8")
    assert code == 0, said
    assert "Traceback" not in said
    print(f"ready {ready_s:.2f} s after the start, ended {end_s:.2f} s after SIGTERM")
    return ready_s, end_s


@pytest.mark.envoy
def test_a_pod_is_ready_soon_after_its_start_and_ends_in_order_soon_after_sigterm(as_a_pod: Any, tmp_path: Path) -> None:
    seen: list[tuple[float, float]] = []
    while len(seen) < TRIES and not (seen and seen[-1][0] <= START_S and seen[-1][1] <= STOP_S):
        seen.append(lived(as_a_pod(), tmp_path / f"log-{len(seen)}"))
    ready_s, end_s = seen[-1]
    assert ready_s <= START_S, seen
    assert end_s <= STOP_S, seen


@pytest.mark.envoy
def test_nothing_is_compiled_at_the_start_not_even_what_belongs_to_python(as_a_pod: Any, tmp_path: Path) -> None:
    command, port = as_a_pod(PYTHONVERBOSE="1")
    log = tmp_path / "log"
    with running(command, log) as runner:
        seconds_until_ok(port, "/readyz", time.monotonic(), log)
        stopped(runner)
    said = log.read_text(encoding="utf-8", errors="replace")
    assert re.findall(r"^# code object from '?(\S+\.py)'?$", said, re.MULTILINE) == []
    assert f"code object from '/{BYTECODE}/usr/lib/python3" in said


def test_the_same_image_is_the_example_service(image: Image, tmp_path: Path) -> None:
    port, count = free_ports(LOOPBACK, 2)
    arguments = [
        "--host",
        LOOPBACK,
        "--port",
        str(port),
        "--control-port",
        str(count),
        "--body",
        "Kevin",
        "--service-time-s",
        "0.02",
        "--exponential",
    ]
    log = tmp_path / "log"
    with running(image.command(arguments, entrypoint=["python3", "-m", "loadgen.mesh.user_service"]), log) as runner:
        seconds_until_ok(count, "/count", time.monotonic(), log)
        assert asked(port, "/") == (200, "Kevin")
        assert json.loads(asked(count, "/count")[1])["requests"] == 1
        code, end_s = stopped(runner)
    assert (code, end_s <= STOP_S) == (0, True), log.read_text(encoding="utf-8")
