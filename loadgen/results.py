"""Where does the report go? A folder that is made, tried and given its space before anything starts, so that no result is lost at the end."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from loadgen.errors import LoadgenError, RefusedError

if TYPE_CHECKING:
    from types import TracebackType

RESERVE_BYTES = 1 << 20
"""Space that is set aside for the report at the start; one of ten clients and three phases takes some 60 KB."""


class ResultFolder:
    """The folder of one run's results. As a context manager it removes what it made if no report was written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.report = path / "report.json"
        self._reserve = path / ".report.json.new"
        self._made: list[Path] = []

    def __enter__(self) -> Self:
        try:
            self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            with self._reserve.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
        except OSError as error:
            self._remove()
            raise RefusedError(
                f"the result folder {self.path} cannot be written: {error.strerror}",
                hint="free some space there, or choose another folder with --out",
            ) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._remove()

    def write_report(self, text: str) -> Path:
        """Write ``report.json`` and give its path; if the folder has become unwritable, write to the temporary folder instead.

        Raises LoadgenError if that fails too.
        """
        try:
            with self._reserve.open("r+" if self._reserve.exists() else "w", encoding="utf-8") as file:
                file.write(text)
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
            self._reserve.replace(self.report)
        except OSError as error:
            return _rescue(text, error)
        return self.report

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self._reserve.unlink(missing_ok=True)
        for folder in self._made:
            with contextlib.suppress(OSError):  # not empty: there are results in it
                folder.rmdir()


def _rescue(text: str, cause: OSError) -> Path:
    try:
        with tempfile.NamedTemporaryFile("w", prefix="loadgen-report-", suffix=".json", delete=False, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise LoadgenError(f"the report could not be written: {cause.strerror}", hint="free some space and run again") from error
    return Path(file.name)
