"""What does docker/Dockerfile make, and how does it run without a container engine?

The image is built by buildah on a base of debootstrap's, and kept below ``~/.cache/loadgen/image``; only what changed is built anew. It runs
from its unpacked file system: read-only, as the image's user, as process 1 of a process namespace, with no shell that could be started.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pip

from loadgen import __version__
from tests.cluster.controlplane import machine

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

REPOSITORY = Path(__file__).parents[2]
SUITE = "bookworm"
PACKAGES = "python3"
UNWANTED = ("var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale")
"""What slim images leave out; bytecode goes, too, so that the start is measured as it is on one of them."""
KEPT = 3
IN_USE_S = 6 * 3600.0
"""So many versions of the image stay unpacked, and all that were used in this time: another test run, or a cluster, may still use them."""
PIP_OPTIONS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout", "retries")

_ENTER = """
set -eu
root=$1
user=$2
[ -z "$3" ] || hostname "$3"
shift 3
mount --make-rprivate /
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for each in null zero random urandom; do : > "$root/dev/$each"; mount --bind "/dev/$each" "$root/dev/$each"; done
for shell in sh bash dash; do mount --bind /dev/null "$root/usr/bin/$shell"; done
mount -t tmpfs -o mode=755 tmpfs "$root/run"
while [ "$1" != -- ]; do
    case $2 in /run/*) mkdir -p "$root${2%/*}"; : > "$root$2";; esac
    mount --bind -o ro "$1" "$root$2"
    shift 2
done
shift
mount -o remount,ro "$root/run"
while [ "$1" != -- ]; do export "$1"; shift; done
shift
exec setpriv --no-new-privs chroot --userspec="$user" --groups= "$root" "$@"
"""
_ISOLATED = ("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "sh", "-c", _ENTER, "sh")


@dataclass(frozen=True, slots=True)
class Image:
    """A built image: its unpacked file system, which nobody may write to, and what it was made of.

    ``layers`` are the layers beyond the base, as uncompressed tar files. ``config`` is the configuration of the image specification.
    """

    rootfs: Path
    layers: tuple[Path, ...]
    config: Mapping[str, object]

    @property
    def size_bytes(self) -> int:
        """What the image adds to its base, uncompressed."""
        return sum(layer.stat().st_size for layer in self.layers)

    def command(
        self,
        arguments: Sequence[str] = (),
        *,
        entrypoint: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        files: Mapping[str, Path] | None = None,
        host_name: str = "",
    ) -> list[str]:
        """Give the command that runs the image in the present network namespace; put ``ip netns exec NAME`` before it for another.

        Arguments:
            arguments: what replaces the image's CMD, as ``args`` does in a pod.
            entrypoint: what replaces the image's ENTRYPOINT, as ``command`` does in a pod.
            environment: variables besides the image's own.
            files: read-only files of this machine by their path in the container: one that is there (/etc/hosts, /etc/resolv.conf),
                or any below /run or /var/run.
            host_name: what the machine is called inside; empty for as outside.

        """
        config: dict[str, list[str]] = {key: value for key, value in self.config.items() if isinstance(value, list)}
        variables = [*config["Env"], *(f"{name}={value}" for name, value in (environment or {}).items())]
        mounts = [each for path, source in (files or {}).items() for each in (str(source.resolve()), path.removeprefix("/var"))]
        program = [*(entrypoint or config["Entrypoint"]), *(arguments or ([] if entrypoint else config.get("Cmd", [])))]
        enter = ["env", "-i", f"PATH={os.environ['PATH']}", *_ISOLATED]
        return [*enter, str(self.rootfs), str(self.config["User"]), host_name, *mounts, "--", *variables, "--", *program]


def first_process(runner: subprocess.Popen[str]) -> int:
    """Give the process id, outside, of a running container's process 1: signals go there, for its runner ignores them."""
    children = Path(f"/proc/{runner.pid}/task/{runner.pid}/children").read_text(encoding="ascii").split()
    return int(children[0])


def build_image(cache: Path | None = None, *, target: str = "") -> Image:
    """Build the image, or that of another ``target`` of the Dockerfile, as far as it is not there already; several processes may ask at the same time. Needs root.

    Raises RefusedError if the machine lacks a tool, RuntimeError with the builder's words.
    """
    machine.need(*machine.IMAGE_TOOLS)
    machine.need_root()
    cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "loadgen" / "image"
    folder = cache / _digest(SUITE, PACKAGES, *UNWANTED, platform.machine(), pip.__version__)
    folder.mkdir(parents=True, exist_ok=True)
    sources = sorted(file for path in _context() for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
    read = [f"{file.relative_to(REPOSITORY)} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in sources if file.suffix != ".pyc"]
    version = _digest(*read)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _Builder(folder, target).image(version)


def _context() -> list[Path]:
    """Give what the image is made of: what .dockerignore lets through."""
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return [REPOSITORY / "docker" / "Dockerfile", *(REPOSITORY / line[1:] for line in lines if line.startswith("!"))]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


class _Builder:
    """buildah with a storage of its own below ``folder``."""

    def __init__(self, folder: Path, target: str) -> None:
        self.folder = folder
        self.target = target

    @property
    def _stages(self) -> tuple[tuple[str, str], ...]:
        """The stages that are built, each with what it is called: the packages' first, for they stay while our own code changes."""
        if self.target:
            return (f"{self.target}-dependencies", f"{self.target}-dependencies"), (self.target, f"loadgen-{self.target}")
        return ("dependencies", "dependencies"), ("", "loadgen")

    def image(self, version: str) -> Image:
        """Give the image of one version of the sources."""
        unpacked = self.folder / "-".join(filter(None, (version, self.target)))
        described = unpacked / "image.json"
        if not described.exists():
            self._base()
            self._build()
            self._unpack(unpacked)
            self._forget_old(unpacked)
        os.utime(unpacked)
        description = json.loads(described.read_text(encoding="utf-8"))
        layers = tuple(unpacked / "layers" / name for name in description["layers"])
        return Image(unpacked / "rootfs", layers, description["config"])

    def _buildah(self, *arguments: str | Path) -> str:
        return _run("buildah", "--root", self.folder / "storage", "--runroot", self.folder / "run", *arguments)

    def _there(self, name: str) -> bool:
        return f"localhost/{name}\n" in self._buildah("images", "--format", "{{.Name}}:{{.Tag}}", "--noheading")

    def _base(self) -> None:
        """Make the base, and the same with this interpreter's pip, for the stages that install."""
        if self._there("build-base:latest"):
            return
        with tempfile.TemporaryDirectory(dir=self.folder) as made:
            root = Path(made, "root")
            _run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, root)
            for name in UNWANTED:
                shutil.rmtree(root / name)
            for cached in list(root.rglob("__pycache__")):
                shutil.rmtree(cached)
            for name in ("etc/hostname", "etc/hosts", "etc/resolv.conf"):  # debootstrap takes this machine's
                (root / name).write_text("", encoding="ascii")
            _run("tar", "-C", root, "--numeric-owner", "--exclude=./dev/*", "-cf", Path(made, "base.tar"), ".")
            self._commit("scratch", "base", Path(made, "base.tar"), "/")
        self._commit("localhost/base", "build-base", Path(pip.__file__).parent, "/usr/lib/python3/dist-packages/pip")

    def _commit(self, origin: str, name: str, added: Path, place: str) -> None:
        container = self._buildah("from", origin).strip()
        self._buildah("add", "--quiet", container, added, place)
        self._buildah("config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
        self._buildah("commit", "--quiet", "--rm", container, f"localhost/{name}")

    def _build(self) -> None:
        """Build the stages; those that have a name of their own stay when what no name leads to is removed."""
        with _pip_secrets() as secrets:
            common: list[str | Path] = [
                "bud",
                "--isolation",
                "chroot",
                "--layers",
                *secrets,
                "--file",
                REPOSITORY / "docker" / "Dockerfile",
            ]
            common += ["--build-arg", "BASE=localhost/base", "--build-arg", "BUILD_BASE=localhost/build-base"]
            common += ["--build-arg", f"VERSION={__version__}"]
            for stage, name in self._stages:
                chosen = ["--target", stage] if stage else []
                self._buildah(*common, *chosen, "--tag", f"localhost/{name}", REPOSITORY)
        self._buildah("rmi", "--prune")

    def _unpack(self, unpacked: Path) -> None:
        """Unpack the layers one over the other; none of ours removes a file, which would take more."""
        shutil.rmtree(unpacked, ignore_errors=True)
        unpacked.mkdir()
        layers, rootfs = unpacked / "layers", unpacked / "rootfs"
        self._buildah("push", "--quiet", "--disable-compression", f"localhost/{self._stages[-1][1]}", f"dir:{layers}")
        manifest = json.loads((layers / "manifest.json").read_text(encoding="utf-8"))
        config, *blobs = (each["digest"].partition(":")[2] for each in (manifest["config"], *manifest["layers"]))
        rootfs.mkdir(mode=0o755)
        for blob in blobs:
            _run("tar", "-C", rootfs, "--numeric-owner", "-xpf", layers / blob)
        (layers / blobs[0]).unlink()
        description = {"layers": blobs[1:], "config": json.loads((layers / config).read_text(encoding="utf-8"))["config"]}
        (unpacked / "image.json").write_text(json.dumps(description), encoding="utf-8")

    def _forget_old(self, newest: Path) -> None:
        unpacked = sorted((path.parent for path in self.folder.glob("*/image.json")), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in [path for path in unpacked if path != newest][KEPT - 1 :]:
            if time.time() - old.stat().st_mtime > IN_USE_S:
                shutil.rmtree(old)


def _run(*command: str | Path) -> str:
    ended = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if ended.returncode:
        said = (ended.stdout + ended.stderr)[-3000:]
        raise RuntimeError(f"{' '.join(map(str, command))[:300]} ended with {ended.returncode}:\n{said}")
    return ended.stdout


@contextlib.contextmanager
def _pip_secrets() -> Iterator[list[str]]:
    """Hand this machine's way to a package index into the build, as secrets that no layer keeps."""
    listed = _run(sys.executable, "-m", "pip", "config", "list").splitlines()
    settings = {key.rpartition(".")[2]: value.strip("'") for key, _, value in (line.partition("=") for line in listed)}
    with tempfile.TemporaryDirectory() as folder:
        conf = Path(folder, "pip.conf")
        lines = ["[global]", *(f"{key.removeprefix('default-')} = {settings[key]}" for key in PIP_OPTIONS if key in settings)]
        secrets = ["--secret", f"id=pip.conf,src={conf}"]
        if "cert" in settings:
            lines.append("cert = /run/secrets/ca.crt")
            secrets += ["--secret", f"id=ca.crt,src={settings['cert']}"]
        conf.write_text("\n".join(lines) + "\n", encoding="utf-8")
        yield secrets
