"""How do people write a duration, a rate and an interval? ``1m30s``, ``50/s``, ``exponential 20ms``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from loadgen.pacing import Interval

if TYPE_CHECKING:
    from collections.abc import Callable

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "us": 1e-6, "µs": 1e-6}
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_PART = rf"({_NUMBER})(ms|us|µs|s|m|h)"
_DURATION = re.compile(rf"(?:{_PART})+")
_RATE = re.compile(rf"({_NUMBER})/(s|m|h)")
MAX_DURATION_S = 24 * 3600.0
MAX_HIT_RATE_PER_S = 1_000_000.0
MIN_RATE_PER_S = 1 / 3600.0


def duration_s(text: object) -> float:
    """Read a duration such as ``250ms``, ``8s`` or ``1m30s``, in seconds.

    Raises ValueError with a sentence for a person.
    """
    if not isinstance(text, bool) and re.fullmatch(_NUMBER, number := str(text)) and float(number):
        raise ValueError(f"the duration {_cut(number)} has no unit; write {_cut(number)}s or {_cut(number)}ms")
    if not isinstance(text, str) or not _DURATION.fullmatch(text):
        compact = "".join(text.split()) if isinstance(text, str) else ""
        example = compact if _DURATION.fullmatch(compact) else "for example 250ms, 8s or 1m30s"
        raise ValueError(f"{_said(text)} is no duration; write {example}")
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in re.findall(_PART, text))
    if seconds > MAX_DURATION_S:
        raise ValueError(f"{_said(text)} is longer than 24h")
    return seconds


def positive_duration_s(text: object) -> float:
    """Read a duration that is not zero."""
    seconds = duration_s(text)
    if not seconds:
        raise ValueError("the duration must be more than 0")
    return seconds


def rate_per_s(text: object) -> float:
    """Read a rate such as ``50/s`` or ``300/m``, per second.

    Raises ValueError with a sentence for a person.
    """
    match = _RATE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{_said(text)} is no rate; write for example 50/s or 300/m")
    rate = float(match[1]) / _UNITS_S[match[2]]
    if rate < MIN_RATE_PER_S:
        raise ValueError("the rate must be at least 1/h")
    return rate


def plain_rate_per_s(text: object) -> float:
    """Read a rate on the command line, where a bare number means per second, as in other tools."""
    rate = rate_per_s(f"{text}/s" if re.fullmatch(_NUMBER, str(text)) else text)
    if rate > MAX_HIT_RATE_PER_S:
        raise ValueError(f"the rate may be at most {MAX_HIT_RATE_PER_S:,.0f}/s")
    return rate


def interval(text: object) -> Interval:
    """Read a time between two events: ``none``, ``20ms``, ``constant 20ms`` or ``exponential 20ms`` (the mean).

    Raises ValueError with a sentence for a person.
    """
    if isinstance(text, Interval):
        return text
    if text == "none":
        return Interval()
    words = text.split() if isinstance(text, str) else []
    if len(words) == 2 and words[0][0].isalpha():  # noqa: PLR2004  # a kind and a duration
        if words[0] not in {"constant", "exponential"}:
            raise ValueError(f"'{words[0]}' is no kind of interval; write none, constant 20ms or exponential 20ms")
        return Interval(duration_s(words[1]), exponential=words[0] == "exponential")
    return Interval(duration_s(text))


def duration_text(seconds: float) -> str:
    """Write a duration as a scenario has it: ``30ms``, ``1.5s``, ``90s``."""
    if not seconds or seconds >= 1:
        return f"{seconds:.10g}s"
    return f"{seconds * 1e3:.10g}ms" if seconds >= 0.001 else f"{seconds * 1e6:.10g}us"  # noqa: PLR2004


def interval_text(mean_s: float, *, exponential: bool) -> str:
    """Write an interval as a scenario has it: ``none``, ``constant 20ms``, ``exponential 20ms``."""
    return f"{'exponential' if exponential else 'constant'} {duration_text(mean_s)}" if mean_s else "none"


def seconds_text(seconds: float) -> str:
    """Write a duration for a person: ``820 µs``, ``21.4 ms``, ``3.20 s``."""
    if seconds < 0.001:  # noqa: PLR2004
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.2f} s"


def about_text(seconds: float) -> str:
    """Write a duration that is about so long: ``67 ms``, ``3.8 s``, ``1,800 s``."""
    if seconds < 0.1:  # noqa: PLR2004
        return f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:,.0f} s"  # noqa: PLR2004


def rate_text(rate_per_s: float) -> str:
    """Write a rate for a person: ``357.6/s``, ``0.00083/s``."""
    return f"{rate_per_s:,.1f}/s" if rate_per_s >= 1 or not rate_per_s else f"{rate_per_s:.2g}/s"


def _said(value: object) -> str:
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    return "nothing" if value is None else f"'{_cut(str(value))}'"


def _cut(text: str) -> str:
    return f"{text[:40]}…" if len(text) > 40 else text  # noqa: PLR2004


def share_text(count: int, total: int) -> str:
    """Write a share; 100% and 0% stand for exactly all and none."""
    if not total:
        return "-"
    if count in {0, total}:
        return "100%" if count else "0%"
    return f"{min(max(count / total, 0.001), 0.999):.1%}"


def range_text(low: float | None, high: float | None, text: Callable[[float], str]) -> str:
    """Write between what a figure lies, each end as ``text`` does: ``26.9% to 30.1%``, ``at most 5``, ``at least 72.0%``, ``5``."""
    if low is None or high is None:
        return f"at most {text(high)}" if high is not None else f"at least {text(low)}" if low is not None else "-"
    return text(low) if text(low) == text(high) else f"{text(low)} to {text(high)}"
