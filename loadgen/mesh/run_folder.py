"""Where does a running mesh keep its files, and who removes them if it cannot?

``<temporary folder>/loadgen-<uid>/<pid>-<random>/`` with a file ``lock`` that the owner holds locked while it lives. The lock goes with
the process, however it ends, so any folder whose lock is free is left over from a crash: the next start removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from loadgen.errors import RefusedError, writing_hint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LOCK = "lock"
MIN_FREE_BYTES = 16 << 20
LOCK_S = 10.0
LOCK_POLL_S = 0.02
_TMPDIR = "set TMPDIR to a folder that can be written"


def parent_folder() -> Path:
    """Give the folder of all run folders of this user.

    Raises RefusedError if it belongs to somebody else or is open to others: its files tell Envoy what to do.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"loadgen-{os.getuid()}"
    except OSError as error:
        raise RefusedError(str(error.strerror), hint=f"free some space, or {_TMPDIR}") from error  # it was one of both
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise RefusedError(
            f"cannot make the temporary folder {folder}: {error.strerror}",
            hint=writing_hint(error, _TMPDIR),
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise RefusedError(f"the temporary folder {folder} is not ours alone", hint="remove it, or set TMPDIR to another folder")
    return folder


@contextlib.contextmanager
def run_folder() -> Iterator[Path]:
    """Make a folder for one mesh, and remove it afterwards; left-overs of crashed ones are removed first."""
    parent = parent_folder()
    folder = parent / f"{os.getpid()}-{secrets.token_hex(3)}"
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)  # from before it is made on: a ^C may come at any moment
        try:
            with locked(parent / _LOCK):
                _sweep(parent)
                folder.mkdir(mode=0o700)
                _check_space(folder)
                lock = stack.enter_context((folder / _LOCK).open("wb"))
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise RefusedError(
                f"cannot make the temporary folder {folder}: {error.strerror}",
                hint=writing_hint(error, _TMPDIR),
            ) from error
        yield folder


def _check_space(folder: Path) -> None:
    """Refuse a disk that is all but full: Envoy would not say what is wrong, it would just never become ready."""
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        folder.rmdir()
        message = (
            f"the temporary folder {folder.parent} has only {free // 1024:,} KiB of free space, {MIN_FREE_BYTES // 1024:,} KiB are needed"
        )
        raise RefusedError(message, hint="free some space, or set TMPDIR to another folder")


def live_folders() -> list[Path]:
    """Give the folders of all meshes of this user that run now."""
    return [folder for folder in sorted(parent_folder().iterdir()) if folder.is_dir() and not _is_abandoned(folder)]


def _sweep(parent: Path) -> None:
    for folder in parent.iterdir():
        if folder.is_dir() and _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    try:
        with (folder / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except OSError:  # it is locked, or we cannot know: then it is not ours to remove
        return False
    return True


@contextlib.contextmanager
def locked(path: Path, wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock file while the block runs; waits for whoever holds it, but not for ever. ``wait`` hears that somebody does.

    Raises RefusedError if it is not free within 10 s: its holder may be stopped (^Z).
    """
    deadline, waiting = time.monotonic() + LOCK_S, False
    with path.open("wb") as file:
        while not _try_lock(file):
            if not waiting:
                waiting = True
                wait()
            if time.monotonic() > deadline:
                raise RefusedError(
                    f"another loadgen has held {path} for {LOCK_S:.0f} s",
                    hint="a test of Locust's holds it until it ends; otherwise look for one that is stopped, and continue or end it",
                )
            time.sleep(LOCK_POLL_S)
        yield


def _try_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one step: a reader sees the old or the new text, never a part. Envoy reacts to the rename only."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # one for each writer, or two would write into each other's
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
