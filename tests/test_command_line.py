"""The command line itself: help, version, usage errors, and what importing costs."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import loadgen
from loadgen.cli import exit_code_of

REPOSITORY = Path(__file__).parents[1]
SCENARIO = "scenarios/connection-pool.yaml"


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.strip()


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(["--version"]) == 0
    assert loadgen.__version__ in capsys.readouterr().out


@pytest.mark.parametrize("command", [[], ["run"], ["up"], ["policy"], ["policy", "apply"], ["policy", "remove"], ["restore"], ["guard"]])
def test_every_command_has_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of([*command, "--help"]) == 0
    assert "Usage: loadgen" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fly"], "No such command 'fly'"),
        (["run"], "Missing argument 'SCENARIO'"),
        (["run", "--nonsense", "x.yaml"], "No such option"),
        (["run", "scenarios/connection-pool.yaml", "--duration", "8"], "has no unit; write 8s"),
        (["run", "scenarios/connection-pool.yaml", "--rate", "5/s"], "--rate does not fit"),
        (["plan", "scenarios/http2-max-requests.yaml", "--rate", "1000000/s"], "--rate must be at most 50000, not 1000000"),
        (["run", "scenarios/http2-max-requests.yaml", "--users", "5"], "--users does not fit"),
        (["run", "scenarios/connection-pool.yaml", "--clients", "0"], "--clients must be at least 1, not 0"),
        (["run", "scenarios/connection-pool.yaml", "--mesh", "moon"], "--mesh"),
        (["run", SCENARIO, "--out", ""], "write . for the current one"),
        (["report", "report.json", "--out", ""], "write . for the current one"),
        (["run", "scenarios/no-such.yaml"], "there is no such file"),
        (["run", "scenarios"], "not a regular file"),
        (["guard", "--host", "user.base", "--namespace", "test", "--creates", "user"], "'user' is not namespace/name, such as base/user"),
        (["policy", "apply", "no-such.yaml"], "there is no such file"),
    ],
)
def test_bad_usage_ends_with_2_and_says_what_is_wrong(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(arguments) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["plan", SCENARIO], ["plan", SCENARIO, "--json"], ["manifests", "--help"]]
)
def test_a_full_stdout_is_told_in_a_sentence_whatever_was_asked_for(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "loadgen", *arguments], cwd=REPOSITORY, check=False, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert ended.returncode == 3, ended.stderr
    assert "cannot be printed: No space left on device\n   hint: free some space there\n" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "code"), [(["plan", SCENARIO, "--users", "1"], 0), (["plan", "nothere.yaml"], 2), (["plan", "--nonsense"], 2)]
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_full_stderr_changes_neither_the_result_nor_the_exit_code(arguments: list[str], code: int, encoding: str) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "loadgen", *arguments],
            cwd=REPOSITORY,
            check=False,
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )
    assert ended.returncode == code
    assert ("Nothing was changed." in ended.stdout) is (code == 0)


def test_a_reader_of_a_plan_who_has_seen_enough_changes_no_exit_code() -> None:
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, "-m", "loadgen", "plan", SCENARIO], cwd=REPOSITORY, check=False, stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_an_error_that_is_not_of_stdout_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object, **_options: object) -> None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    monkeypatch.setattr("loadgen.inputs.load_plan", broken)
    with pytest.raises(ConnectionRefusedError):
        exit_code_of(["plan", SCENARIO])


def test_importing_loadgen_or_asking_for_help_loads_nothing_heavy() -> None:
    heavy = {"asyncio", "httptools", "httpx", "kubernetes", "locust", "gevent", "prometheus_client", "pydantic", "rich", "uvloop", "yaml"}
    assert python(f"import loadgen, sys; print(sorted({heavy} & set(sys.modules)))") == "[]"
    assert python(f"import loadgen.cli, sys; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_a_run_loads_neither_locust_nor_the_clients_of_kubernetes_and_prometheus_nor_httpx() -> None:
    assert (
        python(
            "import loadgen.cli.story, sys; print(sorted({'httpx', 'kubernetes', 'locust', 'gevent', 'prometheus_client'} & set(sys.modules)))"
        )
        == "[]"
    )
