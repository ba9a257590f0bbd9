"""Option types that several commands share."""

from __future__ import annotations

from typing import Any

import click


class DurationType(click.ParamType[float]):
    """A duration such as ``8s`` or ``1m30s``, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the text that was typed."""
        from loadgen.quantity import positive_duration_s  # noqa: PLC0415  # --help must not pay for it

        try:
            return positive_duration_s(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class RateType(click.ParamType[float]):
    """A rate such as ``50/s``, per second."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the text that was typed."""
        from loadgen.quantity import rate_per_s  # noqa: PLC0415  # --help must not pay for it

        try:
            return rate_per_s(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
