"""What can go wrong with loadgen itself, and the exit code each kind ends with.

A request that fails is no error: it is an ``Outcome``. Only a broken harness, a wrong input or a refused start raises.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence


class ExitCode(IntEnum):
    """The published exit codes. If several apply: 5, then 4, then 99."""

    OK = 0
    BUG = 1
    USAGE = 2
    REFUSED = 3
    INVALID = 4
    RESTORE_FAILED = 5
    EXPECTATIONS_FAILED = 99
    HANGUP = 129
    INTERRUPTED = 130
    TERMINATED = 143


class LoadgenError(Exception):
    """Base of our own errors: one sentence that says what happened, one that says what to do next."""

    exit_code = ExitCode.BUG

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def in_a_line(self) -> str:
        """What happened and what to do next, where there is one line for both."""
        return f"{self.message}; {self.hint}" if self.hint else self.message

    def ending_with(self, code: ExitCode) -> Self:
        """Let what a command has found out decide its exit code; if that is 0, this error's own."""
        self.exit_code = code or self.exit_code
        return self


class UsageError(LoadgenError):
    """The command line asks for something that does not exist or does not fit together."""

    exit_code = ExitCode.USAGE


class RefusedError(LoadgenError):
    """Something that a run needs is missing; nothing was started or changed."""

    exit_code = ExitCode.REFUSED


class UnwrittenError(LoadgenError):
    """What was measured or rendered cannot be written: the disk is full, or closed to us."""

    exit_code = ExitCode.REFUSED


class MeshError(LoadgenError):
    """A part of the mesh died, refused its configuration or did not answer: the run cannot be trusted."""

    exit_code = ExitCode.INVALID


class PolicyLostError(MeshError):
    """The policy is no longer the run's alone: somebody changed it, or may."""


class HammerError(LoadgenError):
    """A process that sends load died: the run cannot be trusted."""

    exit_code = ExitCode.INVALID


class InvalidError(LoadgenError):
    """A saved run is INVALID, and what was asked for would trust its figures."""

    exit_code = ExitCode.INVALID


class UnverifiedError(LoadgenError):
    """A change was begun, and it is not known whether it is in force everywhere."""

    exit_code = ExitCode.RESTORE_FAILED


class Severity(StrEnum):
    """How bad a problem is: an error stops the run before it starts, a warning is shown and the run goes on."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in an input file, with everything a person needs to mend it.

    ``line`` and ``column`` count from 1; 0 means the whole file. ``excerpt`` is the offending line as it stands in the
    file, ``width`` the number of characters to underline from ``column`` on. ``code`` is stable, for machines.
    """

    file: str
    line: int
    column: int
    message: str
    hint: str = ""
    code: str = "invalid"
    severity: Severity = Severity.ERROR
    excerpt: str = ""
    width: int = 1

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        lines = [f"{printable(place)}: {self.severity}: {_sentence(self.message)}"]
        if self.excerpt:
            lines += underline(self.line, self.column, self.width, self.excerpt)
        if self.hint:
            lines.append(f"   hint: {_sentence(self.hint)}")
        return "\n".join(lines)


class InputError(LoadgenError):
    """An input file has mistakes; all that were found are in ``problems``."""

    exit_code = ExitCode.USAGE

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = sum(problem.severity is Severity.ERROR for problem in self.problems)
        super().__init__(f"{count} mistake{'s' if count != 1 else ''} found; nothing was started or changed")


REPEATED_CHARACTERS = 60
"""How much of a value from outside a message repeats."""
EXCERPT_CHARACTERS = 120
"""A longer line is cut around the offending text."""
SENTENCE_CHARACTERS = 1000
"""A longer message repeats too much of a file."""
MAX_PROBLEMS = 100
"""A check that found so many mistakes of one kind stops looking: nobody reads more, and some take time."""


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_WRONG_PLACE = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.EEXIST,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.ELOOP,
    }
)


def writing_hint(error: OSError, elsewhere: str = "") -> str:
    """Say what to do about a file that could not be written, as far as the error tells: empty if it tells nothing.

    A full disk or quota wants space, a place that is closed to us or cannot be one wants another: ``elsewhere`` says how that is chosen.
    """
    if error.errno in _FULL:
        return f"free some space there, or {elsewhere}" if elsewhere else "free some space there"
    return elsewhere if error.errno in _WRONG_PLACE else ""


def printable(text: str) -> str:
    r"""Escape control characters, so that untrusted text cannot drive a terminal: a tab becomes ``\t``."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def printable_lines(text: str) -> list[str]:
    """Give the lines of a text from outside, each of them printable."""
    return [printable(line) for line in text.split("\n")]


def repeated(value: object) -> str:
    """Repeat a value from outside in a message: its beginning, and without what could drive a terminal."""
    return printable(str(value)[:REPEATED_CHARACTERS])


def _sentence(text: str) -> str:
    return printable(text if len(text) <= SENTENCE_CHARACTERS else f"{text[:SENTENCE_CHARACTERS]}…")


def underline(line: int, column: int, width: int, excerpt: str) -> list[str]:
    """Give the offending line with its number, and below it carets under the offending text."""
    start = max(0, column - 1 - EXCERPT_CHARACTERS // 2) if len(excerpt) > EXCERPT_CHARACTERS else 0
    end = start + EXCERPT_CHARACTERS
    before = printable(excerpt[start : column - 1])
    marked = printable(excerpt[column - 1 : min(column - 1 + width, end)])
    after = printable(excerpt[column - 1 + width : end])
    gutter = f"{line:>5} | "
    return [gutter + before + marked + after, " " * (len(gutter) - 2) + "| " + " " * len(before) + "^" * max(1, len(marked))]
