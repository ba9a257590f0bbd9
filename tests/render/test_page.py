"""Is the page whole, readable and harmless before a browser has seen it? What it draws is looked at in tests/browser."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from html.parser import HTMLParser
from importlib import resources
from typing import Any

import pytest

from loadgen.outcome import Outcome
from loadgen.recorder import Histogram
from loadgen.render import page
from loadgen.render.formats import FORMATS
from loadgen.render.markdown import escaped
from loadgen.render.page.plots import limits
from loadgen.render.timeline import timeline
from loadgen.series import Moment, Series
from tests.render.results import changed, hostile, real

VENDORED = {  # uPlot 1.6.32 as the npm registry has it
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "uPlot.LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}
STYLE = resources.files(page).joinpath("page.css").read_text(encoding="utf-8")
TEXT_CONTRAST, LINE_CONTRAST = 4.5, 3.0
"""What WCAG 2.1 AA asks of text, and of lines that carry a meaning."""


@pytest.mark.parametrize("name", VENDORED)
def test_what_comes_from_others_is_as_they_published_it(name: str) -> None:
    assert hashlib.sha256(resources.files(page).joinpath(name).read_bytes()).hexdigest() == VENDORED[name]


def colours(scheme: str) -> dict[str, str]:
    """Read the colours of a scheme from the style; what dark does not set is as in light."""
    light, dark = (
        dict(re.findall(r"--([a-z_-]+): (#[0-9a-f]{6});", part)) for part in STYLE.partition("@media (prefers-color-scheme")[::2]
    )
    return light if scheme == "light" else {**light, **dark}


def contrast(one: str, other: str) -> float:
    """Give the contrast of two colours as WCAG defines it."""
    lights = []
    for colour in (one, other):
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels)
        lights.append(0.2126 * red + 0.7152 * green + 0.0722 * blue)
    return (max(lights) + 0.05) / (min(lights) + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_stand_out_from_what_is_behind_them(scheme: str) -> None:
    found = colours(scheme)
    texts = [("text", back) for back in ("page", "stripe", "good-back", "doubtful-back", "bad-back")]
    texts += [("muted", "page"), ("good", "page"), ("bad", "page"), ("good", "stripe"), ("bad", "stripe")]
    texts += [(kind, f"{kind}-back") for kind in ("good", "doubtful", "bad")] + [("bad", "good-back"), ("bad", "doubtful-back")]
    lines = [(line, back) for line in (*Outcome, "toggle", "convergence", "focus", "limit") for back in ("page", "band", "band-applied")]
    weak = [
        (front, back, round(contrast(found[front], found[back]), 2))
        for pairs, least in ((texts, TEXT_CONTRAST), (lines, LINE_CONTRAST))
        for front, back in pairs
        if contrast(found[front], found[back]) < least
    ]
    assert weak == []


def test_the_verdict_is_the_first_thing_that_is_said() -> None:
    body = page.render(real().report, real().series).partition("<body>")[2]
    assert body.startswith('<header class="good"><h1>✓ Enforced')


@pytest.mark.parametrize(
    ("state", "kind"), [("enforced", "good"), ("overshoot", "doubtful"), ("not_enforced", "bad"), ("inconclusive", "doubtful")]
)
def test_each_verdict_has_its_look_and_its_word(state: str, kind: str) -> None:
    text = page.render(changed(lambda report: report["verdict"].update(state=state)), None)
    assert f'<header class="{kind}"><h1>' in text
    assert state.replace("_", " ") in text.partition("<h1>")[2].partition("<")[0].lower()


def test_an_invalid_run_a_failed_restore_and_a_failed_expectation_are_alarms() -> None:
    text = page.render(hostile(), None)
    assert text.count('class="alarm"') == 4, "two reasons, the restore, the expectations"
    assert text.partition("<body>")[2].startswith('<header class="bad"><h1>✗ Restore failed (enforced)')
    assert text.count("✗ FAILED") == len(real().report.expectations)


def test_the_verdict_of_an_invalid_run_is_said_to_be_none_to_rely_upon() -> None:
    report = changed(lambda report: report.update(validity={"state": "INVALID", "reasons": ["the hammer was late"]}))
    said = f"This verdict cannot be relied upon: {report.verdict.sentence}"
    assert f'<p class="sentence">{said}</p>' in page.render(report, None)
    assert escaped(said) in FORMATS["markdown"].render(report, None)
    assert "relied upon" not in page.render(real().report, None)


def test_limits_that_all_sidecars_have_stand_once_above_their_table() -> None:
    limits = "http1MaxPendingRequests 1, http2MaxRequests 1, maxRequestsPerConnection 1"
    text = page.render(real().report, None)
    assert f"Phase limited; limits in each sidecar: {limits}</span>" in text
    assert text.count(limits) == 3, "there, in the name of the region that scrolls, and in what was run"
    text = page.render(changed(lambda report: report["phases"][1]["clients"][0]["effective"].update(max_requests=7)), None)
    assert "<caption><span>Phase limited</span></caption>" in text
    assert '<td class="text">http1MaxPendingRequests 1, http2MaxRequests 7, maxRequestsPerConnection 1</td>' in text
    assert text.count(f'<td class="text">{limits}</td>') == 2


def test_a_load_is_shown_as_it_is_written_in_a_scenario() -> None:
    assert "<dd>model closed, users 5, think_time exponential 30ms, timeout 5s</dd>" in page.render(real().report, None)


def drop_moments(report: Any) -> None:
    for phase in report["phases"]:
        phase.update(toggled_s=None, converged_s=None)


def unlimited(report: Any) -> None:
    report["phases"][1]["clients"][2]["effective"]["max_requests"] = 2**32 - 1


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda _: None, [{"from": 4.145, "to": 8.344, "value": 3}]),
        (drop_moments, [{"from": 4.229, "to": 8.23, "value": 3}]),
        (lambda report: report["phases"].pop(), [{"from": 4.145, "to": 8.23, "value": 3}]),
        (unlimited, []),
        (lambda report: report["phases"][1].update(clients=[]), []),
        (lambda report: report.update(phases=[]), []),
    ],
)
def test_the_limit_of_all_sidecars_holds_from_the_last_one_that_showed_it_to_the_next_toggle(change: Any, wanted: object) -> None:
    assert limits(changed(change)) == wanted


def test_no_caption_repeats_its_heading_and_that_of_the_bursts_says_which_are_left_out() -> None:
    def burst(report: Any) -> None:
        report["phases"][1]["bursts"] = {"count": 3, "least": 1, "most": 1, "seen": None}

    text = page.render(changed(burst), None)
    captions = re.findall(r"<caption><span>(.*?)</span>", text)
    assert not set(captions) & set(re.findall(r"<h2>(.*?)</h2>", text))
    assert any(each.startswith("Of each burst that an edge of its phase does not cut") for each in captions)


class Tags(HTMLParser):
    """What a parser of HTML sees: the tags and the attributes that they have."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.update(name for name, _ in attrs)


def test_the_page_names_nothing_that_could_be_fetched() -> None:
    text = page.render(real().report, real().series)
    seen = Tags(text)
    assert not seen.attributes & {"src", "href", "action", "srcset", "data", "style"}
    assert not set(seen.tags) & {"img", "link", "iframe", "object", "form", "a", "base"}
    assert "default-src 'none'" in text
    assert "unsafe" not in text.partition("</head>")[0]


def test_hostile_text_makes_no_tag_and_no_attribute() -> None:
    text = page.render(hostile(), real().series)
    usual, seen = Tags(page.render(real().report, real().series)), Tags(text)
    assert seen.attributes == usual.attributes
    assert set(seen.tags) <= {*usual.tags, "h3", "ul", "pre"}
    assert seen.tags["script"] == text.count("</script>") == 3
    assert not set(text) & set("\x1b\x00\u202e\ud800")


def test_the_plotters_licence_is_in_the_page_with_it() -> None:
    assert "Copyright (c) 2022 Leon Sorokin" in page.render(real().report, real().series)


def test_a_timeline_has_every_request_of_its_seconds() -> None:
    series = real().series
    assert series is not None
    found = timeline(series)
    for outcome, rates in found.rate_per_s.items():
        assert sum(rates) == sum(row.count for row in series.rows if row.outcome is outcome)


def test_a_long_run_is_taken_together_and_loses_no_request() -> None:
    histogram = Histogram()
    histogram.record(0.01)
    series = Series([], [Moment(second, "a", Outcome.OK, histogram) for second in range(10_001)], dict.fromkeys(range(10_001), 3))
    found = timeline(series, max_steps=100)
    assert len(found.at_s) <= 100
    assert sum(found.rate_per_s[Outcome.OK]) * found.step_s == pytest.approx(10_001)


def test_what_was_in_flight_is_no_mean_but_what_was_counted_at_the_end_of_a_step() -> None:
    histogram = Histogram()
    histogram.record(0.01)
    moments = [Moment(second, "a", Outcome.OK, histogram) for second in range(5)]
    in_flight = {0: 60, 1: 15, 2: 60, 3: 0, 4: 7}
    assert timeline(Series([], moments, in_flight)).in_flight == [60, 15, 60, 0, 7]
    assert timeline(Series([], moments, in_flight), max_steps=3).in_flight == [15, 0, None], "the last step is not a whole one"


def test_a_second_without_an_outcome_has_the_rate_0_and_no_latency() -> None:
    histogram = Histogram()
    histogram.record(0.01)
    found = timeline(Series([], [Moment(0, "a", Outcome.OK, histogram), Moment(2, "a", Outcome.OK, histogram)], {}))
    assert found.rate_per_s[Outcome.OK] == [1, 0, 1]
    assert found.p99_s[Outcome.OK] == [pytest.approx(0.01, rel=0.01), None, pytest.approx(0.01, rel=0.01)]


def test_a_run_without_a_single_request_has_a_page() -> None:
    assert "<h1>" in page.render(real().report, Series([], [], {}))
