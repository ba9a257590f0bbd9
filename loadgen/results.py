"""Where does the report go, and how is it read again?

A run's folder is made, tried and given its space before anything starts, so that no result is lost at the end.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from loadgen.errors import LoadgenError, RefusedError, UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from loadgen.report import Report
    from loadgen.series import Series

T = TypeVar("T")

RESERVE_BYTES = 1 << 20
"""Space that is tried at the start; the report of ten clients and three phases takes some 60 KB, and its time series less than a second's worth of that."""
REPORT_FILE = "report.json"
SERIES_FILE = "series.json.gz"
MAX_BYTES = 64 << 20
"""The largest report that is read; one of 200 clients and 20 phases takes some 8 MB."""


class ResultFolder:
    """The folder of one run's results. As a context manager it removes what it made if no report was written.

    With ``fresh`` a folder that exists is left alone and a number is put behind the name: two runs of a second do not meet.
    """

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self.path = path
        self._fresh = fresh
        self._made: list[Path] = []

    @property
    def report(self) -> Path:
        """Where the report goes."""
        return self.path / REPORT_FILE

    def __enter__(self) -> Self:
        try:
            self._made = [folder for folder in self.path.parents if not folder.exists()]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._make()
            self._try_space()
        except OSError as error:
            self._remove()
            hint = "free some space there, or choose another folder with --out"
            raise RefusedError(f"the result folder {self.path} cannot be written: {error.strerror}", hint=hint) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._remove()

    def _make(self) -> None:
        wanted = self.path
        for number in range(2, 1000):
            try:
                self.path.mkdir()
            except FileExistsError:
                if not self._fresh and self.path.is_dir():
                    return
                if not self._fresh:
                    raise
                self.path = wanted.with_name(f"{wanted.name}-{number}")
            else:
                self._made.insert(0, self.path)
                return

    def _try_space(self) -> None:
        """Write and remove as much as a report may need: better to hear of a full disk now than at the end."""
        with tempfile.TemporaryFile(dir=self.path) as file:
            file.write(bytes(RESERVE_BYTES))
            file.flush()

    def write_report(self, text: str) -> Path:
        """Write ``report.json`` in one step and give its path; if the folder has become unwritable, write to the temporary folder instead.

        Raises LoadgenError if that fails too.
        """
        try:
            self._write(self.report, text.encode())
        except OSError as error:
            return _rescue(text, error)
        return self.report

    def write(self, name: str, data: bytes) -> None:
        """Write one more file in one step, beside the report.

        Raises LoadgenError if it cannot be written; the report does not need it.
        """
        try:
            self._write(self.path / name, data)
        except OSError as error:
            raise LoadgenError(f"{self.path / name} could not be written: {error.strerror}", hint="free some space there") from error

    def write_series(self, data: bytes) -> None:
        """Write ``series.json.gz`` in one step, beside the report.

        Raises LoadgenError if it cannot be written; the report does not need it.
        """
        try:
            self._write(self.path / SERIES_FILE, data)
        except OSError as error:
            raise LoadgenError(f"the time series could not be written: {error.strerror}", hint="free some space and run again") from error

    def _write(self, path: Path, data: bytes) -> None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def _remove(self) -> None:
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


@dataclass(frozen=True, slots=True)
class Saved:
    """A run's result as its folder holds it. ``series`` is None if there is none beside the report, ``path`` is the report's."""

    path: Path
    report: Report
    series: Series | None


def read_result(path: Path) -> Saved:
    """Read a report, named by its file or its folder, and the time series beside it if there is one.

    Raises UsageError that says why if a file cannot be read or is not what it should be.
    """
    from loadgen.report import Report  # noqa: PLC0415  # a run that is about to start need not wait for it
    from loadgen.series import Series  # noqa: PLC0415

    file = path / REPORT_FILE if path.is_dir() else path
    beside = file.with_name(SERIES_FILE)
    report = _parsed(file, Report.of_json)
    return Saved(file, report, _parsed(beside, Series.of_bytes) if beside.exists() else None)


def _parsed(path: Path, parse: Callable[[bytes], T]) -> T:
    shown = printable(str(path))
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{shown} is no regular file", hint="name the report.json of a run, or its folder")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{shown} cannot be read: {reason}", hint="name the report.json of a run, or its folder") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"{shown} is larger than {MAX_BYTES:,} bytes", hint="name the report.json of a run, or its folder")
    try:
        return parse(data)
    except UsageError as error:
        raise UsageError(f"{shown}: {error.message}", hint=error.hint) from error
