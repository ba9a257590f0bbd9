"""Does anything that a person, a merge or a broken disk can do to a file raise something else than an InputError?"""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loadgen.errors import InputError
from loadgen.inputs import load_plan

from .examples import write

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.errors import Problem

SCENARIO = (Path(__file__).parents[2] / "scenarios" / "connection-pool.yaml").read_text()
LINES = SCENARIO.splitlines(keepends=True)
TREE = yaml.safe_load(SCENARIO)
SEEDED = settings(
    derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
WORDS = ["\t", "\0", "\ufeff", "- ", "? ", ": ", "&a ", "*a", "!!", "!x ", "<<: ", "|", ">", "'", '"', "[", "{", "}", "%", "---\n", "...\n", "\r", "\u2028", "~", ".inf", "-1", "9" * 50, "#", "@", "`", "\U0001f600"]  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def check(folder: Path, text: str | bytes) -> None:
    """Read the text as a scenario and as a rule: it is one, or it has mistakes, all of which can be shown."""
    for path in (write(folder, text), write(folder, SCENARIO, text)):
        problems = _problems(path)
        assert problems is None or problems
        for problem in problems or ():
            assert all(line.isprintable() for line in str(problem).split("\n"))
            assert problem.line >= 0
            assert problem.column >= bool(problem.line)


def _problems(path: Path) -> tuple[Problem, ...] | None:
    try:
        load_plan(path)
    except InputError as error:
        return error.problems
    return None


@pytest.mark.parametrize(
    "mutate",
    [
        lambda rng, lines: lines.pop(rng.randrange(len(lines))),
        lambda rng, lines: lines.insert(rng.randrange(len(lines)), rng.choice(lines)),
        lambda rng, lines: rng.shuffle(lines),
        lambda rng, lines: lines.insert(rng.randrange(len(lines)), " " * rng.randrange(6) + lines.pop(rng.randrange(len(lines))).lstrip()),
        lambda rng, lines: lines.append("".join(lines)[: rng.randrange(len(SCENARIO))]),
    ],
    ids=["a line less", "a line twice", "lines in disorder", "another indentation", "half of it again"],
)
def test_lines_that_are_lost_doubled_or_moved_are_mistakes_at_worst(
    tmp_path: Path, mutate: Callable[[random.Random, list[str]], object]
) -> None:
    for seed in range(60):
        rng, lines = random.Random(seed), list(LINES)
        for _ in range(rng.randint(1, 3)):
            mutate(rng, lines)
        check(tmp_path, "".join(lines))


@SEEDED
@given(st.lists(st.tuples(st.integers(0, len(SCENARIO)), st.integers(0, 12), st.text(max_size=3) | st.sampled_from(WORDS)), max_size=4))
def test_characters_that_are_replaced_are_mistakes_at_worst(tmp_path: Path, edits: list[tuple[int, int, str]]) -> None:
    text = SCENARIO
    for start, length, new in edits:
        text = text[:start] + new + text[start + length :]
    check(tmp_path, text.encode("utf-8", "surrogatepass"))


@SEEDED
@given(st.binary(max_size=8), st.integers(0, len(SCENARIO)))
def test_bytes_that_are_put_in_are_mistakes_at_worst(tmp_path: Path, data: bytes, place: int) -> None:
    whole = SCENARIO.encode()
    check(tmp_path, whole[:place] + data + whole[place:])


@SEEDED
@given(st.data())
def test_any_value_in_any_place_is_a_mistake_at_worst(tmp_path: Path, data: st.DataObject) -> None:
    def replaced(node: object) -> object:
        if not isinstance(node, (dict, list)) or not node or data.draw(st.integers(0, 3)) == 0:
            return data.draw(VALUES)
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        copy = dict(node) if isinstance(node, dict) else dict(enumerate(node))
        copy[key] = replaced(copy[key])
        return copy if isinstance(node, dict) else list(copy.values())

    check(tmp_path, yaml.safe_dump(replaced(TREE), allow_unicode=data.draw(st.booleans())))
