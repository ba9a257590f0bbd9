"""What does a person see of a plan? Who is concerned, which rule wins, the limits before and after, and what would be changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.errors import printable
from loadgen.estimate import NOTHING
from loadgen.quantity import duration_text, range_text, rate_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from loadgen.estimate import Estimate
    from loadgen.outlook import Outlook
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
    yield from _together(preview)
    if len(preview.fates) > 1 or not all(fate.limits for fate in preview.fates):
        yield "   rules:     " + "\n              ".join(printable(str(fate)) for fate in preview.fates)
    for outlook in preview.outlooks:
        yield ""
        yield from _outlook(outlook)
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


def _together(preview: Preview) -> Iterator[str]:
    """Write what the limits come to in all clients together, and where they hold once more."""
    count, passing = len(preview.names), preview.workers - 1
    most = _listed({name: value for name, value in preview.together().in_force().items() if name != "maxRequestsPerConnection"})
    each = "each client's sidecar counts for itself"
    if most and passing and count:
        race = f"its {preview.workers} workers may let {passing} more pass"
        yield f"   {f'{each}, and {race}' if count > 1 else f'the sidecar counts, and {race}'}, so the service may see up to: {most}"
    elif most and count > 1:
        yield f"   {each}, so the service may see up to {count} times that: {most}"
    if preview.server is not None:
        limits = _listed(preview.server.limits.in_force())
        yield f"   pods of the service that have sidecars enforce rule {preview.server.named}, too, each on what comes in from all clients: {limits}; what they reject is not in what is said below"


def _outlook(outlook: Outlook) -> Iterator[str]:
    """Write what will be seen of a phase: each client, and all of them together, whose figures chance moves less."""
    found, clients = outlook.prediction, outlook.clients
    rate = f" at {outlook.rate_per_s:.6g}/s in each client" if outlook.rate_per_s is not None else ""
    yield f"What will be seen in phase {outlook.phase}, if the service takes {outlook.service_time}{rate}"
    if found.offered is not None:
        offered = range_text(found.offered.low, found.offered.high, lambda erlang: f"{erlang:.4g}")
        yield f"   offered:   {offered} Erlang in each client, on average so many would be in service at a time without a limit"
    if found.admitted != NOTHING:
        one, all_ = (_figure(found.admitted.times(count), lambda count: f"{count:.0f}", bound=True) for count in (1, clients))
        yield f"   admitted:  {one} at a time in each client{f', {all_} of all {clients} together' if clients > 1 else ''}"
    yield f"   lost:      {_figure(found.lost, lambda share: f'{share:.1%}', outlook)}"
    if found.through_per_s != NOTHING:
        each = f" ({_figure(found.through_per_s, rate_text)} in each client)" if clients > 1 else ""
        yield f"   goodput:   {_figure(found.through_per_s.times(clients), rate_text, outlook)}{each}"
    yield f"   because {printable(found.because)}."


def _figure(estimate: Estimate, text: Callable[[float], str], outlook: Outlook | None = None, *, bound: bool = False) -> str:
    """Write one figure: its bounds, or what theory gives and, where a phase is named, between what it is measured there in 99 of 100 runs.

    What has one bound only is given by theory as no more than a bound, too; a run is judged by the one that leaves room for chance.
    """
    between = range_text(estimate.low, estimate.high, text)
    if estimate.value is None or bound:
        return between if between != "-" else "not predicted" if estimate.value is None else text(estimate.value)
    low, high = (None if end is None else estimate.value for end in (estimate.low, estimate.high))
    value = text(estimate.value) if between == "-" else range_text(low, high, text)
    if outlook is None or between in {"-", value}:
        return value
    return f"{value}; measured in {duration_text(outlook.duration_s)}: {between} in 99 of 100 runs"


def _state(state: SidecarState) -> str:
    if state.rule is None:
        return "no rule has an effect, so nothing is limited"
    return f"rule {state.named}: {_listed(state.limits.in_force()) or 'sets no limit'}"


def _listed(limits: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in limits.items())
