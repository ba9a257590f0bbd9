"""How is an element of a page written? As a node of a tree; text is escaped when the tree is written, and control characters when it is put in."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from loadgen.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

_RAW = frozenset({"script", "style"})
"""What is in these is no text from outside, and is written as it is."""


def E(tag: str, *children: ET.Element | str | Mapping[str, str], **attributes: str) -> ET.Element:  # noqa: N802  # as lxml calls it
    """Make an element. Children are elements and texts; a mapping holds attributes whose names Python cannot write."""
    found = {name.rstrip("_"): printable(value) for name, value in attributes.items()}
    element = ET.Element(tag, found)
    last: ET.Element | None = None
    for child in children:
        if isinstance(child, ET.Element):
            element.append(child)
            last = child
        elif isinstance(child, str):
            text = child if tag in _RAW else printable(child)
            if last is None:
                element.text = (element.text or "") + text
            else:
                last.tail = (last.tail or "") + text
        else:
            element.attrib.update({name: printable(value) for name, value in child.items()})
    return element


def to_html(element: ET.Element) -> str:
    """Write a tree as HTML."""
    return ET.tostring(element, encoding="unicode", method="html")
