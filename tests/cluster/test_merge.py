"""Is only what is ours taken out of an object that others changed meanwhile? Properties, for any object."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.cluster.merge import ABSENT, foreign, merge, operations, same

KEYS = st.sampled_from(["a", "b", "c/d", "e~f"])
LEAVES = st.one_of(st.integers(0, 2), st.booleans(), st.sampled_from(["x", "y", 1.0, 1.5, None]), st.lists(st.integers(0, 1), max_size=2))
OBJECTS = st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner, min_size=1, max_size=3), max_leaves=8)
DICTS = st.dictionaries(KEYS, OBJECTS, max_size=4)


def leaves(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if isinstance(value, dict) and value:
        return {where: leaf for key, inner in value.items() for where, leaf in leaves(inner, (*path, key)).items()}
    return {path: value}


def at(value: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        value = value.get(step, ABSENT) if isinstance(value, dict) else ABSENT
    return value


@given(DICTS, DICTS)
def test_what_nobody_else_touched_comes_back_exactly(before: Any, written: Any) -> None:
    assert same(merge(before, written, written), before)
    assert not list(foreign(before, written, written))


@given(DICTS, DICTS)
def test_what_was_put_back_already_stays(before: Any, written: Any) -> None:
    assert same(merge(before, written, before), before)


@given(DICTS, DICTS, DICTS)
def test_a_foreign_value_is_never_overwritten(before: Any, written: Any, now: Any) -> None:
    then = merge(before, written, now)
    for path, value in leaves(now).items():
        if path and not same(at(written, path), value) and value != {}:
            assert same(at(then, path), value), path


@given(DICTS, DICTS, DICTS)
def test_nothing_of_ours_is_left_where_it_still_stood(before: Any, written: Any, now: Any) -> None:
    then = merge(before, written, now)
    for path, value in leaves(now).items():
        if path and same(at(written, path), value) and not same(at(before, path), value):
            assert not same(at(then, path), value) or same(at(before, path), value), path


@given(DICTS, DICTS, DICTS)
def test_every_place_where_somebody_else_wrote_over_ours_is_named(before: Any, written: Any, now: Any) -> None:
    named = [path for path, _, _ in foreign(before, written, now)]
    for path, value in leaves(now).items():
        ours, old = at(written, path), at(before, path)
        if (
            path
            and not same(ours, old)
            and ours is not ABSENT
            and not isinstance(ours, dict)
            and not same(value, ours)
            and not same(value, old)
        ):
            assert any(path[: len(each)] == each for each in named), path


@given(DICTS, DICTS)
def test_a_patch_leads_where_it_should(now: Any, then: Any) -> None:
    assert same(patched(now, list(operations(now, then))), then)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [(1, 1.0, True), (1, True, False), (0, False, False), ({"a": [1]}, {"a": [1.0]}, True), ([1, 2], [1], False), (None, ABSENT, False)],
)
def test_numbers_are_equal_by_value_and_are_no_booleans(one: Any, other: Any, equal: bool) -> None:
    assert same(one, other) is equal


def test_a_block_that_was_made_for_our_value_goes_with_it() -> None:
    written = {"trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 1}}}}
    now = {"host": "user", **written}
    assert merge({}, written, now) == {"host": "user"}
    now = {"host": "user", "trafficPolicy": {**written["trafficPolicy"], "tls": {"mode": "SIMPLE"}}}
    assert merge({}, written, now) == {"host": "user", "trafficPolicy": {"tls": {"mode": "SIMPLE"}}}
    assert merge({"trafficPolicy": {}}, written, {"host": "user", **written}) == {"host": "user", "trafficPolicy": {}}


def patched(value: Any, steps: list[dict[str, Any]]) -> Any:
    """Apply a JSON patch, by the letter of RFC 6902 as far as it is used."""
    for step in steps:
        *way, last = [each.replace("~1", "/").replace("~0", "~") for each in step["path"].split("/")[1:]]
        place = value
        for key in way:
            place = place[key]
        assert (last in place) == (step["op"] != "add")
        if step["op"] == "remove":
            del place[last]
        else:
            place[last] = step["value"]
    return value
