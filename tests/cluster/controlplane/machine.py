"""What does this machine lack, and how does one get it? Each thing that is missing is one sentence and one command.

In CI a machine is new and ours: there the Debian packages are installed without asking. On anybody's own machine nothing is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from loadgen.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable

PACKAGES = {
    "buildah": "buildah",
    "chromedriver": "chromium-driver",
    "chromium": "chromium",
    "debootstrap": "debootstrap",
    "etcd": "etcd-server",
    "ip": "iproute2",
    "iptables-restore": "iptables",
    "openssl": "openssl",
    "prometheus": "prometheus",
    "promtool": "prometheus",
}
"""The tools that come from Debian, and the packages that hold them."""
API_TOOLS = ("etcd", "openssl")
POD_TOOLS = ("ip", "iptables-restore")
BROWSER_TOOLS = ("chromium", "chromedriver")
METRICS_TOOLS = ("prometheus", "promtool")
IMAGE_TOOLS = ("buildah", "debootstrap")


def need(*tools: str) -> None:
    """Check that the machine has these tools.

    Raises RefusedError that names the first one that is missing.
    """
    for tool in tools:
        if shutil.which(tool) is None:
            raise RefusedError(f"there is no {tool} on this machine", hint=f"apt install {PACKAGES[tool]}")


def need_root() -> None:
    """Check that we may make network namespaces.

    Raises RefusedError if not.
    """
    if os.geteuid() != 0:
        raise RefusedError("pods are network namespaces, which only root can make", hint="run the tests as root")


def install_missing(tools: Iterable[str] = PACKAGES) -> list[str]:
    """Install the packages of the tools that are missing, if we are root on a machine of CI; give their names.

    Raises RefusedError if apt-get cannot.
    """
    packages = sorted({PACKAGES[tool] for tool in tools if shutil.which(tool) is None})
    if not packages or not os.environ.get("CI") or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return []
    print(f"installing {', '.join(packages)} ...", file=sys.stderr, flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        ended = subprocess.run(
            ["apt-get", "--quiet", *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if ended.returncode:
            raise RefusedError(f"apt-get {arguments[0]} failed: {ended.stdout[-500:].strip()}", hint=f"apt install {' '.join(packages)}")
    return packages
