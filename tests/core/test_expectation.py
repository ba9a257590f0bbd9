"""Does an expectation hold exactly when its author would say so?"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.evidence import State
from loadgen.expectation import PHASE_METRICS, RUN, Expectation, Kind, Measure, measure_of, parse_expectation
from loadgen.outcome import Outcome

if TYPE_CHECKING:
    from decimal import Decimal

FIGURES = {
    **dict.fromkeys(PHASE_METRICS, 0.0), "requests": 200.0, "ok": 150.0, "overflow": 50.0, "p99": 0.2, "convergence": None, "ledger": 0.0,
}  # fmt: skip


def expectation(metric: str, sign: str, wanted: float, *, share: bool = False) -> Expectation:
    """Give what a text says of phase ``a``, without the text."""
    return Expectation("a", metric, sign, wanted, written="", share=share)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("ok == 100%", expectation("ok", "==", 1.0, share=True)),
        ("overflow>0", expectation("overflow", ">", 0.0)),
        ("  ledger  ==  0 ", expectation("ledger", "==", 0.0)),
        ("p99 < 200ms", expectation("p99", "<", 0.2)),
        ("overflow >= 12.5%", expectation("overflow", ">=", 0.125, share=True)),
        ("peak_in_flight <= 50", expectation("peak_in_flight", "<=", 50.0)),
        ("convergence != 1m30s", expectation("convergence", "!=", 90.0)),
        ("p99(overflow) < 5ms", expectation("p99(overflow)", "<", 0.005)),
        ("p(95)<200ms", expectation("p95", "<", 0.2)),
        ("p(99.9)(timeout) < 6s", expectation("p99.9(timeout)", "<", 6.0)),
        ("p999 < 1s", expectation("p999", "<", 1.0)),
        (" med ( http_error ) < 1s", expectation("med(http_error)", "<", 1.0)),
        ("avg < 20ms", expectation("avg", "<", 0.02)),
        ("min(ok) > 1ms", expectation("min(ok)", ">", 0.001)),
        ("rate > 100/s", expectation("rate", ">", 100.0)),
        ("rate(ok) >= 300/m", expectation("rate(ok)", ">=", 5.0)),
        ("rate(unsent) == 0/s", expectation("rate(unsent)", "==", 0.0)),
    ],
)
def test_an_expectation_is_read_as_it_is_written(text: str, wanted: Expectation) -> None:
    assert dataclasses.replace(parse_expectation("a", text), written="") == wanted


@pytest.mark.parametrize("state", State)
def test_every_verdict_can_be_expected_of_the_run(state: State) -> None:
    assert parse_expectation(RUN, f"verdict == {state}").holds(state.value)


def test_every_outcome_can_be_expected_as_a_count_and_as_a_share() -> None:
    for outcome in Outcome:
        assert PHASE_METRICS[outcome] is Kind.OUTCOME
        assert not parse_expectation("a", f"{outcome} < 5").share
        assert parse_expectation("a", f"{outcome} < 5%").share


@pytest.mark.parametrize(
    ("phase", "text", "message"),
    [
        ("a", "ok", "the text 'ok' is no expectation; write for example ok == 100%, overflow > 0 or p99 < 200ms"),
        (RUN, "fine", "the text 'fine' is no expectation; write for example verdict == enforced"),
        ("a", "ok === 1", "the text 'ok === 1' is no expectation; '===' compares nothing; did you mean 'ok == 1'?"),
        ("a", "ok = 100%", "the text 'ok = 100%' is no expectation; '=' compares nothing; did you mean 'ok == 100%'?"),
        ("a", "requests => 5", "the text 'requests => 5' is no expectation; '=>' compares nothing; did you mean 'requests >= 5'?"),
        ("a", "p99(ok)=<1s", "the text 'p99(ok)=<1s' is no expectation; '=<' compares nothing; did you mean 'p99(ok) <= 1s'?"),
        (
            RUN,
            "verdict = enforced",
            "the text 'verdict = enforced' is no expectation; '=' compares nothing; did you mean 'verdict == enforced'?",
        ),
        ("a", "p99 < 5 ms", "the text 'p99 < 5 ms' is no expectation; a value has no blank in it; did you mean 'p99 < 5ms'?"),
        ("a", "p99 < 1m 30s", "the text 'p99 < 1m 30s' is no expectation; a value has no blank in it; did you mean 'p99 < 1m30s'?"),
        ("a", "overflw = 5", "the text 'overflw = 5' is no expectation; write for example ok == 100%"),
        ("a", "ok == ", "the text 'ok == ' is no expectation"),
        ("a", "== 5", "the text '== 5' is no expectation"),
        ("a", "ok == 5 and overflow == 5", "the text 'ok == 5 and overflow == 5' is no expectation"),
        ("a", None, "nothing is no expectation"),
        ("a", "overflw > 0", "unknown metric 'overflw'; did you mean 'overflow'? allowed here: ok,"),
        ("a", "ok > 100.1%", "100.1% is more than 100%"),
        ("a", "ok > %", "'%' is no percentage; write for example 100%"),
        ("a", "requests > 1.5", "'1.5' must be a whole number, such as 0"),
        ("a", "requests > 50%", "'50%' must be a whole number, such as 0"),
        ("a", f"requests > {'9' * 400}", f"'{'9' * 400}' must be a whole number"),
        ("a", "p50 < 10", "the duration 10 has no unit; write 10s or 10ms"),
        ("a", "verdict == enforced", "'verdict' is a figure of the run; write it under run"),
        (RUN, "p50 < 10ms", "'p50' is a figure of a phase; write it under its name"),
        (RUN, "verdict < enforced", "verdict can be compared with == or !=, not with <"),
        ("a", "p101 < 1s", "the percentile 101 is not within 0 and 100"),
        ("a", "p(100.5) < 1s", "the percentile 100.5 is not within 0 and 100"),
        ("a", "p9999 < 1s", "the percentile 9999 is not within 0 and 100; did you mean p99.99?"),
        ("a", "p(999) < 1s", "the percentile 999 is not within 0 and 100; did you mean p99.9?"),
        ("a", "p(-1) < 1s", "'-1' is no percentile; write a number from 0 to 100, such as p95 or p(99.9)"),
        ("a", "p-1 < 1s", "'-1' is no percentile"),
        ("a", "p(NaN) < 1s", "'NaN' is no percentile"),
        ("a", "p() < 1s", "'' is no percentile"),
        ("a", "p1e1 < 1s", "'1e1' is no percentile"),
        ("a", "p(95 < 1s", "unknown metric 'p(95'; "),
        ("a", "p99(overflw) < 1s", "unknown outcome 'overflw'; did you mean 'overflow'? allowed here: ok,"),
        ("a", "p99(unsent) < 1s", "a request that was not sent has no latency"),
        ("a", "p99() < 1s", "unknown outcome ''; allowed here: ok,"),
        ("a", "ok(overflow) > 1", "'ok' is of no single outcome; write it without (overflow)"),
        ("a", "convergence(ok) < 1s", "'convergence' is of no single outcome"),
        ("a", "rate(all) > 1/s", "unknown outcome 'all'; "),
        ("a", "rat > 1/s", "unknown metric 'rat'; did you mean 'rate'? "),
        ("a", "rate > 100", "a rate is per time, such as 100/s; a share of the requests is written ok > 99%"),
        ("a", "rate(overflow) < 1%", "a rate is per time, such as 1/s; a share of the requests is written overflow < 99%"),
        ("a", "rate > 5ms", "'5ms' is no rate; write for example 50/s or 300/m"),
        ("a", "validity == VALID", "'validity' is a figure of the run; write it under run"),
        (RUN, "p(95)(overflow) < 1s", "'p(95)(overflow)' is a figure of a phase; write it under its name"),
        (RUN, "validity == valid", "unknown validity 'valid'; did you mean 'VALID'? allowed here: VALID, INVALID"),
        (RUN, "verdict == forced", "unknown verdict 'forced'; did you mean 'enforced'? allowed here: enforced, overshoot, not_enforced,"),
    ],
)
def test_what_is_no_expectation_says_how_to_write_one(phase: str, text: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is compared below
        parse_expectation(phase, text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "text",
    [
        "ok == 100%",
        "overflow >= 12.5%",
        "ledger == 0",
        "requests > 1000000",
        "rate(ok) > 12.5/s",
        "rate > 300/m",
        "rate(overflow) < 1/h",
        "p(99.9)(timeout)<1m30s",
        "p999 < 200ms",
        "overflow>0",
        "verdict != enforced",
        "validity == VALID",
    ],
)
def test_an_expectation_is_shown_as_it_was_written(text: str) -> None:
    assert str(parse_expectation(RUN if text.startswith("v") else "a", f" {text} ")) == text


def test_a_latency_is_shown_with_its_unit() -> None:
    expectation = parse_expectation("a", "p99 < 200ms")
    assert expectation.show(0.00042) == "420 \u00b5s"


def test_a_share_is_shown_as_a_percentage() -> None:
    shown = [parse_expectation("a", "ok == 100%").show(share) for share in (1.0, 0.125, 1 / 3, 0.999995, 9_999_999 / 10_000_000)]
    assert shown == ["100%", "12.5%", "33.3333%", "99.9995%", "99.99999%"]


@pytest.mark.parametrize(
    ("sign", "holds"),
    [("==", (False, True, False)), ("!=", (True, False, True)), (">=", (False, True, True)), ("<=", (True, True, False)),
     (">", (False, False, True)), ("<", (True, False, False))],
)  # fmt: skip
def test_each_sign_compares_as_it_says(sign: str, holds: tuple[bool, ...]) -> None:
    expectation = parse_expectation("a", f"requests {sign} 5")
    assert tuple(expectation.holds(got) for got in (4.0, 5.0, 6.0)) == holds


@pytest.mark.parametrize(("sign", "holds"), [("==", (True, False)), ("!=", (False, True))])
def test_verdicts_are_compared_by_name(sign: str, holds: tuple[bool, ...]) -> None:
    expectation = parse_expectation(RUN, f"verdict {sign} enforced")
    assert tuple(expectation.holds(got) for got in ("enforced", "inconclusive")) == holds


@pytest.mark.parametrize("text", ["ok == 0%", "ok != 100%", "p99 < 1s", "p99 != 1s", "ledger == 0"])
def test_a_figure_that_does_not_exist_holds_nothing(text: str) -> None:
    assert not parse_expectation("a", text).holds(None)


@pytest.mark.parametrize(
    ("text", "got"), [("ok > 0", 150.0), ("ok > 0%", 0.75), ("overflow < 30%", 0.25), ("p99 < 1s", 0.2), ("convergence < 1s", None)]
)
def test_a_figure_is_picked_out_of_its_phase(text: str, got: float | None) -> None:
    assert parse_expectation("a", text).got(FIGURES) == got


@pytest.mark.parametrize("text", ["ok == 100%", "ok >= 0%", "overflow == 0%", "overflow != 1%"])
def test_a_share_of_no_requests_holds_nothing(text: str) -> None:
    expectation = parse_expectation("a", text)
    got = expectation.got({**FIGURES, "requests": 0, "ok": 0, "overflow": 0})
    assert got is None
    assert not expectation.holds(got)


def test_not_a_single_failure_among_many_passes_for_a_hundred_percent() -> None:
    expectation = parse_expectation("a", "ok == 100%")
    assert not expectation.holds(expectation.got({"requests": 10_000_000, "ok": 9_999_999}))
    assert expectation.holds(expectation.got({"requests": 10_000_000, "ok": 10_000_000}))


@given(st.decimals(0, 100, places=3), st.sampled_from([None, *(outcome for outcome in Outcome if outcome is not Outcome.UNSENT)]))
def test_every_percentile_within_0_and_100_is_read_in_both_spellings_to_the_same_measure(number: Decimal, outcome: Outcome | None) -> None:
    behind = f"({outcome})" if outcome else ""
    measures = {measure_of(f"p{number}{behind}"), measure_of(f"p({number}){behind}")}
    measure = measures.pop()
    assert not measures
    assert measure.quantile == float(number / 100)
    assert measure.outcome is outcome
    assert measure_of(str(measure)) == measure


@given(st.decimals(100, 100_000, places=2).filter(lambda number: number > 100))
def test_no_percentile_above_100_is_read(number: Decimal) -> None:
    with pytest.raises(ValueError, match="is not within 0 and 100"):
        measure_of(f"p({number})")


@given(st.text(max_size=12) | st.from_regex(r"p?\(?[0-9a-z.+-]{0,6}\)?(\([a-z]{0,9}\))?", fullmatch=True))
def test_whatever_the_metric_is_it_is_read_or_is_a_mistake_and_its_canonical_form_is_read_as_the_same(text: str) -> None:
    with contextlib.suppress(ValueError):
        measure = measure_of(text)
        assert measure_of(str(measure)) == measure


@pytest.mark.parametrize(
    "name", [name for name, kind in PHASE_METRICS.items() if kind in {Kind.DURATION, Kind.RATE} and name != "convergence"]
)
def test_every_latency_and_the_rate_can_be_asked_of_each_outcome(name: str) -> None:
    assert measure_of(f"{name}(overflow)") == Measure(name, PHASE_METRICS[name], Outcome.OVERFLOW, measure_of(name).quantile)
