"""Where is the journal on this machine? A file for each run, so that a change can be undone when the cluster's copy is gone.

``${XDG_STATE_HOME:-~/.local/state}/loadgen/<run id>.json``, readable by its owner only; a write is on the disk when it returns.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from loadgen.cluster.journal import JournalError, Record
from loadgen.errors import RefusedError, writing_hint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def state_folder() -> Path:
    """Give the folder of all journals of this user."""
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".local" / "state") / "loadgen"
    except RuntimeError:  # a container's user need not have a home
        return Path("/nonexistent/loadgen")


class JournalFile:
    """The journal's copy on this machine. Once it was written, a disk that fills up later does not stop the run; ``tell`` hears of it."""

    def __init__(self, run_id: str, folder: Path | None = None, *, tell: Callable[[str], None] = lambda _: None) -> None:
        self.path = (folder or state_folder()) / f"{run_id}.json"
        self._tell = tell
        self._is_well = True

    def prepare(self) -> None:
        """Make the folder, and see that it can be written.

        Raises RefusedError if it cannot.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write("")
            self.remove()
        except OSError as error:
            message = f"the folder for journals {self.path.parent} cannot be written: {error.strerror}"
            raise RefusedError(message, hint=writing_hint(error, "set XDG_STATE_HOME to another folder")) from error

    def write(self, text: str) -> None:
        """Replace the journal in one step, down to the disk. What goes wrong is told once: the cluster's copy is the one that counts."""
        try:
            self._write(text)
        except OSError as error:
            if self._is_well:
                self._tell(
                    f"the journal's copy {self.path} cannot be written ({error.strerror}); the one in the cluster is enough while it is there"
                )
            self._is_well = False
        else:
            self._is_well = True

    def _write(self, text: str) -> None:
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123  # a descriptor, for its mode from the start
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync(self.path.parent)

    def remove(self) -> None:
        """Remove the journal."""
        with contextlib.suppress(OSError):
            self.path.unlink()


def left_behind(folder: Path | None = None) -> Iterator[tuple[JournalFile, Record | JournalError]]:
    """Give every journal on this machine with what it says, or why it cannot be read."""
    for path in sorted((folder or state_folder()).glob("*.json")):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            yield JournalFile(path.stem, path.parent), JournalError(f"the journal {path} cannot be read: {error}")
            continue
        try:
            yield JournalFile(path.stem, path.parent), Record.of_text(text, f"the journal {path}")
        except JournalError as error:
            yield JournalFile(path.stem, path.parent), error


def _sync(folder: Path) -> None:
    """Put a rename on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
