"""Do our processes end when we end, however we end, and do we say how one of them died?"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from loadgen.errors import MeshError, RefusedError
from loadgen.mesh import children as module
from loadgen.mesh.children import Child, Children

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE_S = 20.0
SLEEP = ["sleep", "120"]

PARENT = """
import sys
from pathlib import Path
from loadgen.mesh.children import Children
with Children() as children:
    child = children.start("a child", {command!r}, Path(sys.argv[1]))
    print(child.process.pid, flush=True)
    {then}
"""

INTERRUPTED = """
import os, signal, subprocess, sys
from pathlib import Path
from loadgen.mesh.children import Children

signal.signal(signal.SIGINT, signal.default_int_handler)
start, parent = subprocess.Popen, os.getpid()

def interrupted(*arguments, preexec_fn, **options):
    def interrupt():
        os.kill(parent, signal.SIGINT)  # it waits for the exec, and runs its hooks after that
        preexec_fn()
    return start(*arguments, preexec_fn=interrupt, **options)

subprocess.Popen = interrupted
with Children() as children:
    try:
        children.start("sleeper", ["sleep", "60"], Path(sys.argv[1]))
    except KeyboardInterrupt:
        print("interrupted")
    [child] = children._children
    child.process.send_signal(signal.SIGINT)
    print(child.process.wait(5))
"""
"""In a process of its own: children are started while there is one thread, and a test run may have more by then."""


@pytest.fixture
def children() -> Iterator[Children]:
    with Children() as children:
        yield children


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def ended(pidfd: int) -> bool:
    """Wait until a process, ours or not, has ended; ``pidfd`` was opened while it lived."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(PATIENCE_S * 1000))


def dead(child: Child) -> Child:
    child.process.wait(PATIENCE_S)
    return child


@pytest.mark.parametrize("command", [SLEEP, ["sh", "-c", "trap '' TERM HUP INT; exec sleep 120"]], ids=["willing", "stubborn"])
def test_a_child_dies_with_its_parent_even_if_that_is_killed(tmp_path: Path, command: list[str]) -> None:
    code = PARENT.format(command=command, then="sys.stdin.read()")
    with subprocess.Popen([*python(code), str(tmp_path / "log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        try:
            os.kill(parent.pid, signal.SIGKILL)
            assert ended(pidfd)
        finally:
            os.close(pidfd)


def test_a_child_ends_when_its_parent_leaves_in_good_order(tmp_path: Path) -> None:
    code = PARENT.format(command=SLEEP, then="sys.stdin.readline()")
    with subprocess.Popen([*python(code), str(tmp_path / "log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.stdin.close()
            assert ended(pidfd)
            assert parent.wait(PATIENCE_S) == 0
        finally:
            os.close(pidfd)


def test_a_child_lives_in_a_session_of_its_own_so_that_the_terminal_does_not_interrupt_it(children: Children, tmp_path: Path) -> None:
    child = children.start("a child", SLEEP, tmp_path / "log")
    assert os.getsid(child.process.pid) == child.process.pid != os.getsid(0)


def test_an_interrupt_that_comes_while_a_child_is_started_is_not_lost_and_the_child_can_be_interrupted(tmp_path: Path) -> None:
    ended = subprocess.run([*python(INTERRUPTED), str(tmp_path / "log")], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (ended.stdout.split(), ended.stderr) == (["interrupted", str(-signal.SIGINT)], "")


def test_a_child_that_lives_has_not_died(children: Children, tmp_path: Path) -> None:
    child = children.start("a child", SLEEP, tmp_path / "log")
    assert child.death() is None
    assert children.deaths() == []


def kill(number: int) -> Callable[[Child], None]:
    return lambda child: child.process.send_signal(number)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit(3)", "ended with exit code 3"),
        ("pass", "ended with exit code 0"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
        ("import os; os.kill(os.getpid(), 11)", "was killed by SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGRTMIN + 3)", "was killed by signal 37"),
    ],
)
def test_a_death_tells_the_name_the_process_and_how_it_ended(children: Children, tmp_path: Path, code: str, said: str) -> None:
    child = dead(children.start("client-1's sidecar", python(code), tmp_path / "log"))
    death = child.death()
    assert isinstance(death, MeshError)
    assert death.message == f"client-1's sidecar (process {child.process.pid}) {said}; its log is empty"


def test_a_death_shows_the_end_of_the_log_harmless_to_a_terminal(children: Children, tmp_path: Path) -> None:
    code = (
        r"import os; os.write(1, b'first\n' * 900); os.write(2, b'\x1b[31mred\x07\r\n\xff\xe2\x80\xae\nlast\ttab\n'); raise SystemExit(1)"
    )
    death = dead(children.start("a child", python(code), tmp_path / "log")).death()
    assert death is not None
    assert death.message.endswith(
        "; the last lines of its log:\nfirst\nfirst\n\\x1b[31mred\\x07\n\N{REPLACEMENT CHARACTER}\\u202e\nlast\\ttab"
    )


def test_a_log_that_is_gone_does_not_hide_the_death(children: Children, tmp_path: Path) -> None:
    child = dead(children.start("a child", python("pass"), tmp_path / "log"))
    child.log.unlink()
    assert child.death() is not None


def test_only_the_child_that_died_is_named(children: Children, tmp_path: Path) -> None:
    children.start("the user service", SLEEP, tmp_path / "1")
    victim = children.start("client-1's sidecar", SLEEP, tmp_path / "2")
    victim.process.kill()
    dead(victim)
    (death,) = children.deaths()
    assert death.message.startswith("client-1's sidecar ")


@pytest.mark.parametrize(
    "make",
    [lambda folder: folder / "absent", lambda folder: folder, lambda folder: folder / "text"],
    ids=["absent", "a folder", "no program"],
)
def test_what_cannot_be_started_is_refused_with_a_hint(children: Children, tmp_path: Path, make: Callable[[Path], Path]) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(RefusedError, match=r"^Envoy cannot be started: ") as raised:
        children.start("Envoy", [str(make(tmp_path))], tmp_path / "log")
    assert raised.value.hint
    assert children.deaths() == []


def stubborn(children: Children, log: Path) -> Child:
    """Start a child that ignores SIGTERM, and wait until it does."""
    reading, writing = os.pipe()
    code = f"import os, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.write({writing}, b'ready'); os.execvp('sleep', {SLEEP})"
    child = children.start("a child", python(code), log, inherited=[writing])
    os.close(writing)
    with os.fdopen(reading) as ready:
        assert ready.read(5) == "ready"
    return child


def test_stop_asks_first_and_kills_who_does_not_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_S", 0.5)
    children = Children()
    willing = children.start("a child", SLEEP, tmp_path / "1")
    deaf = stubborn(children, tmp_path / "2")
    children.stop()
    assert willing.process.returncode == -signal.SIGTERM
    assert deaf.process.returncode == -signal.SIGKILL
    assert children.deaths() == [], "an end that was asked for is no death"


def test_many_children_that_do_not_listen_take_no_longer_than_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_S", 2.0)
    children = Children()
    deaf = [stubborn(children, tmp_path / str(number)) for number in range(8)]
    started = time.monotonic()
    children.stop()
    assert time.monotonic() - started < 8.0, "eight times two seconds if they were waited for in turn"
    assert {child.process.returncode for child in deaf} == {-signal.SIGKILL}


def test_stop_may_be_called_twice_and_after_a_death(tmp_path: Path) -> None:
    with Children() as children:
        dead(children.start("a child", python("pass"), tmp_path / "log"))
        children.stop()
        children.stop()


def test_kill_ends_all_children_at_once(tmp_path: Path) -> None:
    with Children() as children:
        deaf = [stubborn(children, tmp_path / str(number)) for number in range(2)]
        children.kill()
        assert [dead(child).process.returncode for child in deaf] == [-signal.SIGKILL] * 2
