"""Where do the control plane's programs come from, and does a machine that lacks something say so?"""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from loadgen.errors import RefusedError
from tests.cluster.controlplane import binaries, machine
from tests.cluster.controlplane.binaries import Artefact, find

MODULE = Path(binaries.__file__).parent / "istiod"
NEEDS_GO = pytest.mark.skipif(shutil.which("go") is None, reason="there is no Go on this machine")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache with nothing in it, and no folder of envtest's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return tmp_path / "loadgen" / "controlplane"


@pytest.fixture
def bare_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without any tool but those that the test puts there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_a_folder_of_envtest_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "kube-apiserver").touch()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert find("kube-apiserver") == tmp_path / "kube-apiserver"


@NEEDS_GO
def test_what_was_not_built_says_how_to_build_it(cache: Path) -> None:
    with pytest.raises(RefusedError, match="kube-apiserver has not been built yet") as refused:
        find("kube-apiserver")
    assert refused.value.hint == "make controlplane"


@NEEDS_GO
def test_two_that_build_at_once_build_once(cache: Path) -> None:
    builds = []

    def make(module: Path, folder: Path) -> None:
        builds.append(folder)
        time.sleep(0.1)
        (folder / "program").touch()

    artefact = Artefact("twice", MODULE, ("program",), "no time", make)
    both = [threading.Thread(target=artefact.built) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert len(builds) == 1
    assert (artefact.folder() / "program").is_file()


@NEEDS_GO
def test_a_build_that_fails_leaves_nothing_that_looks_like_one(cache: Path) -> None:
    def make(module: Path, folder: Path) -> None:
        (folder / "program").touch()
        raise RefusedError("no memory")

    with pytest.raises(RefusedError, match="no memory"):
        Artefact("never", MODULE, ("program",), "no time", make).built()
    assert [path for path in cache.iterdir() if path.is_dir()] == []


def test_a_machine_without_a_tool_says_what_to_install(cache: Path, bare_path: Path) -> None:
    with pytest.raises(RefusedError, match="there is no etcd on this machine") as refused:
        find("etcd")
    assert refused.value.hint == "apt install etcd-server"
    with pytest.raises(RefusedError, match="there is no Go on this machine"):
        find("kube-apiserver")


def test_pods_need_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(RefusedError, match="only root"):
        machine.need_root()


@pytest.mark.parametrize(("in_ci", "installed"), [(True, ["etcd-server", "iptables"]), (False, [])])
def test_packages_are_installed_in_ci_only(monkeypatch: pytest.MonkeyPatch, bare_path: Path, in_ci: bool, installed: list[str]) -> None:
    asked = bare_path / "asked"
    (bare_path / "apt-get").write_text(f'#!/bin/sh\necho "$@" >> {asked}\n', encoding="utf-8")
    (bare_path / "apt-get").chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("CI", "true" if in_ci else "")
    assert machine.install_missing(["etcd", "iptables-restore"]) == installed
    assert asked.exists() is in_ci
    if in_ci:
        assert asked.read_text(encoding="utf-8").splitlines()[-1].endswith("--no-install-recommends etcd-server iptables")
