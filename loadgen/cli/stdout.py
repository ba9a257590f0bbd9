"""What if a result cannot be printed? Somebody who has seen enough is no error, a full disk is one; for what is said beside it neither is."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, Any

from loadgen.errors import UnwrittenError, writing_hint

if TYPE_CHECKING:
    from collections.abc import Iterator


class Stdout(io.TextIOWrapper):
    """stdout that knows its own errors: of any other OSError that nobody foresaw, the traceback is wanted."""

    failure: OSError | None = None

    def write(self, text: str, /) -> int:
        """Write a text."""
        with self._noting():
            return super().write(text)

    def flush(self) -> None:
        """Write what was held back."""
        with self._noting():
            super().flush()

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
            raise


class Losing(io.FileIO):
    """A stream that loses what cannot be written: what is said beside a result is worth less than it, and its exit code."""

    def write(self, data: Any, /) -> int:
        """Write, or lose it."""
        with contextlib.suppress(OSError):
            return super().write(data) or 0
        return len(data)


@contextlib.contextmanager
def printing_all() -> Iterator[None]:
    """Run a command within this: what it prints outside of ``printing`` and does not fit on stdout is an error, too.

    Raises UnwrittenError if something cannot be printed.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(sys.stdout, Stdout) or sys.stdout.failure is not error:
            raise
        _give_up("the output", error)


@contextlib.contextmanager
def printing(what: str) -> Iterator[None]:
    """Print to stdout within this, all of it; ``what`` is what is printed. That its reader ends early (``| head``) changes nothing.

    Raises UnwrittenError if it cannot be printed.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        _give_up(what, error)


def _give_up(what: str, error: OSError) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes stdout once more at exit
    if not isinstance(error, BrokenPipeError):
        raise UnwrittenError(f"{what} cannot be printed: {error.strerror}", hint=writing_hint(error)) from error
