"""What `pip install .` gives: the command, the licence, the types, and nothing that a load pod does not need."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--disable-pip-version-check",
        "-w",
        str(folder),
        ".",
    ]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    return next(folder.glob("*.whl"))


def metadata(wheel: Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(next(each for each in archive.namelist() if each.endswith(f".dist-info/{name}"))).decode()


def test_the_wheel_holds_the_package_its_types_and_the_licence_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "loadgen/cli/__init__.py" in names
    assert "loadgen/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    page = {f"loadgen/render/page/{name}" for name in ("page.css", "page.js", "uPlot.iife.min.js", "uPlot.min.css", "uPlot.LICENSE")}
    assert page <= set(names)
    assert {f"loadgen/locust/static/{name}" for name in ("page.html", "page.css", "page.js", "theme.js")} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "scenarios"))]


def test_the_wheel_has_the_command_and_it_runs_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    assert "loadgen = loadgen.__main__:main" in metadata(wheel, "entry_points.txt")
    code = f"import sys; sys.path.insert(0, {str(wheel)!r}); import loadgen; assert '.whl' in loadgen.__file__; from loadgen.cli import main; main(['--version'])"
    ended = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert ended.stdout.startswith("loadgen, version ")


def test_what_every_installation_needs_is_small_and_the_rest_is_an_extra(wheel: Path) -> None:
    header = Parser().parsestr(metadata(wheel, "METADATA"))
    required = header.get_all("Requires-Dist", [])
    core = {line.split(">")[0].split("=")[0].split(";")[0].strip() for line in required if "extra ==" not in line}
    assert core == {"anyio", "click", "httptools", "pydantic", "pyyaml", "rich", "uvloop"}
    assert {"all", "cluster", "http", "local", "locust", "metrics"} == set(header.get_all("Provides-Extra", []))
