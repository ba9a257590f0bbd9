"""Is a plain scalar of a rule read as kubectl reads it? What is wanted here was printed by sigs.k8s.io/yaml 1.6.0, ``YAMLToJSON``."""

from __future__ import annotations

import math

import pytest

from loadgen.plain import core_value, kubectl_value

KUBECTL: list[tuple[str, object]] = [
    ("010", 8), ("0o10", 8), ("0O10", 8), ("-010", -8), ("+010", 8), ("-0o10", -8), ("08", 8), ("0o8", "0o8"), ("00", 0), ("0", 0), ("-0", 0),
    ("0x10", 16), ("0X10", 16), ("-0x10", -16), ("+0x10", 16), ("0x1g", "0x1g"), ("0b11", 3), ("-0b11", -3), ("0B11", 3), ("+0b11", 3),
    ("1_000", 1000), ("_1", "_1"), ("1_", 1), ("1__0", 10), ("0_10", 8), ("0_8", 8), ("0x_1", 1), ("0x1_0", 16), ("1_000.5", 1000.5),
    ("1_0e1_0", 100_000_000_000), ("+5", 5), ("-5", -5), ("5.0", 5), ("5.", 5), ("5e0", 5), ("5E0", 5), ("5e+0", 5), ("+5.0", 5), ("01e1", 10),
    (".5", 0.5), ("+.5", 0.5), (".", "."), (".e1", ".e1"), ("1e3", 1000), ("1e400", "1e400"), ("0x1p4", "0x1p4"), ("1.5e-3", 0.0015), ("010.5", 10.5),
    ("18446744073709551615", 2**64 - 1), ("inf", "inf"), ("nan", "nan"), (".inf", math.inf), ("-.inf", -math.inf), ("=", "="), ("<<", "<<"),
    ("yes", True), ("Yes", True), ("YES", True), ("yES", "yES"), ("no", False), ("on", True), ("On", True), ("off", False), ("y", True), ("Y", True),
    ("n", False), ("true", True), ("True", True), ("tRue", "tRue"), ("~", None), ("null", None), ("Null", None), ("nULL", "nULL"), ("", None),
    ("1:30", "1:30"), ("2020-01-01", "2020-01-01"), ("2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z"), ("10s", "10s"), ("user", "user"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), KUBECTL, ids=[text for text, _ in KUBECTL])
def test_a_plain_value_of_a_rule_is_what_kubectl_would_send(text: str, value: object) -> None:
    read = kubectl_value(text)
    assert (type(read), read) == (type(value), value)


@pytest.mark.parametrize("text", ["9" * 40, "0" + "7" * 60, "0x" + "f" * 64, "1e30"])
def test_a_number_that_no_key_takes_stays_too_large(text: str) -> None:
    read = kubectl_value(text)
    assert isinstance(read, (int, float))
    assert read > 2**64


@pytest.mark.parametrize("text", ["0" * 100_000, "9" * 100_000, "1" + "_" * 100_000, "+", "-", "0x", "0b", "+_", "1" * 65])
def test_no_text_is_too_much_for_it(text: str) -> None:
    kubectl_value(text)
    core_value(text)
