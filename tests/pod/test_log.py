"""Does the log stay small, on one line, and out of the hammer's way?"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

from loadgen.pod.log import EVERY_S, MAX_BYTES, MAX_KINDS, Log

if TYPE_CHECKING:
    from pathlib import Path


def test_of_one_kind_there_is_a_line_a_second(tmp_path: Path) -> None:
    now = [0.0]
    with (tmp_path / "log").open("wb") as file:
        log = Log(file.fileno(), lambda: now[0])
        for number in range(100):
            now[0] = number * EVERY_S / 20
            log.say(f"a {number}", kind="a")
            log.say(f"b {number}", kind="b")
        log.say("always")
        log.say("always")
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line for line in lines if line.startswith("a")] == ["a 0", "a 20", "a 40", "a 60", "a 80", "always", "always"]
    assert sum(line.startswith("b") for line in lines) == 5


def test_a_line_is_one_line_and_can_do_nothing_to_a_terminal(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        log = Log(file.fileno(), lambda: 0.0)
        log.say("a\r\nlevel=error \x1b[31m\x00\x9b\u2028\ud800é")
        log.say("x" * 10_000 + "\U000e0001" * 500)
        log.say("\U000e0001" * 500)
    first, second, third = (tmp_path / "log").read_text("utf-8").split("\n")[:3]
    assert first == "a\\r\\nlevel=error \\x1b[31m\\x00\\x9b\\u2028\\ud800é"
    assert len(second) == MAX_BYTES
    assert len(third) <= MAX_BYTES


def test_a_reader_that_does_not_read_costs_lines_and_no_time_and_is_told_how_many() -> None:
    reader, writer = os.pipe()
    try:
        log = Log(writer, lambda: 0.0)
        written = 0
        while log.say("x" * 900):
            written += 1
        assert written > 10, "a pipe holds some"
        assert not any(log.say("lost") for _ in range(5))
        while select.select([reader], [], [], 0)[0]:
            os.read(reader, 1 << 16)
        assert log.say("there again")
        assert os.read(reader, 1 << 16) == b"there again (6 lines before this one could not be written)\n"
    finally:
        os.close(reader)
        os.close(writer)


def test_a_reader_that_is_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        log = Log(writer, lambda: 0.0)
        assert not log.say("nobody")
        log.say_last("nobody")
    finally:
        os.close(writer)


def test_many_kinds_do_not_fill_the_memory(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        log = Log(file.fileno(), lambda: 0.0)
        for number in range(3 * MAX_KINDS):
            log.say("x", kind=f"kind {number}")
        assert len(log._said_at) <= MAX_KINDS
