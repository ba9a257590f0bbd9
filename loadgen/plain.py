"""Which value does a plain scalar of YAML stand for, one without quotes and without a tag?

Two answers: that of YAML 1.2's core schema, for our own files, and that of kubectl, for what ``kubectl apply -f`` would read. The two
differ where a limit can turn into another one: ``010`` is 10 here and 8 there, ``1_000`` is text here and 1000 there.
"""

from __future__ import annotations

import math
import re

NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_KUBECTL_TRUE = _TRUE | {"y", "Y", "yes", "Yes", "YES", "on", "On", "ON"}
_KUBECTL_FALSE = _FALSE | {"n", "N", "no", "No", "NO", "off", "Off", "OFF"}
_INT = re.compile(r"[-+]?[0-9]{1,40}|0x[0-9a-fA-F]{1,32}|0o[0-7]{1,40}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,4})?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_GO_INT = re.compile(
    r"(?P<sign>[-+]?)(0[xX](?P<hex>[0-9a-fA-F]{1,64})|0[bB](?P<binary>[01]{1,64})|0[oO]?(?P<octal>[0-7]{1,64})|(?P<decimal>0|[1-9][0-9]{0,63}))"
)
"""What ``strconv.ParseInt`` takes with base 0: as in Go's own text, a leading 0 makes a number octal. One beyond 64 bits is a float there; no key takes either."""
_GO_BASES = {"hex": 16, "binary": 2, "octal": 8, "decimal": 10}
_WHOLE_IN_JSON = 1e21
"""Below it Go writes a whole float into JSON as an integer: 5.0 reaches the API server as 5."""


def core_value(text: str) -> str | float | bool | None:
    """Read a plain scalar as YAML 1.2's core schema does: ``on`` and ``1:30`` are text, ``010`` is 10."""
    if text in NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INT.fullmatch(text):
        return int(text, 0) if text[:2] in {"0x", "0o"} else int(text)
    return _float(text)


def kubectl_value(text: str) -> str | float | bool | None:
    """Read a plain scalar as kubectl does, with YAML 1.1's words and Go's numbers; measured with sigs.k8s.io/yaml 1.6.0."""
    if text in NULL:
        return None
    if text in _KUBECTL_TRUE or text in _KUBECTL_FALSE:
        return text in _KUBECTL_TRUE
    digits = text.replace("_", "") if text[0] in "+-0123456789" else text
    number = _go_int(digits)
    if number is not None:
        return number
    value = _float(digits)
    if isinstance(value, str) or (math.isinf(value) and not _SPECIAL_FLOAT.fullmatch(text)):
        return text
    return int(value) if abs(value) < _WHOLE_IN_JSON and value.is_integer() else value


def _go_int(text: str) -> int | None:
    found = _GO_INT.fullmatch(text)
    if found is None:
        return None
    digits, base = next((found[name], base) for name, base in _GO_BASES.items() if found[name] is not None)
    return int(f"{found['sign']}{digits}", base)


def _float(text: str) -> str | float:
    """Read a number with a point or an exponent, or a special one; what is neither stays text."""
    if _FLOAT.fullmatch(text):
        return float(text)
    if not _SPECIAL_FLOAT.fullmatch(text):
        return text
    if text.lower() == ".nan":
        return math.nan
    return math.copysign(math.inf, -1 if text[0] == "-" else 1)
