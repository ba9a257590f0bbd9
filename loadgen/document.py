"""Which values does a YAML text hold, and where in the text does each of them stand?

Strict on purpose: a duplicate key, a tag, a text that is too large, too deep or that expands too far (a "YAML bomb") is a
mistake with a position. What a plain scalar stands for is the caller's to say (see ``loadgen.plain``). The merge key ``<<`` is written
out; a key that it would replace is a mistake, because YAML and kubectl do not agree which of the two counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from loadgen.errors import InputError, Problem
from loadgen.plain import NULL, core_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAX_CHARACTERS = 1 << 20
MAX_DEPTH = 64
MAX_VALUES = 50_000
"""Values after the expansion of aliases; a shared node counts each time that it is used."""

_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""What YAML counts as the end of a line; ``str.splitlines`` knows more and would shift the numbers."""
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that YAML does not allow."""
_STR_TAG = "tag:yaml.org,2002:str"
_CONTAINER_TAGS = frozenset({"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})

_MERGE = "<<"

_BaseLoader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
"""libyaml where the wheel has it: 1 MiB composes in well under a second, against some 20 s in pure Python."""


class _Loader(_BaseLoader):  # type: ignore[misc]  # it depends on the wheel which one that is
    """Gives a plain scalar no tag, so that ``!!str 5``, which is text, is told from ``5``."""

    def resolve(self, kind: type[yaml.Node], value: str | None, implicit: Any) -> Any:
        """Give the tag of a node that has none in the text."""
        return None if kind is yaml.ScalarNode and implicit[0] else super().resolve(kind, value, implicit)


@dataclass(slots=True)
class Document:
    """One YAML document: its plain values and a way back to the text.

    ``data`` holds only ``dict``, ``list``, ``str``, ``int``, ``float``, ``bool`` and ``None``; the keys are strings.
    ``problems`` holds what is wrong with the text itself (duplicate keys, tags); the values are usable all the same.
    """

    file: str
    lines: tuple[str, ...]
    root: yaml.Node
    data: Any = None
    problems: list[Problem] = field(default_factory=list)

    def problem(self, path: Sequence[str | int], message: str, *, hint: str = "", code: str = "invalid", at_key: bool = False) -> Problem:
        """Make a problem at the value that ``path`` leads to (at its key with ``at_key``).

        A step of the path that the text does not have is skipped, so that the nearest enclosing value is shown.
        """
        node, key = self._find(path)
        return self.problem_at(key if at_key and key is not None else node, message, hint=hint, code=code)

    def _find(self, path: Sequence[str | int]) -> tuple[yaml.Node, yaml.Node | None]:
        node, key = self.root, None
        for step in path:
            if isinstance(node, yaml.MappingNode):
                for candidate, value in node.value:
                    if candidate.value == step:
                        node, key = value, candidate
                        break  # of two equal keys the first one counts
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                node, key = node.value[step], None
        return node, key

    def problem_at(self, node: yaml.Node, message: str, *, hint: str = "", code: str = "invalid") -> Problem:
        """Make a problem at a node of the text."""
        start, end = node.start_mark, node.end_mark
        excerpt = self.lines[start.line] if start.line < len(self.lines) else ""
        one_line = end.line == start.line and end.column > start.column
        width = end.column - start.column if one_line else max(1, len(excerpt.rstrip()) - start.column)
        return Problem(self.file, start.line + 1, start.column + 1, message, hint, code, excerpt=excerpt, width=width)


def parse_documents(text: str, file: str, *, plain: Callable[[str], Any] = core_value) -> list[Document]:
    """Read every non-empty document of a YAML text; ``plain`` says what a scalar without quotes stands for.

    Raises InputError if the text is no YAML, or too large to be looked at. What is wrong inside a readable document is
    in its ``problems``, so that it can be shown together with what the reader of the values finds.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            [
                Problem(
                    file,
                    0,
                    0,
                    f"the file has more than {MAX_CHARACTERS:,} characters",
                    "split it, or take out what does not belong there",
                    "too-large",
                )
            ]
        )
    text = text.removeprefix("\ufeff")
    lines = tuple(_LINE_BREAK.split(text))
    documents = []
    reader = _Reader(plain)
    try:
        _check_characters(text, file, lines)
        _check_depth(text, file, lines)
        loader = _Loader(text)
        try:
            while loader.check_node():
                root = loader.get_node()
                if not (_is_plain(root) and root.value in NULL):
                    documents.append(reader.read(Document(file, lines, root)))
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise InputError([_syntax_problem(error, file, lines)]) from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError([Problem(file, 0, 0, f"the file is not YAML: {str(error).splitlines()[0]}", code="not-yaml")]) from error
    return documents


def _check_characters(text: str, file: str, lines: Sequence[str]) -> None:
    found = _FORBIDDEN.search(text)
    if found:
        *before, rest = _LINE_BREAK.split(text[: found.start()])
        message = f"the file is not YAML: it holds the control character U+{ord(found[0]):04X}"
        hint = "take it out, or write it as an escape in double quotes"
        raise InputError([Problem(file, len(before) + 1, len(rest) + 1, message, hint, "not-yaml", excerpt=lines[len(before)])])


def _check_depth(text: str, file: str, lines: Sequence[str]) -> None:
    """Refuse deep nesting while it is still a flat stream of events: composing it recurses, in C without a limit."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line, column = (event.start_mark.line, event.start_mark.column) if event.start_mark else (0, 0)
                message = f"the values are nested more than {MAX_DEPTH} levels deep"
                hint = "no scenario and no rule needs that"
                raise InputError([Problem(file, line + 1, column + 1, message, hint, "too-deep", excerpt=lines[line])])
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _is_plain(node: yaml.Node) -> bool:
    """Whether a scalar stands without quotes and without a tag; libyaml shows no quotes with an empty style, the Python parser with none."""
    return isinstance(node, yaml.ScalarNode) and node.tag is None and not node.style


def _is_merge(key: yaml.Node) -> bool:
    return _is_plain(key) and key.value == _MERGE


def _word(key: yaml.Node) -> str | None:
    return key.value if isinstance(key, yaml.ScalarNode) else None


def _syntax_problem(error: yaml.MarkedYAMLError, file: str, lines: Sequence[str]) -> Problem:
    line, column = _place(error, lines)
    excerpt = lines[line]
    indent = excerpt[: len(excerpt) - len(excerpt.lstrip())]
    if "\t" in indent:
        column = indent.index("\t")
        return Problem(file, line + 1, column + 1, "a tab cannot indent YAML", "use spaces", "tab", excerpt=excerpt)
    reason = " ".join(filter(None, [error.problem, error.context])) or "cannot be read"
    return Problem(
        file,
        line + 1,
        column + 1,
        f"the file is not YAML: {reason}",
        "check the indentation, the colons and the quotes, here and in the line above",
        "not-yaml",
        excerpt=excerpt,
    )


def _place(error: yaml.MarkedYAMLError, lines: Sequence[str]) -> tuple[int, int]:
    """Give the line and column, from 0, that help most: not the end of the file for what was opened before and never closed."""
    marks = [error.problem_mark, error.context_mark]
    if "simple key" in (error.context or ""):  # a key without a colon: it is noticed one line too late
        marks.reverse()
    for mark in marks:
        if mark and mark.line < len(lines) and lines[mark.line].strip():
            return mark.line, mark.column
    last = max((number for number, line in enumerate(lines) if line.strip()), default=0)
    return last, max(0, len(lines[last]) - 1)


class _Reader:
    """Turns the node graphs of one text into plain values, counting depth and expansion on the way."""

    _document: Document

    def __init__(self, plain: Callable[[str], Any]) -> None:
        self._plain = plain
        self._values = 0
        self._merging = 0

    def read(self, document: Document) -> Document:
        self._document = document
        document.data = self._value(document.root, 0)
        return document

    def _value(self, node: yaml.Node, depth: int) -> Any:
        self._count(node, 1)
        if depth > MAX_DEPTH:
            raise self._bomb(node)
        self._check_tag(node)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, depth + 1) for item in node.value]
        return self._plain(node.value) if _is_plain(node) else node.value

    def _count(self, node: yaml.Node, values: int) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            message = f"the file holds more than {MAX_VALUES:,} values, its aliases written out"
            raise InputError([self._document.problem_at(node, message, hint="no scenario and no rule needs that", code="bomb")])

    def _bomb(self, node: yaml.Node) -> InputError:
        message = f"an alias contains itself, or is nested more than {MAX_DEPTH} levels deep"
        return InputError([self._document.problem_at(node, message, hint="write the values out", code="bomb")])

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        self._write_out(node)
        values: dict[str, Any] = {}
        first: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._add(key, "a key must be a plain word, not a list or a mapping", code="key")
                continue
            if key.value in first:
                self._twice(key, first[key.value])
                continue
            first[key.value] = key
            values[key.value] = self._value(value, depth + 1)
        return values

    def _write_out(self, node: yaml.MappingNode) -> None:
        """Put what a merge key stands for in its place, before the mapping's own pairs: so it is also found there."""
        if not any(_is_merge(key) for key, _ in node.value):
            return
        if self._merging > MAX_DEPTH:
            raise self._bomb(node)
        self._merging += 1
        own = [pair for pair in node.value if not _is_merge(pair[0])]
        names = {_word(key) for key, _ in own}
        node.value = [*(pair for pair in self._inherited(node) if _word(pair[0]) not in names), *own]
        self._merging -= 1

    def _inherited(self, node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        """Give the pairs that the mapping's merge key brings in; of several mappings the first one with a key counts."""
        above: set[object] = set()
        merge: yaml.Node | None = None
        for key, value in node.value:
            if not _is_merge(key):
                above |= {_word(key)} if merge is None else set()
            elif merge is not None:
                self._twice(key, merge)
            else:
                merge = key
                yield from self._brought(key, value, above)

    def _brought(self, merge: yaml.Node, value: yaml.Node, above: set[object]) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        found: dict[object, tuple[yaml.Node, yaml.Node]] = {}
        for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if not isinstance(source, yaml.MappingNode):
                self._add(source, "a merge key takes a mapping, or a list of mappings", hint="write << : *anchor", code="merge")
                continue
            self._check_tag(source)
            self._write_out(source)
            self._count(source, len(source.value))
            for pair in source.value:
                found.setdefault(_word(pair[0]) or id(pair[0]), pair)
        for name in found.keys() & above:
            self._add(merge, f"it is not clear whether the key '{name}' above or the one of << counts", hint="write << first", code="merge")
        yield from found.values()

    def _twice(self, key: yaml.Node, first: yaml.Node) -> None:
        message = f"the key '{key.value}' stands twice in the same mapping"
        self._add(key, message, hint=f"the first one is in line {first.start_mark.line + 1}; keep one of them", code="duplicate-key")

    def _check_tag(self, node: yaml.Node) -> None:
        if node.tag not in _CONTAINER_TAGS and node.tag not in {_STR_TAG, None}:
            written = str(node.tag).replace("tag:yaml.org,2002:", "!!", 1)
            self._add(node, f"the tag {written} is not allowed", hint="write the plain value without a tag", code="tag")

    def _add(self, node: yaml.Node, message: str, *, hint: str = "", code: str = "invalid") -> None:
        self._document.problems.append(self._document.problem_at(node, message, hint=hint, code=code))
