"""Are durations, rates and intervals read as people write them, and written as people read them?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.pacing import Interval
from loadgen.quantity import (
    MAX_DURATION_S,
    duration_s,
    duration_text,
    interval,
    interval_text,
    positive_duration_s,
    rate_per_s,
    rate_text,
    seconds_text,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25), ("8s", 8), ("1m30s", 90), ("1h", 3600), ("1h1m1s1ms", 3661.001), ("0.5s", 0.5), ("1.5m", 90), ("20us", 20e-6),
        ("20\u00b5s", 20e-6), ("0s", 0), ("24h", MAX_DURATION_S), ("08s", 8), ("30s30s", 60),
    ],
)  # fmt: skip
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", " ", "s", "8", "8 s", "-8s", "+8s", "8S", "8d", ".5s", "5.s", "1,5s", "8s ", "1e3s", "8s8", "inf", "24h1ms", 8, 0, True, None, [], {}, float("inf"), float("nan")])  # fmt: skip
def test_what_is_no_duration_is_a_value_error_with_a_sentence(text: object) -> None:
    with pytest.raises(ValueError, match=r"is no duration; write |has no unit; write |is longer than 24h"):
        duration_s(text)


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text(), max_size=2))
def test_no_value_at_all_raises_anything_but_a_value_error(value: object) -> None:
    for read in (duration_s, positive_duration_s, rate_per_s, interval):
        try:
            read(value)
        except ValueError as error:
            assert len(str(error)) < 200  # noqa: PT017  # not every value raises


def test_a_duration_that_must_be_positive_is_not_zero() -> None:
    assert positive_duration_s("1us") == pytest.approx(1e-6)
    for text in ("0s", "0ms", "0h0s", "0.0s"):
        with pytest.raises(ValueError, match=r"^the duration must be more than 0$"):
            positive_duration_s(text)


@pytest.mark.parametrize(("text", "rate"), [("50/s", 50), ("300/m", 5), ("1/h", 1 / 3600), ("0.5/s", 0.5), ("7200/h", 2)])
def test_a_rate_is_read_per_second(text: str, rate: float) -> None:
    assert rate_per_s(text) == pytest.approx(rate)


@pytest.mark.parametrize("text", ["50", "50/ms", "/s", "-5/s", "50 /s", "50/S", "0/s", "0.0/h", "0.9/h", 50, None, ["50/s"]])
def test_what_is_no_rate_is_a_value_error_with_a_sentence(text: object) -> None:
    with pytest.raises(ValueError, match=r"is no rate; write for example 50/s or 300/m|must be at least 1/h"):
        rate_per_s(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("none", Interval()),
        ("20ms", Interval(0.02)),
        ("constant 20ms", Interval(0.02)),
        ("exponential 20ms", Interval(0.02, exponential=True)),
        ("  exponential   1s ", Interval(1.0, exponential=True)),
        (Interval(3.0), Interval(3.0)),
    ],
)
def test_an_interval_is_a_constant_or_the_mean_of_an_exponential_one(text: object, wanted: Interval) -> None:
    assert interval(text) == wanted


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 \u00b5s"), (0.00082, "820 \u00b5s"), (0.0214, "21.4 ms"), (3.2, "3.20 s"), (90.0, "90.00 s"),
    ],
)  # fmt: skip
def test_a_duration_is_written_for_a_person(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"), [(0.0, "0.0/s"), (3 / 3600, "0.00083/s"), (0.25, "0.25/s"), (1.0, "1.0/s"), (12345.67, "12,345.7/s")]
)
def test_a_rate_is_written_for_a_person(rate: float, text: str) -> None:
    assert rate_text(rate) == text


@given(st.sampled_from([0.0, 20e-6, 0.001, 0.0325, 0.25, 1.0, 1.5, 90.0, MAX_DURATION_S]), st.booleans())
def test_what_is_written_as_in_a_scenario_is_read_as_the_same(seconds: float, exponential: bool) -> None:
    assert duration_s(duration_text(seconds)) == pytest.approx(seconds)
    read = interval(interval_text(seconds, exponential=exponential))
    assert read.mean_s == pytest.approx(seconds)
    assert read.exponential is (exponential and seconds > 0)
