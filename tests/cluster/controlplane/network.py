"""Where do pods live? Each in a network namespace of its own, all on one bridge; from there they reach each other and the control plane.

Every name begins with ``lg<pid><letter>-``: runs at the same time never meet, and what a killed run left behind is known by its dead pid and
removed by the next one. Nothing of the machine changes: no forwarding, no rule outside of the pods, a range of addresses that no network uses.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import itertools
import json
import os
import re
import shutil
import signal
import string
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loadgen.errors import RefusedError
from tests.cluster.controlplane import machine
from tests.cluster.controlplane.patience import until
from tests.cluster.controlplane.plane import SERVICE_RANGE

if TYPE_CHECKING:
    from collections.abc import Iterator

POD_RANGE = ipaddress.ip_network("198.18.0.0/16")
"""The other half of the range for benchmarks (RFC 2544); each run takes a /24 of it."""
FILES = Path("/etc/netns")
"""``ip netns exec NAME`` shows a process the files of the folder NAME in here in the place of those in /etc."""
_OURS = re.compile(r"^lg(\d+)[a-z]-")
_PLACE = "02:00:00:00:00:"
"""How the hardware addresses of pods begin: of our own making, and known on the bridge only."""
_LETTERS = itertools.cycle(string.ascii_lowercase)


@dataclass(frozen=True, slots=True)
class Network:
    """One run's network. ``mark`` begins all its names; ``prefix`` is the first three numbers of its addresses."""

    mark: str
    prefix: str

    @property
    def bridge(self) -> str:
        """The bridge's name."""
        return f"{self.mark}-br"

    @property
    def gateway(self) -> str:
        """The machine's own address on the bridge: the control plane listens there."""
        return f"{self.prefix}.1"

    def address(self, number: int) -> str:
        """Give the address of the pod with that number (2 to 254)."""
        return f"{self.prefix}.{number}"

    def namespace(self, address: str) -> str:
        """Give the name of the network namespace that has an address."""
        return f"{self.mark}-{address.rpartition('.')[2]}"

    def attach(self, number: int, hosts: Path, interception: str = "") -> str:
        """Make the network namespace of a pod, with these names and this text for ``iptables-restore``; give its name.

        Whoever has the same address later is found at the same place: nobody has to forget where the one before was.
        """
        name, address = f"{self.mark}-{number}", self.address(number)
        (FILES / name).mkdir(parents=True)
        (FILES / name / "hosts").symlink_to(hosts)
        run(
            "ip -batch -",
            f"netns add {name}\nlink add {name} type veth peer name eth0 address {_PLACE}{number:02x} netns {name}\nlink set {name} master {self.bridge} up\n",
        )
        run(
            f"ip -n {name} -batch -",
            f"link set lo up\naddress add {address}/24 dev eth0\nlink set eth0 up\nroute add {SERVICE_RANGE} via {self.gateway}\n",
        )
        if interception:
            run(f"ip netns exec {name} iptables-restore", interception)
        return name

    def release(self, name: str) -> None:
        """End what still runs in a namespace, and remove it."""
        until(lambda: not _killed(name), f"no process is left in {name}")
        with contextlib.suppress(RefusedError):
            run(f"ip link delete {name}")
        run(f"ip netns delete {name}")
        shutil.rmtree(FILES / name, ignore_errors=True)

    def empty(self) -> None:
        """Remove every pod's namespace."""
        for name in _namespaces():
            if name.startswith(f"{self.mark}-"):
                self.release(name)

    def remove(self) -> None:
        """Remove the bridge and every namespace on it."""
        self.empty()
        with contextlib.suppress(RefusedError):
            run(f"ip link delete {self.bridge}")
        for folder in FILES.glob(f"{self.mark}-*"):
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            FILES.rmdir()


@contextlib.contextmanager
def pod_network() -> Iterator[Network]:
    """Make a network for pods, and remove it with all that is in it.

    Raises RefusedError if we may not, or cannot.
    """
    machine.need_root()
    machine.need(*machine.POD_TOOLS)
    with _alone():
        sweep()
        network = Network(f"lg{os.getpid()}{next(_LETTERS)}", _free_prefix())
        run(
            "ip -batch -",
            f"link add {network.bridge} type bridge\naddress add {network.gateway}/24 dev {network.bridge}\nlink set {network.bridge} up\n",
        )
    try:
        yield network
    finally:
        network.remove()


def sweep() -> None:
    """Remove the networks of runs that are dead."""
    for mark in {name.partition("-")[0] for name in leftovers()}:
        pid = int(mark[2:-1])
        if not Path(f"/proc/{pid}").exists():
            Network(mark, "").remove()


def leftovers() -> list[str]:
    """Give all namespaces, links and folders of ours on this machine, of live runs and of dead ones."""
    links = [link["ifname"] for link in json.loads(run("ip -json link"))]
    folders = [folder.name for folder in FILES.glob("*")]
    return [name for name in (*_namespaces(), *links, *folders) if _OURS.match(name)]


def run(command: str, text: str = "") -> str:
    """Run a command of the machine's with a text as its input; give what it prints.

    Raises RefusedError with what it says if it fails.
    """
    ended = subprocess.run(command.split(), input=text, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RefusedError(f"{command} failed: {ended.stderr.strip()}", hint="network namespaces need root, iproute2 and iptables")
    return ended.stdout


def _killed(name: str) -> list[str]:
    """Kill what runs in a namespace; give the process ids."""
    pids = run(f"ip netns pids {name}").split()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    return pids


def _namespaces() -> list[str]:
    return [line.split()[0] for line in run("ip netns list").splitlines()]


def _free_prefix() -> str:
    taken = {info["local"].rpartition(".")[0] for link in json.loads(run("ip -json -4 address")) for info in link["addr_info"]}
    for subnet in POD_RANGE.subnets(new_prefix=24):
        prefix = str(subnet.network_address).rpartition(".")[0]
        if prefix not in taken:
            return prefix
    raise RefusedError(f"all of {POD_RANGE} is taken", hint="end some of the test runs")


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let one run at a time choose its addresses. The lock is this machine's network namespace itself: it leaves no file behind."""
    with Path("/proc/self/ns/net").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
