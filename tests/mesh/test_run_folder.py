"""Is nothing left of a mesh's folder, whoever has to remove it, and does nobody else get at it?"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import namedtuple
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from loadgen.errors import RefusedError
from loadgen.mesh import run_folder as module
from loadgen.mesh.run_folder import live_folders, locked, parent_folder, run_folder, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OTHER = """
import sys
from loadgen.mesh.run_folder import run_folder
with run_folder() as folder:
    print(folder, flush=True)
    sys.stdin.readline()
"""
NAME = f"loadgen-{os.getuid()}"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the folders of these tests be under a temporary folder of their own, in this process and in those it starts."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@contextmanager
def another_process() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Run another process with a run folder of its own."""
    with subprocess.Popen([sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, parent_folder() / process.stdout.readline().strip().rpartition("/")[2]


def test_the_folder_is_ours_alone_while_it_lives_and_gone_afterwards(temporary: Path) -> None:
    with run_folder() as folder:
        assert folder.parent == temporary / NAME
        assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700
        (folder / "client-1").mkdir()
        (folder / "client-1" / "cds.json").write_text("{}")
        assert live_folders() == [folder]
    assert not folder.exists()
    assert live_folders() == []


def test_the_folder_is_removed_when_the_run_fails() -> None:
    seen: list[Path] = []

    def fail() -> None:
        with run_folder() as folder:
            (folder / "file").write_text("")
            seen.append(folder)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not seen[0].exists()


def test_the_folder_may_be_removed_before_its_owner_ends() -> None:
    with run_folder() as folder:
        shutil.rmtree(folder)


def test_two_runs_at_once_have_a_folder_each() -> None:
    with run_folder() as one, run_folder() as other:
        assert one != other
        assert live_folders() == sorted([one, other])


def test_what_a_killed_process_left_is_removed_by_the_next_start() -> None:
    with another_process() as (process, folder):
        assert folder in live_folders()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert folder.is_dir()
        assert live_folders() == []
        with run_folder():
            assert not folder.exists()


def test_the_folder_of_a_process_that_lives_is_left_alone() -> None:
    with another_process() as (process, folder):
        with run_folder():
            assert folder.is_dir()
            assert folder in live_folders()
        assert folder.is_dir()
        process.communicate("\n")
        assert not folder.exists()


def test_a_left_over_without_a_lock_is_removed() -> None:
    left_over = parent_folder() / "1-abcdef"
    left_over.mkdir()
    with run_folder():
        assert not left_over.exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EINTR, errno.EIO])
def test_a_lock_that_cannot_be_asked_for_protects_its_folder(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: int, operation: int) -> None:
        if operation & fcntl.LOCK_NB:
            raise OSError(number, os.strerror(number))

    with run_folder() as folder:
        monkeypatch.setattr(fcntl, "flock", flock)
        assert live_folders() == [folder]


@pytest.mark.parametrize("mode", [0o701, 0o750, 0o777])
def test_a_parent_that_is_open_to_others_is_refused(temporary: Path, mode: int) -> None:
    (temporary / NAME).mkdir()
    (temporary / NAME).chmod(mode)
    with pytest.raises(RefusedError, match="is not ours alone") as raised, run_folder():
        pass
    assert raised.value.hint
    assert list((temporary / NAME).iterdir()) == []


def test_a_parent_that_is_a_symbolic_link_is_refused_and_nothing_behind_it_is_touched(temporary: Path) -> None:
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (elsewhere / "1-abcdef").mkdir()
    (temporary / NAME).symlink_to(elsewhere)
    with pytest.raises(RefusedError, match="is not ours alone"), run_folder():
        pass
    assert [path.name for path in elsewhere.iterdir()] == ["1-abcdef"]


def test_a_parent_of_somebody_else_is_refused(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    parent_folder()
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    (temporary / NAME).rename(temporary / f"loadgen-{uid + 1}")
    with pytest.raises(RefusedError, match="is not ours alone"):
        parent_folder()


@pytest.mark.parametrize("kind", ["a file", "a link to nowhere"])
def test_a_parent_that_is_no_folder_is_refused(temporary: Path, kind: str) -> None:
    if kind == "a file":
        (temporary / NAME).write_text("")
    else:
        (temporary / NAME).symlink_to(temporary / "nowhere")
    with pytest.raises(RefusedError, match="cannot make the temporary folder"):
        parent_folder()


def test_a_machine_without_any_temporary_folder_is_refused_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    def gettempdir() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", gettempdir)
    with pytest.raises(RefusedError, match="No usable temporary directory found") as raised, run_folder():
        pass
    assert "TMPDIR" in raised.value.hint


def test_a_disk_that_is_all_but_full_is_refused_and_nothing_is_left(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")  # noqa: PYI024  # what shutil returns
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 30, 1 << 30, 100 << 10))
    with pytest.raises(RefusedError, match="has only 100 KiB of free space"), run_folder():
        pass
    assert [path.name for path in (temporary / NAME).iterdir()] == ["lock"]


def test_a_lock_that_somebody_keeps_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_S", 0.1)
    with (
        locked(parent_folder() / "lock"),
        pytest.raises(RefusedError, match=r"another loadgen has held .*/lock for") as raised,
        run_folder(),
    ):
        pass
    assert raised.value.hint


# Files that others read while we write them.


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "cds.json"
    for text in ("one", "zwei — ü", ""):
        write_atomically(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [path]


def test_a_text_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "cds.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new" * 100_000 + "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_a_part_even_of_two_writers_at_once(tmp_path: Path) -> None:
    path = tmp_path / "cds.json"
    texts = {letter * (1 << 18) for letter in "ab"}
    write_atomically(path, next(iter(texts)))
    done = threading.Event()
    failures: list[BaseException] = []

    def write(text: str) -> None:
        try:
            for _ in range(150):
                write_atomically(path, text)
        except OSError as error:
            failures.append(error)

    def read() -> None:
        while not done.is_set():
            if path.read_text() not in texts:
                failures.append(AssertionError("a part was seen"))

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert failures == []
    assert list(tmp_path.glob("*cds.json*")) == [path]
