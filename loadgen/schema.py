"""Which values may a document hold? Pydantic decides; this module says it to a person, with line, column and a hint.

Every model reads strictly: nothing is coerced, an unknown key is a mistake, and all mistakes of a document are found at once.
"""

from __future__ import annotations

import difflib
import types
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from loadgen.errors import MAX_PROBLEMS, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pydantic_core import ErrorDetails

    from loadgen.document import Document
    from loadgen.errors import Problem

SHOWN_CHARACTERS = 60
"""How much of an offending value a message repeats."""


class Model(BaseModel):
    """Base of everything that is read from a file: strict, immutable, closed; keys are the aliases (camelCase) if there are any."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


M = TypeVar("M", bound=Model)


def validate(model: type[M], document: Document, *, data: Any = None, at: Sequence[str | int] = ()) -> tuple[M | None, list[Problem]]:
    """Check ``data`` (default: the whole document) against a model.

    ``at`` is the path from the document's root to ``data``. Returns the validated model, or None, and every mistake up to ``MAX_PROBLEMS``.
    """
    value = document.data if data is None else data
    try:
        return model.model_validate(value), []
    except ValidationError as error:
        return None, [_problem(model, document, tuple(at), detail) for detail in error.errors(include_url=False)[:MAX_PROBLEMS]]


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Give a hint that names the nearest allowed word for a misspelt one, and all that is allowed."""
    names = list(dict.fromkeys(allowed))
    match = difflib.get_close_matches(word.lower(), [name.lower() for name in names], n=1, cutoff=0.6)
    near = [name for name in names if match and name.lower() == match[0].lower()]
    listing = f"allowed here: {', '.join(names)}"
    return f"did you mean '{near[0]}'? {listing}" if near else listing


def shown(value: object) -> str:
    """Repeat an offending value in a message: typed, short and harmless to a terminal."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = printable(str(value) if len(str(value)) <= SHOWN_CHARACTERS else f"{str(value)[:SHOWN_CHARACTERS]}…")
    return f"the text '{text}'" if isinstance(value, str) else text


def sentence(detail: ErrorDetails, name: str) -> str:
    """Say what is wrong with the value of an option, or of another thing that has no line in a file and is called ``name``."""
    return _message(detail["type"], detail.get("ctx", {}), detail["input"], detail["msg"], name)[0]


def _problem(model: type[Model], document: Document, at: tuple[str | int, ...], detail: ErrorDetails) -> Problem:
    steps, models = _walk(model, detail["loc"][:-1])
    path = (*at, *steps, *detail["loc"][-1:])
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "extra_forbidden":
        key = str(detail["loc"][-1])
        return document.problem(path, f"unknown key '{printable(key)}'", hint=nearest(key, _keys(models)), code="unknown-key", at_key=True)
    if kind == "missing":
        return document.problem(
            path[:-1], f"the key '{detail['loc'][-1]}' is missing", hint=_where(path[:-1]), code="missing-key", at_key=True
        )
    if kind == "union_tag_not_found":
        name = str(context["discriminator"]).strip("'")
        tags = [tag for each in _walk(model, detail["loc"])[1] for tag in get_args(each.model_fields[name].annotation)]
        hint = f"{_where(path)}; it can be {' or '.join(tags)}"
        return document.problem(path, f"the key '{name}' is missing", hint=hint, code="missing-key", at_key=True)
    if kind == "union_tag_invalid":
        allowed = [tag.strip(" '") for tag in str(context["expected_tags"]).split(",")]
        name = str(context["discriminator"]).strip("'")
        tag = value[name]
        return document.problem((*path, name), f"{name} cannot be {shown(tag)}", hint=nearest(str(tag), allowed), code="unknown-value")
    if kind in {"literal_error", "enum"}:
        allowed = [word.strip(" '") for word in str(context["expected"]).replace(" or ", ", ").split(",")]
        return document.problem(path, f"{_name(path)} cannot be {shown(value)}", hint=nearest(str(value), allowed), code="unknown-value")
    return document.problem(path, *_message(kind, context, value, detail["msg"], _name(path)))


def _message(kind: str, context: Mapping[str, Any], value: object, fallback: str, name: str) -> tuple[str]:
    if kind in _COUNTED:
        number = context[_COUNTED[kind][1]]
        return (f"{name} must have {_COUNTED[kind][0]} {number} {'entry' if number == 1 else 'entries'}, not {context['actual_length']}",)
    wanted = _WANTED.get(kind)
    if wanted:
        limits = {key: _whole(each) for key, each in context.items()}
        return (f"{name} must be {wanted.format(**limits)}, not {shown(_whole(value))}",)
    if kind in {"value_error", "assertion_error"}:
        return (f"{name}: {context['error']}",)
    return (f"{name}: {fallback}",)


def _whole(value: object) -> object:
    """Give a whole number as people write it: 50000, and not 50000.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_WANTED = {
    "int_type": "a whole number",
    "int_parsing_size": "a smaller number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "string_too_short": "a text that is not empty",
    "string_too_long": "at most {max_length} characters long",
    "string_pattern_mismatch": "a text like {pattern}",
    "none_required": "empty",
}
_COUNTED = {"too_short": ("at least", "min_length"), "too_long": ("at most", "max_length")}


def _name(path: Sequence[str | int]) -> str:
    words = [str(step) for step in path if isinstance(step, str)]
    return words[-1] if words else "the document"


def _where(path: Sequence[str | int]) -> str:
    words = ".".join(str(step) for step in path if isinstance(step, str))
    return f"add it under {words}" if words else "add it at the top level"


def _walk(model: type[Model], location: Sequence[str | int]) -> tuple[list[str | int], list[type[Model]]]:
    """Follow pydantic's location: give the steps that the text has, without the tags of unions, and the models that may stand there."""
    steps: list[str | int] = []
    found: list[type[Model]] = [model]
    for step in location:
        inner = [field.annotation for each in found for name, field in each.model_fields.items() if step in {name, field.alias}]
        tagged = [each for each in found if step in _tags(each)] if len(found) > 1 and not inner else []
        if inner:
            found = [each for annotation in inner for each in _models_in(annotation)]
        found = tagged or found
        steps += [] if tagged else [step]
    return steps, found


def _keys(models: Sequence[type[Model]]) -> list[str]:
    return list(dict.fromkeys(field.alias or name for each in models for name, field in each.model_fields.items()))


def _models_in(annotation: Any) -> list[type[Model]]:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return [annotation]
    origin = get_origin(annotation)
    if origin in {Union, types.UnionType, list, tuple, dict} or origin is not None:
        return [each for argument in get_args(annotation) for each in _models_in(argument)]
    return []


def _tags(model: type[Model]) -> set[str]:
    return {
        str(tag)
        for field in model.model_fields.values()
        if get_origin(field.annotation) is not None
        for tag in get_args(field.annotation)
        if isinstance(tag, str)
    }
