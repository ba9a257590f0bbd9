"""Does the alarm ring once, at or after the moment last set, and not at all when it was cancelled? (How late it rings is measured elsewhere.)"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from loadgen.engine.alarm import EMPTY_TURN_S, SPIN_S, Alarm, spun_s
from loadgen.engine.load import clock
from loadgen.engine.this_process import cpu_s

from .scripted_server import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio
NEAR_S = SPIN_S / 2


class Bell:
    """An alarm, and the moments at which it rang."""

    def __init__(self) -> None:
        self.rings: list[float] = []
        self._rang = asyncio.Event()
        self.alarm = Alarm(self._ring)

    def _ring(self) -> None:
        self.rings.append(clock())
        self._rang.set()
        self._rang = asyncio.Event()

    async def ring(self, count: int) -> float:
        """Wait for so many rings; give the moment of the last."""
        with anyio.fail_after(PATIENCE_S):
            while len(self.rings) < count:
                await self._rang.wait()
        assert len(self.rings) == count
        return self.rings[-1]


def descriptors() -> set[str]:
    """Give the files that this process has open."""
    return {entry.name for entry in Path("/proc/self/fd").iterdir() if entry.exists() or entry.is_symlink()}


@pytest.fixture
async def bell() -> AsyncIterator[Bell]:
    made = Bell()
    yield made
    made.alarm.close()


async def until(moment: float) -> None:
    """Wait for longer than an alarm that is set to this moment could."""
    while clock() < moment + 0.02:  # noqa: ASYNC110  # nothing is to happen that could be awaited
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("in_s", [0.03, 0.001, 0.0, -1.0, -1e9])
async def test_it_rings_once_and_not_before_its_moment(bell: Bell, in_s: float) -> None:
    moment = clock() + in_s
    bell.alarm.set(moment)
    assert await bell.ring(1) >= moment
    await until(clock())
    assert len(bell.rings) == 1


async def test_it_does_not_ring_before_anybody_waits_for_it(bell: Bell) -> None:
    bell.alarm.set(clock() - 1)
    assert bell.rings == [], "it rings from the loop, never from within set"
    await bell.ring(1)


async def test_it_can_be_set_again_after_and_even_while_it_rings(bell: Bell) -> None:
    for number in range(1, 20):
        moment = clock() + 0.0005
        bell.alarm.set(moment)
        assert await bell.ring(number) >= moment


async def test_setting_it_while_it_rings_makes_it_ring_again() -> None:
    rings: list[float] = []
    thrice = asyncio.Event()

    def ring() -> None:
        rings.append(clock())
        alarm.set(clock() + 0.001)
        if len(rings) == 3:
            alarm.cancel()
            thrice.set()

    alarm = Alarm(ring)
    alarm.set(clock())
    with anyio.fail_after(PATIENCE_S):
        await thrice.wait()
    await until(clock())
    assert len(rings) == 3
    alarm.close()


@pytest.mark.parametrize("in_s", [0.01, NEAR_S, 0.0])
async def test_moving_it_earlier_makes_it_ring_once_at_the_earlier_moment(bell: Bell, in_s: float) -> None:
    later, earlier = clock() + 0.06, clock() + in_s
    bell.alarm.set(later)
    bell.alarm.set(earlier)
    assert await bell.ring(1) >= earlier
    await until(later)
    assert len(bell.rings) == 1


@pytest.mark.parametrize("in_s", [0.01, NEAR_S, 0.0])
async def test_moving_it_later_makes_it_ring_once_at_the_later_moment(bell: Bell, in_s: float) -> None:
    earlier, later = clock() + in_s, clock() + 0.05
    bell.alarm.set(earlier)
    bell.alarm.set(later)
    assert await bell.ring(1) >= later


async def test_moving_it_when_it_is_already_over_but_has_not_rung_yet(bell: Bell) -> None:
    bell.alarm.set(clock() - 1)
    later = clock() + 0.03
    bell.alarm.set(later)
    assert await bell.ring(1) >= later


@pytest.mark.parametrize("in_s", [0.01, NEAR_S])
async def test_it_does_not_ring_after_cancel(bell: Bell, in_s: float) -> None:
    moment = clock() + in_s
    bell.alarm.set(moment)
    bell.alarm.cancel()
    await until(moment)
    assert bell.rings == []


async def test_it_does_not_ring_after_a_cancel_that_came_when_it_was_already_over(bell: Bell) -> None:
    bell.alarm.set(clock() - 1)
    bell.alarm.cancel()
    await until(clock())
    assert bell.rings == []


async def test_it_does_not_ring_when_another_one_cancels_it_in_the_same_round_of_the_loop() -> None:
    rings: list[str] = []
    alarms: dict[str, Alarm] = {}

    def ring(name: str, other: str) -> None:
        rings.append(name)
        alarms[other].cancel()

    first = alarms["first"] = Alarm(lambda: ring("first", "second"))
    second = alarms["second"] = Alarm(lambda: ring("second", "first"))
    moment = clock() + 0.005
    first.set(moment)
    second.set(moment)
    while clock() < moment + 0.001:
        pass  # both are over before the loop looks
    await until(clock())
    assert len(rings) == 1
    first.close()
    second.close()


async def test_a_cancelled_one_can_be_set_again(bell: Bell) -> None:
    bell.alarm.set(clock() + 0.001)
    bell.alarm.cancel()
    moment = clock() + 0.01
    bell.alarm.set(moment)
    assert await bell.ring(1) >= moment


async def test_closing_it_gives_its_descriptor_back_and_it_does_not_ring() -> None:
    before = descriptors()
    bell = Bell()
    assert descriptors() > before
    bell.alarm.set(clock() + 0.005)
    bell.alarm.close()
    bell.alarm.close()
    await until(clock() + 0.01)
    assert bell.rings == []
    assert descriptors() <= before


async def test_cancelling_a_closed_one_touches_nobody_else_s_descriptor() -> None:
    bell, other = Bell(), None
    bell.alarm.close()
    other = Bell()  # takes the number that became free
    moment = clock() + 0.005
    other.alarm.set(moment)
    bell.alarm.cancel()
    assert await other.ring(1) >= moment
    other.alarm.close()


async def test_near_moments_are_waited_for_awake_and_that_is_counted_once_however_many_wait() -> None:
    bells = [Bell() for _ in range(5)]
    await bells[0].alarm.calibrate()
    before, cpu_before, started = spun_s(), cpu_s(), clock()
    for number in range(1, 101):
        for bell in bells:
            bell.alarm.set(clock() + NEAR_S)
        while any(len(bell.rings) < number for bell in bells):  # noqa: ASYNC110  # the loop is to turn
            await asyncio.sleep(0)
    assert 0 <= spun_s() - before <= clock() - started
    assert cpu_s() >= cpu_before, "what is left out was used"
    for bell in bells:
        bell.alarm.close()


async def test_who_waits_awake_and_has_nothing_else_to_do_counts_that(bell: Bell) -> None:
    await bell.alarm.calibrate()
    before = spun_s()
    for number in range(1, 101):
        bell.alarm.set(clock() + NEAR_S)
        await bell.ring(number)
    assert spun_s() > before


async def test_work_that_is_done_while_a_moment_is_waited_for_is_no_waiting(bell: Bell) -> None:
    await bell.alarm.calibrate()
    before = spun_s()
    for number in range(1, 101):
        bell.alarm.set(clock() + NEAR_S)
        while len(bell.rings) < number:
            busy_until = clock() + 3 * EMPTY_TURN_S
            while clock() < busy_until:
                pass
            await asyncio.sleep(0)
    assert spun_s() == before


async def test_a_distant_moment_is_slept_for(bell: Bell) -> None:
    await bell.alarm.calibrate()
    before = spun_s()
    bell.alarm.set(clock() + 0.05)
    await bell.ring(1)
    assert spun_s() == before


async def test_an_alarm_that_rings_may_move_or_silence_another_that_is_due_as_well() -> None:
    later = clock() + 0.02
    moved, silenced = Bell(), Bell()

    def ring() -> None:
        moved.alarm.set(later)
        silenced.alarm.cancel()

    first = Alarm(ring)
    for alarm in (first, moved.alarm, silenced.alarm):
        alarm.set(clock())
    assert await moved.ring(1) >= later
    assert silenced.rings == []
    for alarm in (first, moved.alarm, silenced.alarm):
        alarm.close()


async def test_a_bug_behind_one_alarm_does_not_silence_the_others(bell: Bell) -> None:
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context["message"]))
    broken = Alarm(lambda: print(1 // 0))
    broken.set(clock())
    bell.alarm.set(clock())
    await bell.ring(1)
    assert reported == ["an alarm failed"]
    broken.close()


@pytest.mark.parametrize("in_s", [0.0, 0.001])
async def test_it_never_rings_once_it_is_closed(bell: Bell, in_s: float) -> None:
    bell.alarm.set(clock() + in_s)
    bell.alarm.close()
    bell.alarm.set(clock() + in_s)
    await until(clock())
    assert bell.rings == []
