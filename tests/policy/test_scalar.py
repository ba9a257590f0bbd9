"""Are durations read as Go reads them?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.policy.scalar import duration_ns, positive_ms

MS = 1_000_000


@pytest.mark.parametrize(
    ("text", "wanted_ns"),
    [
        ("250ms", 250 * MS),
        ("10s", 10_000 * MS),
        ("1m30s", 90_000 * MS),
        ("1h1m1s1ms", 3_661_001 * MS),
        ("1.5s", 1500 * MS),
        (".5s", 500 * MS),
        ("1.s", 1000 * MS),
        ("+1s", 1000 * MS),
        ("-1s", -1000 * MS),
        ("1us", 1000),
        ("1µs", 1000),
        ("1μs", 1000),
        ("7ns", 7),
        ("0", 0),
        ("0s", 0),
        ("0.1s", 100 * MS),
    ],
)
def test_a_duration_is_read_as_go_reads_it(text: str, wanted_ns: int) -> None:
    assert duration_ns(text) == wanted_ns


@pytest.mark.parametrize(
    "value",
    ["", "1", "s", ".s", "1d", "1 s", " 1s", "1s ", "1S", "--1s", "1e3s", "٣s", "9" * 30 + "h", "1s" * 40, 10, 1.5, True, None, [], {}],
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"duration"):
        duration_ns(value)


@given(hours=st.integers(0, 99), minutes=st.integers(0, 99), seconds=st.integers(0, 99), ms=st.integers(1, 999))
def test_the_parts_of_a_duration_add_up(hours: int, minutes: int, seconds: int, ms: int) -> None:
    assert positive_ms(f"{hours}h{minutes}m{seconds}s{ms}ms") == ((hours * 60 + minutes) * 60 + seconds) * 1000 + ms
