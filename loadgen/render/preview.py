"""What does a person see of a plan? Who is concerned, which rule wins, the limits before and after, and what would be changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadgen.policy.state import SidecarState
    from loadgen.preview import Preview


def preview_text(preview: Preview) -> str:
    """Write a plan for a person."""
    return "\n".join(_lines(preview))


def _lines(preview: Preview) -> Iterator[str]:
    count = len(preview.names)
    clients = f"{count} client{'s' if count != 1 else ''} in namespace {preview.client.namespace}"
    yield f"{clients} call {preview.service.host}:{preview.service.ports[0]}"
    yield f"   now:       {_state(preview.before)}"
    yield f"   with it:   {_state(preview.after)}"
    limits = preview.after.limits.in_force()
    if count > 1 and limits:
        most = ", ".join(f"{name} {value * count}" for name, value in limits.items() if name != "maxRequestsPerConnection")
        if most:
            yield f"   each client's sidecar counts for itself, so the service may see up to {count} times that: {most}"
    if preview.mode:
        yield ""
        yield f"How: {preview.mode}. {preview.reason[:1].upper()}{preview.reason[1:]}."
        if preview.diff:
            yield ""
            yield from (printable(line) for line in preview.diff.splitlines())
    for note in preview.notes:
        yield ""
        yield f"note: {printable(note)}"
    for obstacle in preview.obstacles:
        yield ""
        yield f"in the way: {printable(obstacle)}"
    yield ""
    yield "Nothing was changed."


def _state(state: SidecarState) -> str:
    limits = ", ".join(f"{name} {value}" for name, value in state.limits.in_force().items())
    if state.rule is None:
        return "no rule has an effect, so nothing is limited"
    return f"rule {state.rule}: {limits or 'sets no limit'}"
