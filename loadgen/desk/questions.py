"""How is a question of Locust's answered? By the desk's method of that name: with what that gives, or with what it says that cannot be done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loadgen.desk import showing
from loadgen.desk.desk import Desk
from loadgen.errors import InputError, LoadgenError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from loadgen.desk.lines import Lines
    from loadgen.errors import Problem

_VERBS: dict[str, Callable[..., Awaitable[Any]]] = {
    verb: getattr(Desk, verb) for verb in ("hello", "begin", "end", "check", "apply", "remove", "restore", "state", "metrics", "report")
}


async def answer(desk: Desk, lines: Lines, message: dict[str, Any]) -> None:
    """Do what was asked, and say what came of it; a mistake of the user's is an answer, too."""
    try:
        value = await _VERBS[message["do"]](desk, **message.get("args", {}))
    except InputError as error:
        lines.send({"done": message["number"], "error": _failure(error, error.problems)})
    except LoadgenError as error:
        lines.send({"done": message["number"], "error": _failure(error)})
    else:
        lines.send({"done": message["number"], "value": value})


def _failure(error: LoadgenError, problems: Sequence[Problem] = ()) -> dict[str, Any]:
    about = {"message": error.message, "hint": error.hint, "exit_code": int(error.exit_code)}
    return {**about, "problems": [showing.problem(each) for each in problems]}
