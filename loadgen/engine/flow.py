"""Which code of a user's is to be run, and what went wrong in it? ``module:function``, found and checked before anything is sent."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections import Counter
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from loadgen.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import ModuleType

    import httpx

    Step = Callable[[httpx.AsyncClient], Awaitable[None]]

FAILURE_KINDS = 16
"""So many different failures of a flow are told apart; text that differs every time must not fill the memory."""
FAILURE_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Flow:
    """What a user wrote: one iteration, and what is done once before a client's first and after its last one."""

    run: Step
    on_start: Step | None = None
    on_stop: Step | None = None

    @property
    def file(self) -> str:
        """The file that its code is in."""
        return str(inspect.unwrap(self.run).__code__.co_filename) if inspect.isfunction(inspect.unwrap(self.run)) else ""


def load_flow(text: str) -> Flow:
    """Find the flow that ``module:function`` names; the current directory is searched first.

    Raises UsageError, whatever is wrong with it.
    """
    module_name, _, name = text.replace(".py:", ":").partition(":")
    if not re.fullmatch(r"\w+(\.\w+)*", module_name) or not name.isidentifier():
        raise UsageError(
            f"{text!r} names no flow", hint="write it as module:function, for example checkout:flow for the function flow in checkout.py"
        )
    module = _import(module_name)
    return Flow(
        _step(module, name),
        _step(module, "on_start") if hasattr(module, "on_start") else None,
        _step(module, "on_stop") if hasattr(module, "on_stop") else None,
    )


def _import(name: str) -> ModuleType:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _broken(name, error) from error
        hint = f"{error.name.replace('.', '/')}.py is looked for in {folder} and in what is installed"
        raise UsageError(f"there is no module {error.name!r}", hint=hint) from error
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error


def _broken(name: str, error: BaseException) -> UsageError:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return UsageError(
        f"module {name!r} cannot be imported: {_in_short(error)} ({where.filename}, line {where.lineno})",
        hint=f"try: python -c 'import {name}'",
    )


def _step(module: ModuleType, name: str) -> Step:
    """Give a function of a module that can be awaited with one client."""
    step = getattr(module, name, None)
    if step is None:
        near = get_close_matches(name, [each for each, value in vars(module).items() if inspect.iscoroutinefunction(value)], 1)
        raise UsageError(f"module {module.__name__!r} has no {name!r}", hint=f"did you mean {module.__name__}:{near[0]}?" if near else "")
    if not inspect.iscoroutinefunction(step):
        raise UsageError(
            f"{module.__name__}:{name} is no coroutine function", hint=f"write it as: async def {name}(client: httpx.AsyncClient) -> None"
        )
    try:
        inspect.signature(step).bind(None)
    except TypeError as error:
        raise UsageError(
            f"{module.__name__}:{name} cannot be called with one client: {error}",
            hint=f"write it as: async def {name}(client: httpx.AsyncClient) -> None",
        ) from error
    checked: Step = step
    return checked


@dataclass(slots=True)
class Failures:
    """How often the code of a flow, which is in ``file``, failed, and in which ways."""

    file: str
    kinds: Counter[str] = field(default_factory=Counter)

    def note(self, error: BaseException) -> str:
        """Count a failure, and give its kind: what it said, and where."""
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename == self.file] or frames
        where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
        kind = f"{_in_short(error)}{where}"
        if kind not in self.kinds and len(self.kinds) >= FAILURE_KINDS:
            kind = "others"
        self.kinds[kind] += 1
        return kind


def _in_short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:FAILURE_CHARACTERS]
