"""Is the live picture true, and does it fit into every terminal?"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.outcome import Outcome
from loadgen.progress import Progress
from loadgen.render.picture import Pace, cells, log_line, picture

COUNTS = {**dict.fromkeys(Outcome, 0), Outcome.OK: 3722, Outcome.OVERFLOW: 9777}
LIMITED = Progress("limited", "applied", 1, 3, True, 4.2, 10.0, 13.8, COUNTS, 12, 10, 0.0931, 10, 10)
WAITING = replace(LIMITED, counting=False, elapsed_s=0.0, confirmed=7, ok_p99_s=None, limit=None)
OUTCOMES = st.dictionaries(st.sampled_from(list(Outcome)), st.integers(0, 10**9))


def pace(**more: int) -> Pace:
    """Give the pace of two looks a second apart."""
    made = Pace()
    made.look(dict.fromkeys(Outcome, 0), 10.0)
    made.look({Outcome(name): count for name, count in more.items()}, 11.0)
    return made


def lines(progress: Progress, width: int = 80, **more: int) -> list[str]:
    return [line.plain for line in picture(progress, pace(**(more or {"ok": 300, "overflow": 900})), width)]


def test_the_picture_of_a_phase_shows_time_rate_split_flight_and_p99() -> None:
    head, bar, legend, load = lines(LIMITED)
    assert head == "[2/3] limited ━━━━━─────── 4 of 10 s, 14 s left"
    assert bar == f" 1,200/s {'█' * 15}{'▒' * 45}"
    assert legend == "ok 3,722 28%  overflow 9,777 72%"
    assert load == "12 in flight, limit 10  p99 ok 93.1 ms"


def test_while_a_policy_is_put_it_is_shown_how_many_sidecars_have_confirmed() -> None:
    assert lines(WAITING)[1:] == ["policy applied at 7 of 10 sidecars, waiting for the others"]
    assert lines(replace(WAITING, confirmed=10))[1:] == ["waiting for what was sent before"]
    assert log_line(WAITING, pace()) == "  limited policy applied at 7 of 10 sidecars, waiting for the others"


def test_forty_columns_hold_everything_that_matters() -> None:
    head, bar, legend, load = lines(LIMITED, 40)
    assert head == "[2/3] limited ━━─── 4 of 10 s, 14 s left"
    assert (len(bar), legend, load) == (40, "ok 3,722 28%  overflow 9,777 72%", "12 in flight, limit 10  p99 ok 93.1 ms")
    assert lines(WAITING, 40)[1] == "policy applied at 7 of 10 sidecars, wai…"


def test_without_colour_and_without_unicode_the_outcomes_are_told_apart_by_their_letters() -> None:
    shown = picture(LIMITED, pace(ok=10, overflow=20, timeout=30), 69, ascii_only=True)
    assert shown[0].plain == "[2/3] limited =====------- 4 of 10 s, 14 s left"
    assert shown[1].plain == f"    60/s {'#' * 10}{'=' * 20}{'x' * 30}"


def test_the_log_line_says_the_same_in_words() -> None:
    said = "  limited 4 of 10 s  1,200/s  ok 3,722  overflow 9,777 (72%)  p99 ok 93.1 ms  12 in flight, limit 10  14 s left"
    assert log_line(LIMITED, pace(ok=300, overflow=900)) == said


@given(OUTCOMES, st.integers(1, 300), st.booleans(), st.text("abc-", min_size=1, max_size=63))
def test_no_line_is_longer_than_the_terminal_is_wide(counts: dict[Outcome, int], width: int, counting: bool, name: str) -> None:
    progress = replace(LIMITED, outcomes={**dict.fromkeys(Outcome, 0), **counts}, counting=counting, phase=name)
    made = Pace()
    made.look(dict.fromkeys(Outcome, 0), 0.0)
    made.look(counts, 1.0)
    assert all(line.cell_len <= width and "\n" not in line.plain for line in picture(progress, made, width))


@given(OUTCOMES, st.integers(0, 100))
def test_a_bar_is_full_and_holds_a_cell_of_whatever_there_is(counts: dict[Outcome, int], width: int) -> None:
    shared = cells(counts, width)
    present = [outcome for outcome, count in counts.items() if count]
    assert sum(shared.values()) == (width if present else 0)
    if len(present) <= width:
        assert set(shared) == set(present)
        assert all(shared[one] >= shared[other] for one in present for other in present if counts[one] > counts[other])


@pytest.mark.parametrize(
    ("looks", "rate"), [([], 0.0), ([(1.0, 50)], 0.0), ([(1.0, 50), (2.0, 150)], 100.0), ([(1.0, 50), (2.0, 20)], 0.0)]
)
def test_the_rate_is_that_of_the_last_looks_and_of_one_phase_only(looks: list[tuple[float, int]], rate: float) -> None:
    made = Pace()
    for now, count in looks:
        made.look({Outcome.OK: count}, now)
    assert made.rate_per_s == rate
