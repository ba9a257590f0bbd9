"""Which options does the command line have, and the start page? Each is an environment variable, too, as Locust's own are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadgen.errors import UsageError
from loadgen.evidence import State

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping

MESHES = ("auto", "local", "cluster", "off")
TOGGLES = ("auto", "own", "patch", "overlay")
VERDICTS = tuple(state.value for state in State)
OVERFLOWS = ("failure", "failure without a rule", "no failure")
STOP_TIMEOUT_S = 6.0
"""Locust's own default kills users in the middle of a request, which then counts at their sidecar and nowhere else. One may take 5 s.

Workers are away for as long after each test: Locust has them wait, whether or not a user is left.
"""

WEB_HOST = "127.0.0.1"
"""Locust's own default lets everybody on the network start a load, and now toggle a policy; ``--web-host '*'`` does it all the same."""


def add(parser: Any) -> None:
    """Add the options to Locust's parser."""
    _option(
        parser,
        "mesh",
        "Where the clients' sidecars are: the mesh of 'loadgen up' (local), the workers' pods (cluster), or none (off). auto takes the local one if it runs.",
        choices=MESHES,
        default="auto",
    )
    _option(parser, "mesh-pid", "Process id of the 'loadgen up' that is meant, if several run.", type=int, default=None)
    _add_cluster(parser)
    _option(
        parser,
        "overflow",
        "What an overflow (503 by a connection-pool limit) is in Locust's statistics and for its exit code. It is an entry of its own in any case.",
        on_start_page=True,
        choices=OVERFLOWS,
        default=OVERFLOWS[0],
    )
    _option(parser, "expect-body", "The body that counts as ok; default: that of the mesh's scenario, or any.", default="")
    _option(parser, "expect-verdict", "End with 99 if a test's verdict is another one; for CI.", choices=("", *VERDICTS), default="")
    _option(
        parser,
        "allow-host",
        "A host beside this machine and the mesh's service that may be loaded; may be given several times.",
        action="append",
        default=[],
    )
    _option(
        parser,
        "web-allow-host",
        "A name beside localhost and --web-host by which the web UI may be called, such as its proxy's; may be given several times.",
        action="append",
        default=[],
    )
    _option(
        parser,
        "mesh-control-anywhere",
        "Let the policy be toggled on the page even if other machines reach it and there is no --web-login.",
        action="store_true",
        default=False,
    )
    parser.set_defaults(stop_timeout=STOP_TIMEOUT_S, web_host=WEB_HOST)


def _add_cluster(parser: Any) -> None:
    """Add what ``--mesh cluster`` needs to know."""
    toggle = "Cluster: create our own rule, patch the one that is there, or lay one of ours over it."
    hold = "Cluster: how long a rule may be in force at most; then it is removed, and its guard sees to it."
    scenario = "Cluster: the file that says which service is meant, the workers' namespace and labels, and the rule."
    _option(parser, "scenario", scenario, default="")
    _option(parser, "kubeconfig", "Cluster: the kubeconfig; default: as kubectl, in a pod its service account.", default="")
    _option(parser, "context", "Cluster: the context of the kubeconfig; default: the current one.", default="")
    _option(parser, "toggle", toggle, choices=TOGGLES, default=TOGGLES[0])
    _option(parser, "mesh-hold", hold, default="30m")
    _option(parser, "allow-managed", "Cluster: patch a rule even if Argo CD, Flux or Helm manages it.", action="store_true")


def _option(parser: Any, name: str, what: str, *, on_start_page: bool = False, **more: Any) -> None:
    variable = f"LOADGEN_{name.upper().replace('-', '_')}"
    parser.add_argument(f"--{name}", env_var=variable, include_in_web_ui=on_start_page, help=what, **more)


@dataclass(frozen=True)
class Given:
    """What the command line says, read once: the start page can rewrite every option later.

    ``mesh`` is what the desk has to know of the mesh; ``rule`` is the text of ``--rule``, empty without one.
    """

    mesh: Mapping[str, Any]
    allowed: tuple[str, ...]
    expect_body: str
    expect_verdict: str
    headless: bool
    rule: str

    @classmethod
    def of(cls, options: Namespace) -> Given:
        """Read the options.

        Raises UsageError if the rule's file cannot be read.
        """
        names = ("scenario", "kubeconfig", "context", "toggle", "mesh_hold", "allow_managed")
        mesh = {"kind": options.mesh, "pid": options.mesh_pid, **{name: getattr(options, name) for name in names}}
        allowed = tuple(options.allow_host)
        return cls(mesh, allowed, options.expect_body, options.expect_verdict, options.headless, _rule_of(options))


def _rule_of(options: Namespace) -> str:
    """Read the file that ``--rule`` names, if there is that option and it names one.

    Raises UsageError if it cannot be read.
    """
    path: str = getattr(options, "rule", "")
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"--rule {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def check(options: Namespace) -> None:
    """Check what the start page may have changed: what comes from there was checked by nobody.

    Raises UsageError if an option has no such value.
    """
    if options.overflow not in OVERFLOWS:
        options.overflow = OVERFLOWS[0]  # or the next start that says nothing of it were refused, too
        raise UsageError(f"--overflow is one of: {', '.join(OVERFLOWS)}")
