"""Does the guard undo a change whose run is dead, and only then?"""

from __future__ import annotations

import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from loadgen.cluster.api import KubeApi
from loadgen.cluster.change import Mode
from loadgen.cluster.finding import Fate
from loadgen.cluster.guard import guard, guard_job
from loadgen.cluster.lease import LeaseLostError
from loadgen.cluster.marks import guard_name, journal_name, lease_name, overlay_name, rfc3339
from loadgen.cluster.paths import config_maps, jobs, leases, pods, rules
from loadgen.cluster.rights import Touched
from loadgen.errors import MeshError
from tests.cluster.controlplane.patience import until
from tests.cluster.moody import Moody, resets
from tests.cluster.rules import abandoned, access, host, new_run, owners_rule, taking_turn
from tests.story.command import Loadgen, finish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.cluster.controlplane.plane import ControlPlane

pytestmark = pytest.mark.anyio
QUICK: dict[str, Any] = {"look_s": 0.1, "lease_s": 3.0, "settle_s": 0.0}


@pytest.fixture
async def api(control_plane: ControlPlane) -> AsyncIterator[KubeApi]:
    token = control_plane.users.token("admin")
    async with KubeApi(lambda: access(control_plane.url, control_plane.authority, token)) as client:
        yield client


@pytest.fixture
def base(make_namespace: Callable[..., str]) -> str:
    return make_namespace("base")


async def test_without_a_journal_its_work_is_done(api: KubeApi, base: str, namespace: str, tmp_path: Path) -> None:
    with anyio.fail_after(20.0):
        undone = await guard(api, host(base), namespace, folder=tmp_path, **QUICK)
    assert undone.fate is Fate.VERIFIED


@pytest.mark.parametrize("mode", list(Mode))
async def test_a_run_whose_lease_is_not_renewed_is_undone(mode: Mode, api: KubeApi, base: str, namespace: str, tmp_path: Path) -> None:
    if mode is not Mode.OWN:
        await api.create(rules("v1", base), owners_rule(base))
    before = await api.list(rules("v1", base))
    await abandoned(api, base, namespace, mode, tmp_path / "runner")
    told: list[str] = []
    with anyio.fail_after(30.0):
        undone = await guard(api, host(base), namespace, folder=tmp_path / "guard", tell=told.append, **QUICK)
    assert undone.fate is Fate.VERIFIED
    after = await api.list(rules("v1", base))
    assert [each["spec"] for each in after] == [each["spec"] for each in before]
    assert await api.list(rules("v1", namespace)) == []
    assert await api.find(config_maps(namespace, journal_name(host(base)))) is None
    assert await api.find(leases(namespace, lease_name(host(base)))) is None
    assert "is dead or its time is over" in told[0]


async def test_a_run_that_lives_is_left_alone_until_it_is_done(api: KubeApi, base: str, namespace: str, tmp_path: Path) -> None:
    ended: list[Fate] = []
    end = anyio.Event()

    async def watch() -> None:
        ended.append((await guard(api, host(base), namespace, folder=tmp_path / "guard", **QUICK)).fate)
        end.set()

    async with anyio.create_task_group() as tasks:
        async with taking_turn(api, base, namespace, Mode.OWN, tmp_path, lease_s=3.0) as toggle:
            tasks.start_soon(watch)
            await toggle.apply()
            await anyio.sleep(4.0)  # longer than it lasts if it is not renewed
            assert not ended
            await toggle.check()
        with anyio.fail_after(20.0):
            await end.wait()
    assert ended == [Fate.VERIFIED]


async def test_a_run_that_lives_beyond_the_time_of_its_change_is_undone_and_learns_of_it(
    api: KubeApi, base: str, namespace: str, tmp_path: Path
) -> None:
    toggle = await abandoned(api, base, namespace, Mode.OWN, tmp_path / "runner", lasts_s=2.5, lease_s=30.0)
    lost: list[LeaseLostError] = []

    async def keep() -> None:
        toggle._lease._lasts_s = 1.0  # renewed often, so that the test is short
        lost.append(await toggle._lease.keep())

    began = time.monotonic()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep)
        with anyio.fail_after(20.0):
            undone = await guard(api, host(base), namespace, folder=tmp_path / "guard", **QUICK)
    assert undone.fate is Fate.VERIFIED
    assert time.monotonic() - began > 1.0
    assert await api.list(rules("v1", base)) == []
    assert lost
    with pytest.raises(MeshError):
        await toggle.apply()
    assert (await toggle.restore()).fate is Fate.VERIFIED
    assert await api.list(rules("v1", base)) == []


async def test_a_run_past_the_time_of_its_change_hears_that_it_was_its_guard_and_not_somebody_else(
    api: KubeApi, base: str, namespace: str, tmp_path: Path
) -> None:
    toggle = await abandoned(api, base, namespace, Mode.OWN, tmp_path / "runner", lasts_s=1.0, lease_s=30.0)
    with anyio.fail_after(20.0):
        await guard(api, host(base), namespace, folder=tmp_path / "guard", **QUICK)
    over = f"is gone; the time of the run's change was over at {rfc3339(toggle._run.expires_at)}, and then its guard undoes it"
    with pytest.raises(LeaseLostError, match=over):  # the rule is gone, too, and the next renewal is far
        await toggle.check()


async def test_its_job_is_accepted_also_where_pods_must_be_restricted(api: KubeApi, base: str, make_namespace: Callable[..., str]) -> None:
    home = make_namespace("restricted", **{"pod-security.kubernetes.io/enforce": "restricted", "istio-injection": "enabled"})
    run = new_run(api, base, home)
    job = await api.create(jobs(home), guard_job(run, "loadgen:1", lasts_s=100.0), fieldValidation="Strict")
    template = job["spec"]["template"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "guard", "labels": template["metadata"]["labels"]},
        "spec": template["spec"],
    }
    await api.create(pods(home), pod, dryRun="All")
    assert template["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"
    assert template["spec"]["serviceAccountName"] == "loadgen-guard"
    (container,) = template["spec"]["containers"]
    port = container["readinessProbe"]["tcpSocket"]["port"]
    assert container["args"] == ["guard", "--host", host(base), "--namespace", home, "--ready-port", str(port)]
    assert "imagePullSecrets" not in template["spec"]
    assert job["spec"]["activeDeadlineSeconds"] == 400


async def test_its_job_names_the_rules_that_it_must_be_able_to_put_back_and_gets_its_image_as_the_clients_do(
    api: KubeApi, base: str, namespace: str
) -> None:
    touched = [Touched(f"{base}/user", creates=True), Touched(f"{base}/owners", creates=False)]
    job = guard_job(new_run(api, base, namespace), "loadgen:1", lasts_s=100.0, touched=touched, pull_secrets=("registry",))
    spec = (await api.create(jobs(namespace), job, fieldValidation="Strict"))["spec"]["template"]["spec"]
    assert spec["containers"][0]["args"][-4:] == ["--creates", f"{base}/user", "--changes", f"{base}/owners"]
    assert spec["imagePullSecrets"] == [{"name": "registry"}]


async def test_it_is_ready_when_it_has_seen_the_cluster_and_not_before(
    control_plane: ControlPlane, api: KubeApi, base: str, namespace: str, tmp_path: Path
) -> None:
    is_ready = anyio.Event()
    seen: list[bool] = []

    async def away(exchange: Any) -> None:
        seen.append(is_ready.is_set())
        await resets(exchange)

    touched = [Touched(f"{base}/user", creates=True)]
    async with (
        Moody.serving(control_plane.url, control_plane.authority) as moody,
        KubeApi(lambda: access(moody.url, "", control_plane.users.token("admin"))) as way,
        taking_turn(api, base, namespace, Mode.OWN, tmp_path),
        anyio.create_task_group() as tasks,
    ):
        for method, part in (("POST", "selfsubjectaccessreviews"), ("GET", "configmaps"), ("GET", "leases")):
            moody.play(method, part, away)
        tasks.start_soon(partial(guard, way, host(base), namespace, touched=touched, ready=is_ready.set, **QUICK))
        with anyio.fail_after(20.0):
            await is_ready.wait()
        tasks.cancel_scope.cancel()
    assert seen == [False] * 3


async def test_its_port_opens_when_it_is_ready_and_goes_with_it(
    control_plane: ControlPlane, api: KubeApi, base: str, namespace: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = Loadgen(tmp_path, {"KUBECONFIG": str(control_plane.kubeconfig("admin")), "XDG_STATE_HOME": str(tmp_path)})
    async with taking_turn(api, base, namespace, Mode.OWN, tmp_path):
        process = command.start(
            "guard", "--host", host(base), "--namespace", namespace, "--ready-port", str(port), "--creates", f"{base}/user"
        )
        await anyio.to_thread.run_sync(until, lambda: is_open(port), "the port is open")
    ended = await anyio.to_thread.run_sync(finish, process)
    assert (ended.code, ended.stderr) == (0, "")
    assert not is_open(port)


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


async def test_when_the_guard_goes_the_rule_over_it_goes_too_and_the_run_is_told(
    control_plane: ControlPlane, api: KubeApi, base: str, namespace: str, tmp_path: Path
) -> None:
    control_plane.start_controllers()
    await api.create(rules("v1", base), owners_rule(base))
    async with taking_turn(api, base, namespace, Mode.OVERLAY, tmp_path, guarded=True) as toggle:
        await toggle.apply()
        await toggle.check()
        rule, guard_path = rules("v1", namespace, overlay_name(host(base))), jobs(namespace, guard_name(host(base)))
        control_plane.api.delete(guard_path, propagationPolicy="Background")
        until(lambda: control_plane.api.find(rule) is None, "the rule is collected")
        with pytest.raises(MeshError, match="was deleted by somebody else"):
            await toggle.check()
