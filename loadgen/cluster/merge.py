"""What of our change is still in an object that others may have changed meanwhile, and how is just that taken out?

The law, for each value: where we wrote nothing, what is there now stays; where our value still stands, what was there before comes back;
anything else is somebody else's, and stays. A list counts as one value.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadgen.cluster.marks import Json

Path = tuple[str, ...]


class Absent(Enum):
    """The value of a key that is not there."""

    ABSENT = "absent"


ABSENT = Absent.ABSENT


def same(one: Any, other: Any) -> bool:
    """Tell whether two JSON values are equal; ``true`` is not 1, but 1.0 is."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def merge(before: Any, written: Any, now: Any) -> Any:
    """Take what we wrote out of what is there now."""
    if same(before, written):
        return now
    if same(now, written):
        return before
    if not isinstance(now, dict) or not _is_open(before) or not _is_open(written):
        return now
    parts = {key: merge(*values) for key, values in _triples(before, written, now)}
    left = {key: value for key, value in parts.items() if value is not ABSENT}
    return left if left or before is not ABSENT else ABSENT


def foreign(before: Any, written: Any, now: Any, path: Path = ()) -> Iterator[tuple[Path, Any, Any]]:
    """Give every place at which we wrote and now stands what is neither ours nor was before: path, ours, theirs."""
    if same(before, written) or same(now, written) or same(now, before):
        return
    if isinstance(now, dict) and _is_open(before) and _is_open(written):
        for key, (old, ours, theirs) in _triples(before, written, now):
            yield from foreign(old, ours, theirs, (*path, key))
    else:
        yield path, written, now


def operations(now: Any, then: Any, path: Path = ()) -> Iterator[Json]:
    """Give the JSON patch that turns one value into another, with as few changes as possible."""
    if same(now, then):
        return
    if isinstance(now, dict) and isinstance(then, dict):
        for key in sorted(now.keys() | then.keys()):
            yield from operations(now.get(key, ABSENT), then.get(key, ABSENT), (*path, key))
    elif then is ABSENT:
        yield {"op": "remove", "path": pointer(path)}
    else:
        yield {"op": "add" if now is ABSENT else "replace", "path": pointer(path), "value": then}


def pointer(path: Path) -> str:
    """Write a path as a JSON pointer."""
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in path)


def _is_open(value: Any) -> bool:
    """Tell whether one can look for keys in it."""
    return isinstance(value, dict) or value is ABSENT


def _triples(before: Any, written: Any, now: Json) -> Iterator[tuple[str, tuple[Any, Any, Any]]]:
    old, ours = (value if isinstance(value, dict) else {} for value in (before, written))
    for key in dict.fromkeys((*now, *old, *ours)):
        yield key, (old.get(key, ABSENT), ours.get(key, ABSENT), now.get(key, ABSENT))
