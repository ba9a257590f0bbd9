"""Is everything that a run needs looked at before anything is touched, and is all that is missing said at once?"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from loadgen.cluster.access import find_access
from loadgen.cluster.api import KubeApi
from loadgen.cluster.change import Mode
from loadgen.cluster.preflight import ServicePod, service_pods
from loadgen.cluster.survey import Survey, survey
from loadgen.errors import RefusedError
from loadgen.inputs import load_plan
from loadgen.preview import fates
from tests.cluster.site import Site, make_site, without_policy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from loadgen.inputs import Plan
    from tests.cluster.controlplane.plane import ControlPlane

pytestmark = pytest.mark.anyio
IN_TEST = (
    ("coordination.k8s.io", "leases"),
    ("", "configmaps"),
    ("batch", "jobs"),
    ("", "pods"),
    ("", "pods/proxy"),
    ("", "secrets"),
    ("networking.istio.io", "destinationrules"),
)


@pytest.fixture
def site(control_plane: ControlPlane, make_namespace: Callable[..., str]) -> Site:
    return make_site(control_plane, make_namespace)


@pytest.fixture
def whole(site: Site) -> Site:
    """A service and two load pods that want nothing."""
    site.add_service()
    site.add_pod("client-a")
    site.add_pod("client-b")
    return site


async def look_at(site: Site, plan: Plan, *, user: str = "admin", mode: Mode | None = None) -> Survey:
    async with KubeApi(find_access(kubeconfig=site.plane.kubeconfig(user))) as api:
        return await survey(api, plan, mode=mode, allow_managed=False)


async def test_where_nothing_is_missing_a_run_may_begin(whole: Site, tmp_path: Path) -> None:
    found = await look_at(whole, whole.plan(tmp_path))
    assert found.obstacles == ()
    assert found.pods == ("client-a", "client-b")
    assert found.found.pods.image == "loadgen:test"
    assert found.change is not None
    assert found.change.mode is Mode.OWN
    assert [write.key for write in found.change.writes] == [f"{whole.base}/user"]


async def test_the_secrets_with_which_the_pods_get_their_image_are_found_for_the_guard(whole: Site, tmp_path: Path) -> None:
    assert (await look_at(whole, whole.plan(tmp_path))).found.pods.pull_secrets == ()
    whole.add_pod("client-0", imagePullSecrets=[{"name": "registry"}, {"name": "mirror"}])
    found = await look_at(whole, whole.plan(tmp_path, ("count: 2", "count: 3")))
    assert (found.found.pods.image, found.found.pods.pull_secrets) == ("loadgen:test", ("registry", "mirror"))


async def test_more_pods_than_the_scenario_wants_are_an_obstacle_for_they_would_go_on(whole: Site, tmp_path: Path) -> None:
    whole.add_pod("client-0")
    found = await look_at(whole, whole.plan(tmp_path))
    assert found.obstacles == (
        "3 load pods call the service, the scenario wants 2, and the others would go on: say --clients 3, or scale the Deployment",
    )


async def test_every_pod_that_cannot_be_used_is_named_with_the_reason(whole: Site, tmp_path: Path) -> None:
    whole.add_pod("client-c", sidecar=False)
    whole.add_pod("client-d", ready=False)
    whole.add_pod("client-e", phase="Failed")
    found = await look_at(whole, whole.plan(tmp_path, ("count: 2", "count: 5")))
    (said,) = found.obstacles
    assert f"2 load pods are usable in {whole.clients}, the scenario wants 5" in said
    assert "client-c has no sidecar: label its namespace istio-injection=enabled" in said
    assert "client-d is not ready (client, istio-proxy)" in said
    assert "client-e is Failed" in said


async def test_everything_that_is_missing_is_said_at_once(site: Site, tmp_path: Path) -> None:
    found = await look_at(site, site.plan(tmp_path))
    said = "\n".join(found.obstacles)
    assert f"no load pod is usable in {site.clients}: there is no other pod with their labels" in said
    assert f"there is no service user in namespace {site.base}" in said
    assert f"the service {site.host} has no endpoint that is ready" in said


async def test_a_service_without_the_port_or_without_endpoints_is_an_obstacle(site: Site, tmp_path: Path) -> None:
    site.add_service(port=80, addresses=())
    site.add_pod("client-a")
    site.add_pod("client-b")
    found = await look_at(site, site.plan(tmp_path))
    assert found.obstacles == (
        f"the service user in {site.base} has no port 7000; it has [80]",
        f"the service {site.host} has no endpoint that is ready",
    )


async def test_all_rights_that_are_missing_are_named_at_once_to_one_who_has_none(whole: Site, tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as refused:
        await look_at(whole, whole.plan(tmp_path), user="runner")
    said = refused.value.message
    assert f"the account may not create leases.coordination.k8s.io in {whole.clients}" in said
    assert f"the account may not get pods/proxy in {whole.clients}" in said
    assert f"the account may not get secrets loadgen-control in {whole.clients}" in said
    assert f"the account may not list destinationrules.networking.istio.io in {whole.base}" in said


async def test_who_may_not_create_the_scenario_s_rule_lays_one_over_the_clients_instead(whole: Site, tmp_path: Path) -> None:
    istio = "networking.istio.io"
    whole.allow(
        "guest",
        *((whole.clients, group, resource, "get list create update delete patch") for group, resource in IN_TEST),
        (whole.base, istio, "destinationrules", "get list"),
        (whole.base, "", "services", "get"),
        (whole.base, "discovery.k8s.io", "endpointslices", "list"),
    )
    found = await look_at(whole, whole.plan(tmp_path), user="guest")
    assert found.obstacles == ()
    assert found.change is not None
    assert found.change.mode is Mode.OVERLAY
    assert f"not own: the account may not create destinationrules.{istio} in {whole.base}" in found.change.reasons
    assert [note for note in found.found.notes if "rules for the whole mesh could not be read" in note]
    named = await look_at(whole, whole.plan(tmp_path), user="guest", mode=Mode.OWN)
    assert f"the account may not delete destinationrules.{istio} user in {whole.base}" in named.obstacles
    assert named.obstacles[-1] == f"loadgen manifests with --toggle-in-base --rule user has the Roles for {whole.base}/user"


@pytest.mark.parametrize("where", ["clients", "elsewhere"])
async def test_for_a_rule_that_no_role_of_the_manifests_is_for_the_rights_are_named_that_runner_and_guard_need(
    where: str, whole: Site, make_namespace: Callable[..., str], tmp_path: Path
) -> None:
    namespace = whole.clients if where == "clients" else make_namespace("elsewhere")
    istio = "networking.istio.io"
    whole.allow(
        "guest",
        *((whole.clients, group, resource, "get list create update delete patch") for group, resource in IN_TEST if group != istio),
        *((place, istio, "destinationrules", "get list") for place in dict.fromkeys((whole.clients, whole.base, namespace))),
        (whole.base, "", "services", "get"),
        (whole.base, "discovery.k8s.io", "endpointslices", "list"),
    )
    scenario = whole.scenario(tmp_path)
    rule = tmp_path / "rule.yaml"
    rule.write_text(rule.read_text("utf-8").replace(f"namespace: {whole.base}", f"namespace: {namespace}"), encoding="utf-8")
    found = await look_at(whole, load_plan(scenario), user="guest", mode=Mode.OWN)
    assert f"the account may not create destinationrules.{istio} in {namespace}" in found.obstacles
    needs = f"need list, get, patch, delete of destinationrules.{istio}"
    assert found.obstacles[-1] == (
        f"loadgen manifests has no Role for {namespace}/user: in {namespace}, the runner's account (which creates it, too)"
        f" and the guard's account {whole.clients}/loadgen-guard {needs}"
    )


async def test_where_not_even_the_rules_of_a_third_namespace_may_be_listed_the_roles_are_not_said_to_help(
    whole: Site, make_namespace: Callable[..., str], tmp_path: Path
) -> None:
    scenario, elsewhere = whole.scenario(tmp_path), make_namespace("elsewhere")
    rule = tmp_path / "rule.yaml"
    rule.write_text(rule.read_text("utf-8").replace(f"namespace: {whole.base}", f"namespace: {elsewhere}"), encoding="utf-8")
    with pytest.raises(RefusedError, match=f"may not list destinationrules.networking.istio.io in {elsewhere}") as refused:
        await look_at(whole, load_plan(scenario), user="runner")
    assert refused.value.hint == f"loadgen manifests has the Roles that a run needs, but none for {elsewhere}"


async def test_a_count_that_the_account_may_not_read_is_no_witness_and_is_noted(whole: Site, tmp_path: Path) -> None:
    whole.add_counting_pod("user-1")
    assert (await look_at(whole, whole.plan(tmp_path))).found.count_ports == {"user-1": 7001}
    whole.allow(
        "guest",
        *((whole.clients, group, resource, "get list create update delete patch") for group, resource in IN_TEST),
        (whole.base, "networking.istio.io", "destinationrules", "get list create patch delete"),
        (whole.base, "", "services", "get"),
        (whole.base, "", "pods", "get"),
        (whole.base, "discovery.k8s.io", "endpointslices", "list"),
    )
    found = await look_at(whole, whole.plan(tmp_path), user="guest")
    assert (found.obstacles, found.found.count_ports) == ((), {})
    assert [note for note in found.found.notes if f"may not get pods/proxy in {whole.base}" in note and "--service-counts" in note]


async def test_who_stands_behind_the_service_is_seen_with_how_often_it_began_to_count_anew(whole: Site, tmp_path: Path) -> None:
    plan = whole.plan(tmp_path)
    whole.add_counting_pod("user-1")
    whole.add_counting_pod("user-2", count_port="")
    whole.set_endpoints(whole.endpoint("user-1"), whole.endpoint("user-2"), whole.endpoint("user-3", ready=False), whole.endpoint(""))
    async with KubeApi(find_access(kubeconfig=whole.plane.kubeconfig("admin"))) as api:
        first, second, address = found = await service_pods(api, plan.service)
        assert [(pod.name, pod.count_port) for pod in found] == [("user-1", 7001), ("user-2", 0), ("10.9.0.1", 0)]
        assert await service_pods(api, plan.service) == found
        whole.set_restarts("user-1", sidecar=5)
        assert await service_pods(api, plan.service) == found, "its sidecar has no part in the count"
        whole.set_restarts("user-1", user=1)
        assert (await service_pods(api, plan.service))[0] == replace(first, life=f"{first.life.partition('/')[0]}/1")
        whole.plane.api.delete(f"/api/v1/namespaces/{whole.base}/pods/user-2", gracePeriodSeconds=0)
        whole.add_counting_pod("user-2")
        [again] = await service_pods(api, plan.service)
        assert again.life != second.life
        whole.set_endpoints(whole.endpoint("user-4"))
        assert await service_pods(api, plan.service) == (ServicePod("user-4"),), "it is not there any more, or not yet"
    assert address.life == ""


@pytest.mark.parametrize(
    ("pods", "said"),
    [
        (("user-1", "user-2"), "this service has 2 pods, and each knows its own peak only"),
        (("user-1", ""), "only 1 of this service's 2 pods counts requests"),
    ],
)
async def test_a_count_that_will_show_a_part_only_is_noted_before_the_run(
    whole: Site, tmp_path: Path, pods: tuple[str, ...], said: str
) -> None:
    for name in filter(None, pods):
        whole.add_counting_pod(name)
    whole.set_endpoints(*map(whole.endpoint, pods))
    found = await look_at(whole, whole.plan(tmp_path))
    assert found.obstacles == ()
    assert f"{said}: how many requests it has in flight will not be known" in found.found.notes


async def test_a_scenario_that_changes_nothing_needs_no_right_to_change(whole: Site, tmp_path: Path) -> None:
    found = await look_at(whole, without_policy(whole.plan(tmp_path)))
    assert found.change is None
    assert found.obstacles == ()


async def test_a_rule_that_is_there_is_shown_with_what_would_be_laid_over_it(whole: Site, tmp_path: Path) -> None:
    spec = {"host": whole.host, "trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 77}}, "tls": {"mode": "DISABLE"}}}
    metadata = {"name": "theirs", "namespace": whole.base}
    rule = {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": metadata, "spec": spec}
    whole.plane.api.create(rule)
    plan = whole.plan(tmp_path)
    found = await look_at(whole, plan)
    preview = found.preview(plan)
    assert preview.mode == "overlay"
    assert preview.before.rule == f"{whole.base}/theirs"
    assert preview.before.limits.max_requests == 77
    assert preview.after.limits.max_requests == 1
    assert "+        http2MaxRequests: 1" in preview.diff
    assert "mode: DISABLE" in preview.diff
    found_fates = fates(plan.rules, preview.rules, plan.service, plan.client)
    assert {(each.rule.split("/")[1], each.limits) for each in found_fates} >= {("user", False), ("theirs", False)}
    assert [each.counts for each in found_fates].count(True) == 1
    assert preview.server is not None
    assert preview.server.limits.max_requests == 77, "the overlay is for the clients only"
    patched = await look_at(whole, plan, mode=Mode.PATCH)
    assert "-        http2MaxRequests: 77" in patched.preview(plan).diff


async def test_without_an_api_server_there_is_one_clear_sentence(whole: Site, tmp_path: Path) -> None:
    plan = whole.plan(tmp_path)
    whole.plane.stop_apiserver()
    try:
        with pytest.raises(Exception, match="cannot") as refused:
            async with KubeApi(find_access(kubeconfig=whole.plane.kubeconfig("admin")), try_s=0.5) as api:
                await survey(api.within(2), plan, mode=None, allow_managed=False)
        assert refused.value.exit_code == 3  # type: ignore[attr-defined]
    finally:
        with contextlib.suppress(AssertionError):
            whole.plane.start_apiserver()
