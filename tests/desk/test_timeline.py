"""Does the plot get each second once, and no request twice?"""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from loadgen.desk.timeline import GROUPS, Timeline
from loadgen.outcome import Outcome

SECONDS = st.lists(st.dictionaries(st.sampled_from(list(Outcome)), st.integers(0, 1000)), max_size=8)


@given(SECONDS, st.integers(-1, 9))
def test_what_is_asked_for_in_two_parts_is_the_whole(seconds: list[dict[Outcome, int]], cut: int) -> None:
    timeline, totals, first = Timeline(), Counter[Outcome](), None
    for number, more in enumerate(seconds):
        if number == cut:
            first = timeline.since(0)
        totals.update(more)
        timeline.second(totals)
    whole = timeline.since(0)
    assert sum(sum(whole[group]) for group in GROUPS) == totals.total()
    assert sum(whole["overflow"]) == totals[Outcome.OVERFLOW]
    if first is not None:
        rest = timeline.since(len(first["ok"]))
        assert all(first[group] + rest[group] == whole[group] for group in GROUPS)
