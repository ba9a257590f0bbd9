"""Is a result folder tried before the run, tidy without a result, and never the reason that a result is lost?"""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from loadgen.errors import ExitCode, RefusedError, UnwrittenError, writing_hint
from loadgen.results import RESERVE_BYTES, ResultFolder


def files(folder: Path) -> list[str]:
    """Name everything below a folder."""
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*"))


def fail(*_arguments: object, **_options: object) -> None:
    """Fail as a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_trying_the_space_leaves_nothing_that_a_killed_run_could_leave_behind(tmp_path: Path) -> None:
    with ResultFolder(tmp_path / "results" / "a") as folder:
        assert list(folder.path.iterdir()) == []


def test_two_fresh_folders_of_the_same_name_do_not_meet(tmp_path: Path) -> None:
    with ResultFolder(tmp_path / "a", fresh=True) as first, ResultFolder(tmp_path / "a", fresh=True) as second:
        first.write_report("first")
        second.write_report("second")
    assert files(tmp_path) == ["a", "a-2", "a-2/report.json", "a/report.json"]
    assert first.report.read_text() == "first"


def test_a_folder_that_a_run_has_is_refused_to_another_before_anything_is_touched(tmp_path: Path) -> None:
    with ResultFolder(tmp_path / "a", exclusive=True) as folder:
        folder.write_report("first")
        with pytest.raises(RefusedError, match="another run that has not ended writes its results to") as caught:
            ResultFolder(tmp_path / "a", exclusive=True).__enter__()
        assert caught.value.hint == "wait for its end, or choose another folder with --out"
        assert (files(tmp_path), folder.report.read_text()) == (["a", "a/report.json"], "first")
        with ResultFolder(tmp_path / "a") as other:
            other.write("report.md", b"what is rendered from a report needs no lock")
    with ResultFolder(tmp_path / "a", exclusive=True) as folder:
        folder.write_report("second")
    assert (files(tmp_path), folder.report.read_text()) == (["a", "a/report.json", "a/report.md"], "second")


HOLDER = """
import pathlib, sys, time
from loadgen.results import ResultFolder
with ResultFolder(pathlib.Path(sys.argv[1]), exclusive=True):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_run_that_was_killed_leaves_no_lock(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(RefusedError, match="another run"):
            ResultFolder(tmp_path / "a", exclusive=True).__enter__()
        process.kill()
    assert files(tmp_path) == ["a"]
    with ResultFolder(tmp_path / "a", exclusive=True) as folder:
        folder.write_report("{}")


def test_a_folder_that_another_run_removes_while_it_is_locked_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, locked = tmp_path / "results", fcntl.flock
    left = ["gone", "made by the next one"]

    def flock(file: int, operation: int) -> None:
        if left:
            folder.rmdir()
            if left.pop() == "made by the next one":
                folder.mkdir()
        locked(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with ResultFolder(folder, exclusive=True) as results:
        with pytest.raises(RefusedError, match="another run"), ResultFolder(folder, exclusive=True):
            pass
        results.write_report("{}")
    assert (folder / "report.json").read_text() == "{}"


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.EINTR])
def test_a_file_system_without_locks_does_not_keep_a_run_from_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(_file: int, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with ResultFolder(tmp_path / "a", exclusive=True) as folder:
        folder.write_report("{}")
    assert files(tmp_path) == ["a", "a/report.json"]


def test_a_folder_that_may_be_written_and_not_read_needs_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    folder = ResultFolder(tmp_path, exclusive=True)
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        patched.setattr(ResultFolder, "_try_space", lambda _: None)
        folder.__enter__()
    folder.write_report("{}")
    folder.__exit__(None, None, None)
    assert files(tmp_path) == ["report.json"]


def test_a_report_is_all_that_is_left(tmp_path: Path) -> None:
    with ResultFolder(tmp_path / "results" / "a") as folder:
        path = folder.write_report('{"name": "\u00e9"}\n')
    assert path == folder.report == tmp_path / "results" / "a" / "report.json"
    assert path.read_bytes() == '{"name": "\u00e9"}\n'.encode()
    assert files(tmp_path) == ["results", "results/a", "results/a/report.json"]


def test_a_report_that_is_longer_than_the_reserve_is_whole(tmp_path: Path) -> None:
    text = "x" * (3 * RESERVE_BYTES)
    with ResultFolder(tmp_path) as folder:
        assert folder.write_report(text).read_text() == text


def test_a_second_report_replaces_the_first(tmp_path: Path) -> None:
    with ResultFolder(tmp_path) as folder:
        folder.write_report("the first one, which is longer")
        folder.write_report("second")
    assert (files(tmp_path), folder.report.read_text()) == (["report.json"], "second")


def test_the_series_of_an_earlier_run_is_gone_before_there_is_a_new_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ResultFolder(tmp_path) as folder:
        folder.write_report("old")
        folder.write_series(b"old")
    with ResultFolder(tmp_path) as folder:
        folder.write_report("new")
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(UnwrittenError, match="the time series could not be written"):
            folder.write_series(b"new")
    assert (files(tmp_path), folder.report.read_text()) == (["report.json"], "new")


@pytest.mark.parametrize(("found", "ends"), [(ExitCode.OK, 3), (ExitCode.EXPECTATIONS_FAILED, 99), (ExitCode.INVALID, 4)])
def test_a_full_disk_is_no_bug_and_hides_nothing_that_the_run_has_shown(found: ExitCode, ends: int) -> None:
    assert UnwrittenError("the disk is full").ending_with(found).exit_code == ends


def test_an_older_report_stays_until_a_new_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("old")
    with ResultFolder(tmp_path) as folder:
        assert folder.report.read_text() == "old"
    assert (files(tmp_path), folder.report.read_text()) == (["report.json"], "old")
    with ResultFolder(tmp_path) as folder:
        folder.write_report("new")
    assert folder.report.read_text() == "new"


def test_what_was_made_is_removed_if_nothing_was_written(tmp_path: Path) -> None:
    with ResultFolder(tmp_path / "a" / "b" / "c"):
        pass
    assert files(tmp_path) == []


def test_a_run_that_breaks_leaves_no_folder_and_keeps_its_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), ResultFolder(tmp_path / "a"):
        _ = 1 / 0
    assert files(tmp_path) == []


def test_what_was_there_before_or_came_from_others_stays(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with ResultFolder(tmp_path / "a" / "b" / "c") as folder:
        (folder.path.parent / "notes.txt").write_text("mine")
    assert files(tmp_path) == ["a", "a/b", "a/b/notes.txt"]
    with ResultFolder(tmp_path / "a"):
        pass
    assert files(tmp_path) == ["a", "a/b", "a/b/notes.txt"]


def test_a_relative_folder_is_made_where_the_user_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with ResultFolder(Path("results/a")) as folder:
        folder.write_report("{}")
    assert files(tmp_path) == ["results", "results/a", "results/a/report.json"]


@pytest.mark.parametrize("path", ["file", "file/a", "file/a/b", "x" * 300])
def test_a_folder_that_cannot_be_made_refuses_the_run_and_changes_nothing(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RefusedError, match=r"^the result folder .* cannot be written: ") as caught, ResultFolder(tmp_path / path):
        raise AssertionError("the run was started")
    assert "--out" in caught.value.hint
    assert ("a file stands where a folder must be" in caught.value.message) is path.startswith("file")
    assert caught.value.hint == "choose another folder with --out"
    assert (files(tmp_path), (tmp_path / "file").read_text()) == (["file"], "mine")


def test_a_full_disk_refuses_the_run_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    with pytest.raises(RefusedError, match="cannot be written: No space left on device") as caught, ResultFolder(tmp_path / "a" / "b"):
        raise AssertionError("the run was started")
    assert caught.value.hint == SPACE_OR_ELSEWHERE
    assert files(tmp_path) == []


def test_a_report_is_saved_elsewhere_if_the_folder_is_lost_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rescue = tmp_path / "rescue"
    rescue.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(rescue))
    with ResultFolder(tmp_path / "a") as folder:
        for each in folder.path.iterdir():
            each.unlink()
        folder.path.rmdir()
        folder.path.write_text("somebody else's")
        saved = folder.write_report("{}")
    assert (saved.parent, saved.read_text()) == (rescue, "{}")
    assert saved.name.startswith("loadgen-report-")
    assert folder.path.read_text() == "somebody else's"


def test_a_disk_that_fills_up_meanwhile_does_not_leave_half_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rescue = tmp_path / "rescue"
    rescue.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(rescue))
    with ResultFolder(tmp_path / "a") as folder:
        monkeypatch.setattr(os, "fsync", fail)
        saved = folder.write_report("{}")
    assert files(tmp_path) == ["rescue", f"rescue/{saved.name}"]


def test_a_report_that_can_be_saved_nowhere_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    monkeypatch.setattr(os, "fsync", fail)
    with (
        ResultFolder(tmp_path / "a") as folder,
        pytest.raises(UnwrittenError, match=r"^the report could not be written: No space left on device$") as caught,
    ):
        folder.write_report("{}")
    assert caught.value.hint == SPACE_OR_ELSEWHERE
    assert files(tmp_path) == []


SPACE_OR_ELSEWHERE = "free some space there, or choose another folder with --out"
HINTS = [
    (errno.ENOSPC, SPACE_OR_ELSEWHERE),
    (errno.EDQUOT, SPACE_OR_ELSEWHERE),
    (errno.EACCES, "choose another folder with --out"),
    (errno.EROFS, "choose another folder with --out"),
    (errno.EIO, ""),
    (errno.EMFILE, ""),
]


@pytest.mark.parametrize(("number", "hint"), HINTS)
def test_what_could_not_be_written_comes_with_what_helps_against_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, hint: str
) -> None:
    def refuse(_file: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with ResultFolder(tmp_path / "a") as folder:
        monkeypatch.setattr(os, "fsync", refuse)
        writes = (lambda: folder.write_report("{}"), lambda: folder.write_series(b""), lambda: folder.write("report.md", b""))
        for write in writes:
            with pytest.raises(UnwrittenError, match="could not be written") as caught:
                write()
            assert caught.value.hint == hint


@pytest.mark.parametrize(("number", "hint"), [(errno.ENOSPC, "free some space there"), (errno.EACCES, ""), (errno.EIO, "")])
def test_where_there_is_no_other_place_only_space_is_asked_for(number: int, hint: str) -> None:
    assert writing_hint(OSError(number, os.strerror(number))) == hint
