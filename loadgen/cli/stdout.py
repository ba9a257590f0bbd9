"""What if a result cannot be printed? Somebody who has seen enough is no error, a full disk is one."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from loadgen.errors import UnwrittenError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def printing(what: str) -> Iterator[None]:
    """Print to stdout within this, all of it; ``what`` is what is printed. That its reader ends early (``| head``) changes nothing.

    Raises UnwrittenError if it cannot be printed.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes stdout once more at exit
        if not isinstance(error, BrokenPipeError):
            raise UnwrittenError(f"{what} cannot be printed: {error.strerror}", hint="free some space there") from error
