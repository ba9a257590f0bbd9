"""Where does the report go, and how is it read again?

A run's folder is made, tried and given its space before anything starts, so that no result is lost at the end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from loadgen.errors import RefusedError, UnwrittenError, UsageError, printable, writing_hint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from loadgen.report import Report
    from loadgen.series import Series

T = TypeVar("T")

RESERVE_BYTES = 1 << 20
"""Space that is tried at the start; the report of ten clients and three phases takes some 60 KB, and its time series less than a second's worth of that."""
TRIES = 100
"""So often a folder is made anew that runs which end at the same time remove again."""
REPORT_FILE = "report.json"
SERIES_FILE = "series.json.gz"
MAX_BYTES = 64 << 20
"""The largest report that is read; one of 200 clients and 20 phases takes some 8 MB."""
_HINT = "name the report.json of a run, or its folder"
_ELSEWHERE = "choose another folder with --out"


class ResultFolder:
    """The folder of one run's results. As a context manager it removes what it made if no report was written.

    With ``fresh`` a folder that exists is left alone and a number is put behind the name: two runs of a second do not meet.
    With ``exclusive`` it is refused while another process has it so; the lock is the kernel's, and ends with the process however that ends.
    """

    def __init__(self, path: Path, *, fresh: bool = False, exclusive: bool = False) -> None:
        self.path = path
        self._fresh = fresh
        self._exclusive = exclusive
        self._lock: int | None = None
        self._made: list[Path] = []

    @property
    def report(self) -> Path:
        """Where the report goes."""
        return self.path / REPORT_FILE

    def __enter__(self) -> Self:
        try:
            self._made = [folder for folder in self.path.parents if not folder.exists()]
            self._make()
            if self._exclusive:
                self._take_lock()
            self._try_space()
        except OSError as error:
            self._remove()
            in_the_way = isinstance(error, (FileExistsError, NotADirectoryError))
            reason = "a file stands where a folder must be" if in_the_way else error.strerror
            raise RefusedError(
                f"the result folder {self.path} cannot be written: {reason}", hint=writing_hint(error, _ELSEWHERE)
            ) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._remove()

    def _take_lock(self) -> None:
        """Lock the folder itself, so that no file is left; where a file system has no such lock, or the folder cannot be read, go on without.

        A run that has just ended may have removed the folder between opening and locking; then it is made anew. Raises RefusedError if another run has it.
        """
        for _ in range(TRIES):
            try:
                self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._remove()
                raise RefusedError(
                    f"another run that has not ended writes its results to {self.path}", hint=f"wait for its end, or {_ELSEWHERE}"
                ) from error
            except FileNotFoundError:
                pass
            except OSError:
                return
            if self._lock is not None and self._is_there(self._lock):
                return
            self._let_go()
            self._make()

    def _is_there(self, lock: int) -> bool:
        """Tell whether what is locked is the folder that has the name now."""
        try:
            return os.path.samestat(os.fstat(lock), self.path.stat())
        except FileNotFoundError:
            return False

    def _make(self) -> None:
        wanted = self.path
        wanted.parent.mkdir(parents=True, exist_ok=True)
        for number in range(2, 1000):
            try:
                self.path.mkdir()
            except FileExistsError:
                if not self._fresh and self.path.is_dir():
                    return
                if not self._fresh and self.path.exists():
                    raise
                if not self._fresh:
                    continue  # a run that has just ended has removed it meanwhile
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

        The time series of an earlier run goes first: whatever happens next, it is not taken for this one's.
        Raises UnwrittenError if the report can be written nowhere.
        """
        try:
            (self.path / SERIES_FILE).unlink(missing_ok=True)
            self._write(self.report, text.encode())
        except OSError as error:
            return _rescue(text, error)
        return self.report

    def write(self, name: str, data: bytes) -> None:
        """Write one more file in one step, beside the report.

        Raises UnwrittenError if it cannot be written; the report does not need it.
        """
        try:
            self._write(self.path / name, data)
        except OSError as error:
            raise UnwrittenError(
                f"{self.path / name} could not be written: {error.strerror}", hint=writing_hint(error, _ELSEWHERE)
            ) from error

    def write_series(self, data: bytes) -> None:
        """Write ``series.json.gz`` in one step, beside the report.

        Raises UnwrittenError if it cannot be written; the report does not need it.
        """
        try:
            self._write(self.path / SERIES_FILE, data)
        except OSError as error:
            raise UnwrittenError(f"the time series could not be written: {error.strerror}", hint=writing_hint(error, _ELSEWHERE)) from error

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
        """Remove what is empty of what was made, then let go of it: the next run must not be given a folder that is about to be removed."""
        for folder in self._made:
            with contextlib.suppress(OSError):  # not empty: there are results in it
                folder.rmdir()
        self._let_go()

    def _let_go(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _rescue(text: str, cause: OSError) -> Path:
    try:
        with tempfile.NamedTemporaryFile("w", prefix="loadgen-report-", suffix=".json", delete=False, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UnwrittenError(f"the report could not be written: {cause.strerror}", hint=writing_hint(cause, _ELSEWHERE)) from error
    return Path(file.name)


@dataclass(frozen=True, slots=True)
class Saved:
    """A run's result as its folder holds it; ``path`` is the report's.

    ``series`` is None if there is none beside the report, or if it is larger than what is read: ``left_out`` then says so.
    """

    path: Path
    report: Report
    series: Series | None
    left_out: str = ""


def read_result(path: Path) -> Saved:
    """Read a report, named by its file or its folder, and the time series beside it if there is one.

    The law: what is read together is of one run, for a run's series has exactly the requests of its report.
    Raises UsageError that says why if a file cannot be read or is not what it should be.
    """
    from loadgen import series as beside  # noqa: PLC0415  # a run that is about to start need not wait for it
    from loadgen.report import Report  # noqa: PLC0415

    with _reading(path):
        file = path / REPORT_FILE if path.is_dir() else path
    report = _parsed(file, Report.of_json, MAX_BYTES)
    series_file = file.with_name(SERIES_FILE)
    with _reading(series_file):
        if not series_file.exists():
            return Saved(file, report, None)
    try:
        series = _parsed(series_file, beside.Series.of_bytes, beside.MAX_BYTES, beside.TooLargeError)
    except beside.TooLargeError as error:
        return Saved(file, report, None, error.message)
    other = [phase.name for phase in report.phases if series.requests_of(phase.name) != _occurred(phase.outcomes)]
    if other:
        raise UsageError(
            f"{printable(str(series_file))} is of another run than {printable(file.name)}: it has other requests of phase {printable(other[0])}",
            hint=f"keep each run in a folder of its own; without {SERIES_FILE} a report is read alone",
        )
    return Saved(file, report, series)


def _occurred(outcomes: Mapping[str, int]) -> dict[str, int]:
    return {outcome: count for outcome, count in outcomes.items() if count}


def _parsed(path: Path, parse: Callable[[bytes], T], max_bytes: int, too_large: type[UsageError] = UsageError) -> T:
    shown = printable(str(path))
    with _reading(path):
        if path.exists() and not path.is_file():
            raise UsageError(f"{shown} is no regular file", hint=_HINT)
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise too_large(f"{shown} is larger than {max_bytes:,} bytes", hint=_HINT)
    try:
        return parse(data)
    except UsageError as error:
        raise type(error)(f"{shown}: {error.message}", hint=error.hint) from error


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say of a file that cannot be looked at or read which one it is, and why."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{printable(str(path))} cannot be read: {reason}", hint=_HINT) from error
