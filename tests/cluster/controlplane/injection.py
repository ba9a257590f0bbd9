"""How does a pod get its sidecar? As in a real mesh: by a label of its namespace. The API server itself puts the container in.

A mutating admission policy does what Istio's webhook does, without a webhook: the container is a native sidecar, as Istio's injector makes
them now, and as with Istio's CNI plugin it satisfies the Pod Security level ``restricted``. The label ``sidecar.istio.io/inject: "false"`` of a pod keeps it out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.cluster.controlplane.patience import until
from tests.cluster.controlplane.sidecar import NAME

if TYPE_CHECKING:
    from tests.cluster.controlplane.api import Api, Object

LABEL = {"istio-injection": "enabled"}
_KIND = "admissionregistration.k8s.io/v1"
_OPT_OUT = "sidecar.istio.io/inject"
_STATUS = "sidecar.istio.io/status"
_CONTAINER = f"""Object.spec.initContainers{{
  name: "{NAME}",
  image: "istio/proxyv2",
  restartPolicy: "Always",
  securityContext: Object.spec.initContainers.securityContext{{
    allowPrivilegeEscalation: false,
    capabilities: Object.spec.initContainers.securityContext.capabilities{{drop: ["ALL"]}},
    privileged: false,
    readOnlyRootFilesystem: true,
    runAsNonRoot: true,
    runAsUser: 1337,
    seccompProfile: Object.spec.initContainers.securityContext.seccompProfile{{type: "RuntimeDefault"}}
  }}
}}"""
_ADD_CONTAINER = f"""(has(object.spec.initContainers) ? [] : [JSONPatch{{op: "add", path: "/spec/initContainers", value: []}}])
  + [JSONPatch{{op: "add", path: "/spec/initContainers/0", value: {_CONTAINER}}}]"""
"""The list first and its member then: an API server 1.36 panics over a list of objects as a value."""
_ADD_ANNOTATION = f"""has(object.metadata.annotations)
  ? [JSONPatch{{op: "add", path: "/metadata/annotations/" + jsonpatch.escapeKey("{_STATUS}"), value: "{{}}"}}]
  : [JSONPatch{{op: "add", path: "/metadata/annotations", value: {{"{_STATUS}": "{{}}"}}}}]"""
_POLICY = {
    "apiVersion": _KIND,
    "kind": "MutatingAdmissionPolicy",
    "metadata": {"name": "istio-sidecar"},
    "spec": {
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "matchConstraints": {
            "namespaceSelector": {"matchLabels": LABEL},
            "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        },
        "matchConditions": [
            {"name": "wanted", "expression": f"object.metadata.?labels['{_OPT_OUT}'].orValue('true') != 'false'"},
            {"name": "not-there", "expression": f"!object.spec.?initContainers.orValue([]).exists(each, each.name == '{NAME}')"},
        ],
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": each}} for each in (_ADD_CONTAINER, _ADD_ANNOTATION)],
    },
}
_BINDING = {
    "apiVersion": _KIND,
    "kind": "MutatingAdmissionPolicyBinding",
    "metadata": {"name": "istio-sidecar"},
    "spec": {"policyName": "istio-sidecar"},
}


def install(api: Api) -> None:
    """Switch injection on, and wait until it works: the API server takes a policy up a little later."""
    namespace = "injection-probe"
    api.apply(_POLICY, _BINDING, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": LABEL}})
    container = {"name": "probe", "image": "probe"}
    probe = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}, "spec": {"containers": [container]}}

    def works() -> Object | None:
        pod = api.post(f"/api/v1/namespaces/{namespace}/pods", probe, dryRun="All")
        return pod if "initContainers" in pod["spec"] else None

    until(works, "the API server puts sidecars into pods")
    api.delete(f"/api/v1/namespaces/{namespace}")
