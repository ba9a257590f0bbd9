"""Does an expectation hold exactly when its author would say so?"""

from __future__ import annotations

import pytest

from loadgen.expectation import PHASE_METRICS, RUN, Expectation, Kind, parse_expectation
from loadgen.outcome import Outcome
from loadgen.verdict import State

FIGURES = {
    **dict.fromkeys(PHASE_METRICS, 0.0), "requests": 200.0, "ok": 150.0, "overflow": 50.0, "p99": 0.2, "convergence": None, "ledger": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("ok == 100%", Expectation("a", "ok", "==", 1.0, share=True)),
        ("overflow>0", Expectation("a", "overflow", ">", 0.0)),
        ("  ledger  ==  0 ", Expectation("a", "ledger", "==", 0.0)),
        ("p99 < 200ms", Expectation("a", "p99", "<", 0.2)),
        ("overflow >= 12.5%", Expectation("a", "overflow", ">=", 0.125, share=True)),
        ("peak_in_flight <= 50", Expectation("a", "peak_in_flight", "<=", 50.0)),
        ("convergence != 1m30s", Expectation("a", "convergence", "!=", 90.0)),
    ],
)
def test_an_expectation_is_read_as_it_is_written(text: str, wanted: Expectation) -> None:
    assert parse_expectation("a", text) == wanted


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
        ("a", "ok === 1", "the text 'ok === 1' is no expectation"),
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
        (RUN, "verdict == forced", "unknown verdict 'forced'; did you mean 'enforced'? allowed here: enforced, overshoot, not_enforced,"),
    ],
)
def test_what_is_no_expectation_says_how_to_write_one(phase: str, text: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is compared below
        parse_expectation(phase, text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("text", ["ok == 100%", "overflow >= 12.5%", "ledger == 0", "requests > 1000000", "verdict != enforced"])
def test_an_expectation_is_shown_as_it_was_written(text: str) -> None:
    assert str(parse_expectation(RUN if "verdict" in text else "a", text)) == text


def test_a_latency_is_shown_with_its_unit() -> None:
    expectation = parse_expectation("a", "p99 < 200ms")
    assert (str(expectation), expectation.show(0.00042)) == ("p99 < 200.0 ms", "420 \u00b5s")


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
