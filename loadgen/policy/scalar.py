"""Which single values does a DestinationRule accept? Integers, percentages, durations, names; the limits are Istio's.

Each function takes what stands in the file and gives the value, or raises ValueError with a sentence for a person.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from fractions import Fraction

from loadgen.errors import printable
from loadgen.schema import SHOWN_CHARACTERS, shown

INT32_MAX = 2**31 - 1
UINT32_MAX = 2**32 - 1
MAX_HOST_CHARACTERS = 255
MAX_LABEL_CHARACTERS = 63
_MAX_DURATION_NS = 2**63 - 1
_MAX_DURATION_CHARACTERS = 64
_NS_PER_MS = 1_000_000
_PER_CENT = 100
_UNITS_NS = {"ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION_PART = r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)"
_DURATION = re.compile(rf"([-+]?)((?:{_DURATION_PART})+)")
_NUMBER = re.compile(r"\s*[-+]?[0-9]+(\.[0-9]+)?\s*")
_DNS_LABEL = re.compile(r"[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?")
_WILDCARD_LABEL = re.compile(r"\*|(\*-?)?[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?")
_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_WORD = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[-+]\d\d:\d\d)")


def int32(value: object) -> int:
    """Read a limit: 0 to 2147483647, where Istio takes 0 for unset."""
    return _whole(value, INT32_MAX)


def uint32(value: object) -> int:
    """Read a count: 0 to 4294967295."""
    return _whole(value, UINT32_MAX)


def percent(value: object) -> int:
    """Read a whole percentage, 0 to 100."""
    number = _number(value)
    if number not in range(_PER_CENT + 1):
        raise ValueError(f"must be a whole percentage from 0 to 100, not {shown(value)}")
    return int(number)


def share(value: object) -> float:
    """Read a percentage that may have a fraction, 0 to 100."""
    number = _number(value)
    if not 0 <= number <= _PER_CENT:
        raise ValueError(f"must be a percentage from 0 to 100, not {shown(value)}")
    return number


def positive_ms(value: object) -> int:
    """Read a duration in Go's syntax (``250ms``, ``1m30s``), at least 1ms and without a part of one; milliseconds."""
    number = duration_ns(value)
    if number < _NS_PER_MS:
        raise ValueError(f"must be at least 1ms, not {value}")
    if number % _NS_PER_MS:
        raise ValueError(f"must be whole milliseconds, not {value}; Istio takes no finer durations")
    return number // _NS_PER_MS


def zero_or_positive_ms(value: object) -> int:
    """Read a duration that may also be ``0s``; milliseconds."""
    return 0 if duration_ns(value) == 0 else positive_ms(value)


def duration_ns(value: object) -> int:
    """Read a duration as Go's ``time.ParseDuration`` does; nanoseconds, a finer part is cut off."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        message = f"the duration {shown(value)} has no unit; write {value}s or {value}ms"
        raise ValueError(message)  # noqa: TRY004  # pydantic shows ValueErrors only
    if value == "0":
        return 0
    match = _DURATION.fullmatch(value) if isinstance(value, str) and len(value) <= _MAX_DURATION_CHARACTERS else None
    if match is None:
        raise ValueError(f"{shown(value)} is no duration; write for example 250ms, 10s or 1m30s")
    total = int(
        sum(
            Fraction(f"0{number}" if number[0] == "." else number.rstrip(".")) * _UNITS_NS[unit]
            for number, unit in re.findall(_DURATION_PART, match[2])
        )
    )
    if total > _MAX_DURATION_NS:
        raise ValueError(f"{shown(value)} is longer than a duration can be (about 292 years)")
    return -total if match[1] == "-" else total


def host(value: str) -> str:
    """Check the host of a rule: a name, a dotted name, or a wildcard in its first label."""
    if not value:
        raise ValueError("the host is empty; write the service's name, for example user.base.svc.cluster.local")
    if len(value) > MAX_HOST_CHARACTERS:
        raise ValueError(f"the host has {len(value)} characters, {MAX_HOST_CHARACTERS} are allowed")
    first, *rest = value.split(".")
    if not _fits(_WILDCARD_LABEL, first):
        raise ValueError(f"{quoted(value)} is no valid domain: {quoted(first)} is no valid label")
    if rest and rest[-1].isdecimal():
        raise ValueError(f"{quoted(value)} is no valid domain: the last label cannot be a number (and a rule cannot name an IP address)")
    labels = rest[:-1] if rest and not rest[-1] else rest
    for label in labels:
        if not _fits(_DNS_LABEL, label):
            raise ValueError(f"{quoted(value)} is no valid domain: {quoted(label)} is no valid label")
    return value


def subset_name(value: str) -> str:
    """Check the name of a subset: a DNS-1123 label."""
    if not value:
        raise ValueError("the name of a subset cannot be empty")
    if not _fits(_DNS_LABEL, value):
        raise ValueError(f"{quoted(value)} is no valid subset name; use letters, digits and '-', at most {MAX_LABEL_CHARACTERS}")
    return value


def object_name(value: str) -> str:
    """Check the name of a Kubernetes object: a DNS-1123 subdomain."""
    if not _OBJECT_NAME.fullmatch(value) or len(value) > MAX_HOST_CHARACTERS - 2:
        raise ValueError(f"{quoted(value)} is no valid name; use lower-case letters, digits, '-' and '.'")
    return value


def namespace_name(value: str) -> str:
    """Check the name of a namespace: a DNS-1123 label."""
    if not _fits(_NAMESPACE, value):
        raise ValueError(f"{quoted(value)} is no valid namespace; use lower-case letters, digits and '-', at most {MAX_LABEL_CHARACTERS}")
    return value


def labels(value: dict[str, str]) -> dict[str, str]:
    """Check labels that Istio compares with those of pods."""
    for key, word in value.items():
        prefix, slash, name = key.rpartition("/")
        if not _fits(_LABEL_WORD, name) or (slash and not _OBJECT_NAME.fullmatch(prefix)):
            raise ValueError(f"{quoted(key)} is no valid label key")
        if word and not _fits(_LABEL_WORD, word):
            raise ValueError(f"{quoted(word)} is no valid value of the label {quoted(key)}")
    return value


def timestamp(value: object) -> datetime | None:
    """Read a time as Kubernetes writes it (RFC 3339); nothing stays nothing."""
    if value is None or (isinstance(value, datetime) and value.tzinfo):
        return value
    if not isinstance(value, str) or not _TIMESTAMP.fullmatch(value):
        raise ValueError(f"{shown(value)} is no time; write for example 2026-01-31T12:00:00Z")
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{shown(value)} is no time: {error}") from error


def given(value: object) -> object:
    """Refuse a key without a value, as ``kubectl apply`` does."""
    if value is None:
        raise ValueError("has no value; write one or leave the key out")
    return value


def quoted(text: str) -> str:
    """Repeat a text in a message: in quotes, short, and harmless to a terminal."""
    return f"'{printable(text[:SHOWN_CHARACTERS])}{'…' if len(text) > SHOWN_CHARACTERS else ''}'"


def _whole(value: object, largest: int) -> int:
    number = _number(value)
    if not isinstance(number, int):
        raise ValueError(f"must be a whole number, not {shown(value)}")  # noqa: TRY004  # pydantic shows ValueErrors only
    if number < 0:
        raise ValueError(f"must be non-negative, not {shown(value)}")
    if number > largest:
        raise ValueError(f"must be at most {largest}, not {shown(value)}; leave the key out for no limit")
    return number


def _number(value: object) -> int | float:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        raise ValueError(f"must be a number without quotes: write {value.strip()}")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"must be a number, not {shown(value)}")  # noqa: TRY004  # pydantic shows ValueErrors only
    return value


def _fits(pattern: re.Pattern[str], word: str) -> bool:
    return len(word) <= MAX_LABEL_CHARACTERS and pattern.fullmatch(word) is not None
