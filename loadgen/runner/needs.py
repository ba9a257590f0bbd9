"""What does a run need? A mesh, loads and somebody who watches: the same story is told on a laptop and in a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from loadgen.runner.convergence import Named, Sidecars

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from loadgen.engine.edge import Edge
    from loadgen.engine.load import Sight
    from loadgen.errors import LoadgenError, MeshError
    from loadgen.ledger import Counters, ServiceReading
    from loadgen.outcome import Answer
    from loadgen.policy.rule import Rule
    from loadgen.progress import Progress
    from loadgen.recorder import Tally


class Load(Protocol):
    """One client's load as a run sees it, wherever it lives. ``ClientLoad`` says what each of these does."""

    @property
    def sight(self) -> Sight:
        """What was seen until some tenths of a second ago, or until now."""

    @property
    def last_tally(self) -> Tally:
        """The present tally, as far as it is known here."""

    async def prepare(self) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def abort(self) -> None: ...
    def ask(self, tell: Callable[[Answer], None]) -> None: ...
    async def look(self) -> Sight: ...
    async def snapshot(self) -> Tally: ...
    async def all_done_since(self, moment: float) -> bool: ...


C = TypeVar("C", bound=Named)
L = TypeVar("L", bound=Load)
L_co = TypeVar("L_co", bound=Load, covariant=True)
L_contra = TypeVar("L_contra", bound=Load, contravariant=True)


class Loads(Protocol[L_co]):
    """The loads of all clients, by name."""

    @property
    def loads(self) -> Mapping[str, L_co]:
        """The loads."""

    async def watch(self) -> LoadgenError:
        """Wait until one of them is lost; say which."""


class Mesh(Sidecars[C], Protocol[C, L_contra]):
    """What a run needs of a mesh, local or in a cluster, beside what convergence needs."""

    @property
    def hurry_s(self) -> float:
        """How long stopping, restoring and the last readings may take together when a run ends early, in seconds."""

    async def put(self, rules: Sequence[Rule]) -> Mapping[str, float]:
        """Make these rules the policy; none removes it. Gives the moment (on ``clock``) at which that was done for each client."""

    async def counters(self, client: C) -> Counters:
        """Read one sidecar's counters."""

    async def edge(self, client: C, load: L_contra, *, offset: int) -> Edge:
        """Find an edge of one client's window; ``offset`` as for ``find_edge``."""

    async def count(self, *, restart_peak: bool = False) -> ServiceReading:
        """Read the service's count. With ``restart_peak`` the peaks begin anew."""

    async def phase(self, name: str | None) -> None:
        """Hear which phase counts from now on; None between two."""

    def deaths(self) -> Sequence[MeshError]:
        """Say which parts of the mesh died, and how."""

    def gone(self) -> Collection[str]:
        """Name the clients whose sidecar is surely no more: nobody has to ask it."""

    async def watch(self) -> MeshError:
        """Wait until a part of the mesh dies."""


class Observer(Protocol):
    """Who watches a run. Nothing that it does may block."""

    def phase_began(self, name: str, policy: str, rule: str | None, convergence_s: Sequence[float]) -> None:
        """A phase begins to count. ``rule`` is what the sidecars say is in force; ``convergence_s`` is empty if nothing was toggled."""

    def answer(self, answer: Answer) -> None:
        """One of the answers, now and then."""

    def progress(self, progress: Progress) -> None:
        """Several times a second."""
