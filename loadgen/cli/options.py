"""Option types that several commands share."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click


class Quantity(click.ParamType[float]):
    """A text such as ``8s`` or ``50/s`` that a function of ``loadgen.quantity`` reads; the function is looked up when an option is given."""

    def __init__(self, name: str, reader: str) -> None:
        self.name = name
        self._reader = reader

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the text that was typed."""
        try:
            return float(getattr(import_module("loadgen.quantity"), self._reader)(value))  # --help must not pay for the import
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Quantity("duration", "positive_duration_s")
RATE = Quantity("rate", "rate_per_s")
HIT_RATE = Quantity("rate", "plain_rate_per_s")
