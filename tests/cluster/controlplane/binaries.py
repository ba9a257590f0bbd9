"""Where do the programs of the control plane come from?

The convention is envtest's: if KUBEBUILDER_ASSETS names a folder that holds a program, that one is used. Otherwise etcd is the machine's, and
what is written in Go was built once from the pinned modules ``apiserver/`` and ``istiod/`` by

    python -m tests.cluster.controlplane.binaries

which keeps it below ~/.cache under the fingerprint of what it was built from. A test never builds: it would take longer than a test may.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loadgen.errors import LoadgenError, RefusedError
from tests.cluster.controlplane import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HINT = "make controlplane"
_HERE = Path(__file__).parent
_GO = {"GOWORK": "off", "GOFLAGS": "-mod=readonly -buildvcs=false"}
_CRDS_IN_MODULE = "kubernetes/customresourcedefinitions.gen.yaml"
CRDS = "istio-crds.yaml"


@dataclass(frozen=True, slots=True)
class Artefact:
    """Files that one of our Go modules gives. ``cost`` says how long it takes; ``make`` puts them into a folder."""

    name: str
    module: Path
    files: tuple[str, ...]
    cost: str
    make: Callable[[Path, Path], None]

    def folder(self) -> Path:
        """Give the folder that holds the files, or will.

        Raises RefusedError without Go.
        """
        fingerprint = hashlib.sha256(_go_version(self.module).encode())
        for name in ("go.mod", "go.sum", "tools.go"):
            fingerprint.update((self.module / name).read_bytes())
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / "loadgen" / "controlplane" / f"{self.name}-{fingerprint.hexdigest()[:16]}"

    def built(self) -> Path:
        """Give the folder with the files; make them if nobody has yet. Two that come at once make them once.

        Raises RefusedError if Go cannot.
        """
        folder = self.folder()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder.with_suffix(".lock")):
            if not folder.is_dir():
                self._build(folder)
        return folder

    def _build(self, folder: Path) -> None:
        started, unfinished = time.monotonic(), folder.with_suffix(f".{secrets.token_hex(4)}")
        print(f"building {', '.join(self.files)} ({self.cost}) ...", file=sys.stderr, flush=True)
        try:
            unfinished.mkdir()
            self.make(self.module, unfinished)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        print(f"built {', '.join(self.files)} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def _compile(*packages: str) -> Callable[[Path, Path], None]:
    def make(module: Path, folder: Path) -> None:
        _go(module, "build", "-trimpath", "-ldflags", "-s -w", "-o", f"{folder}/", *packages)

    return make


def _copy_crds(module: Path, folder: Path) -> None:
    _go(module, "mod", "download", "istio.io/api")
    source = Path(_go(module, "list", "-m", "-f", "{{.Dir}}", "istio.io/api")) / _CRDS_IN_MODULE
    shutil.copyfile(source, folder / CRDS)


_KUBERNETES = "k8s.io/kubernetes/cmd"
ARTEFACTS = (
    Artefact("crds", _HERE / "istiod", (CRDS,), "seconds", _copy_crds),
    Artefact(
        "apiserver",
        _HERE / "apiserver",
        ("kube-apiserver", "kube-controller-manager"),
        "15 minutes of CPU, once",
        _compile(f"{_KUBERNETES}/kube-apiserver", f"{_KUBERNETES}/kube-controller-manager"),
    ),
    Artefact(
        "istiod", _HERE / "istiod", ("pilot-discovery",), "12 minutes of CPU, once", _compile("istio.io/istio/pilot/cmd/pilot-discovery")
    ),
)


def find(name: str) -> Path:
    """Give the file of one program (``etcd``, ``kube-apiserver``, ``kube-controller-manager``, ``pilot-discovery``) or of Istio's CRDs.

    Raises RefusedError that says what is missing and how to get it.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and (Path(assets) / name).is_file():
        return Path(assets) / name
    if name == "etcd":
        machine.need("etcd")
        return Path(str(shutil.which("etcd")))
    file = next(artefact.folder() / name for artefact in ARTEFACTS if name in artefact.files)
    if not file.is_file():
        raise RefusedError(f"{name} has not been built yet", hint=HINT)
    return file


def _go_version(module: Path) -> str:
    return _go(module, "env", "GOVERSION", "GOOS", "GOARCH")


def _go(module: Path, *arguments: str) -> str:
    """Run Go in a module, as a polite process; give what it prints.

    Raises RefusedError if it fails.
    """
    if shutil.which("go") is None:
        raise RefusedError(
            "there is no Go on this machine: kube-apiserver and istiod are built from source", hint="install Go 1.26 or later"
        )
    command = ["nice", "go", *arguments]
    ended = subprocess.run(command, cwd=module, env={**os.environ, **_GO}, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RefusedError(f"go {' '.join(arguments[:2])} failed in {module}: {ended.stderr[-1500:].strip()}", hint="see what Go says")
    return ended.stdout.strip()


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock file; whoever builds holds it for minutes, and then nobody else needs to."""
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Install what is missing (in CI), build what has not been built, and print where everything is."""
    try:
        machine.install_missing()
        print(find("etcd"))
        for artefact in ARTEFACTS:
            folder = artefact.built()
            for file in artefact.files:
                print(folder / file)
    except LoadgenError as error:
        print(f"{error.message}\n   hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
