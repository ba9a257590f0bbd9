"""``loadgen manifests``: which objects does a cluster need for a run? One YAML stream, for ``kubectl apply -f -``.

The objects are those that ``kubectl apply -k`` makes of the same files; what differs is what the options say, and a Secret.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TextIO

import click

from loadgen import __version__
from loadgen.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from importlib.resources.abc import Traversable

Object = dict[str, Any]

NAMESPACE, TARGET_NAMESPACE, TARGET = "test", "base", "http://user.base:7000/"
"""What the files say."""
EXAMPLE_HOST = "user.base.svc.cluster.local"
EXAMPLE_RULE = "user"
CLIENTS = ("client", "locust-worker")
"""The Deployments whose pods are clients of the mesh."""
LOCUSTFILES = {"fast-http": "locustfile.py", "engine": "wire.py"}
"""The files in Locust's ConfigMap that have users, by what sends for them."""
SECRET_BYTES = 32
SECRET_CHARACTERS = 16, 1024
MAX_REPLICAS = 200
_NAME = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_RULE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_HOST = re.compile(rf"(?P<service>{_NAME})\.(?P<namespace>{_NAME})(\.svc(\.cluster\.local)?)?")
_REGION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_IMAGE = re.compile(r"[a-zA-Z0-9][!-~]{0,510}")


@click.command(short_help="Print what a cluster needs, for kubectl apply.")
@click.option("--namespace", default=NAMESPACE, show_default=True, help="The clients' namespace.")
@click.option("--replicas", type=click.IntRange(1, MAX_REPLICAS), default=10, show_default=True, help="Number of clients.")
@click.option("--image", default=f"loadgen:{__version__}", show_default=True, help="The image that all pods run.")
@click.option("--target", default=TARGET, show_default=True, metavar="URL", help="The service of the mesh that the clients load.")
@click.option("--region", default="local", show_default=True, help="What the clients' REGION says.")
@click.option(
    "--user-service/--no-user-service", default=None, help="With the service user.base as an example.  [default: if it is the target]"
)
@click.option("--toggle-in-base", is_flag=True, help="Let the runner change a rule in the target's namespace, as the tutorial does.")
@click.option("--rule", "rules", multiple=True, metavar="NAME", help="The rule that it may change there; repeatable.  [default: user]")
@click.option(
    "--service-counts", is_flag=True, help="The service counts its requests itself, as the example does: let the runner read its count."
)
@click.option(
    "--locust", is_flag=True, help="Locust's master and workers in the place of the clients; --replicas is the number of workers."
)
@click.option(
    "--locust-users",
    type=click.Choice(list(LOCUSTFILES)),
    default="fast-http",
    show_default=True,
    help="What sends for Locust's users: its own FastHttpUser, or loadgen's engine, for a tenth of the CPU and without tasks.",
)
@click.option("--locust-image", default=f"loadgen-locust:{__version__}", show_default=True, help="The image that Locust runs.")
@click.option(
    "--secret-from",
    type=click.File(encoding="utf-8"),
    help="A file (or -) with the clients' and the runner's secret.  [default: a new one]",
)
def manifests(secret_from: TextIO | None, **options: Any) -> int:
    """Print the objects that a cluster needs for runs: the clients, an example service, and the rights of the runner and its guard.

    A new secret is made each time; --secret-from keeps the one that there is.

    \b
    loadgen manifests | kubectl apply -f -
    loadgen manifests --target http://orders.shop:8080/ --replicas 3 --secret-from control.secret > loadgen.yaml
    """  # noqa: D301  # \b is click's mark for text that is not to be wrapped
    found = cluster_objects(secret=_secret(secret_from), **options)
    click.echo(_as_yaml(found), nl=False)
    return ExitCode.OK


def _as_yaml(objects: Sequence[Object]) -> str:
    """Write objects as one stream; a text of several lines, such as a file, stands there as people would write it."""
    import yaml  # noqa: PLC0415  # --help must not pay for it

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump_all(objects, Dumper=Dumper, explicit_start=True, sort_keys=False, width=160)


def cluster_objects(
    *,
    namespace: str,
    replicas: int,
    image: str,
    target: str,
    region: str,
    user_service: bool | None,
    toggle_in_base: bool,
    rules: Sequence[str],
    service_counts: bool,
    locust: bool,
    locust_users: str,
    locust_image: str,
    secret: str,
) -> list[Object]:
    """Give the objects in the order in which they are to be made.

    Raises UsageError if something cannot be a part of an object, or if the parts do not fit together.
    """
    host, its_namespace = _service_of(target)
    example = host == EXAMPLE_HOST
    with_service = example if user_service is None else user_service
    _check("--namespace", namespace, re.compile(_NAME), "lower-case letters, digits and '-', such as test")
    _check("--region", region, _REGION, "letters, digits, '.', '_' and '-', such as eu-west-1")
    _check("--image", image, _IMAGE, f"the name of an image, such as loadgen:{__version__}")
    _check("--locust-image", locust_image, _IMAGE, f"the name of an image, such as loadgen-locust:{__version__}")
    if with_service and not example:
        raise UsageError(f"the example service is {TARGET}, the target is {target}", hint="leave out --user-service, or --target")
    if with_service and namespace == TARGET_NAMESPACE:
        raise UsageError(f"--namespace {namespace} is the example service's own", hint="choose another one, or add --no-user-service")
    if rules and not toggle_in_base:
        raise UsageError("--rule says which rules may be changed in the target's namespace", hint="add --toggle-in-base")
    for rule in rules:
        _check("--rule", rule, _RULE, "the name of a DestinationRule, such as user")
    parts = {
        "clients": True,
        "user": with_service,
        "runner": True,
        "count": with_service or service_counts,
        "toggle-in-base": toggle_in_base,
        "locust": locust,
    }
    found = [each for part, wanted in parts.items() if wanted for each in _load(part) if not (locust and _is_clients(each))]
    names = _names(EXAMPLE_HOST, host) | {EXAMPLE_RULE: list(rules or [EXAMPLE_RULE])}
    for each in found:
        _move(each, {NAMESPACE: namespace, TARGET_NAMESPACE: its_namespace})
        _rename_rights(each, names)
        _aim(each, host, target, namespace)
        if each["kind"] == "Deployment":
            _set_images(each, image, locust_image)
            _set_locust(each, LOCUSTFILES[locust_users], namespace)
            _set_clients(each, replicas, {"REGION": region, "LOADGEN_TARGET": target})
    made = next((index for index, each in enumerate(found) if each["kind"] == "Deployment"), len(found))
    return [*found[:made], _control_secret(namespace, secret), *found[made:]]


def _rename_rights(each: Object, names: Mapping[str, Sequence[str]]) -> None:
    """Bind the rights of a Role, if it is one, to the objects that stand in the place of the example's."""
    for right in each.get("rules", ()):
        if "resourceNames" in right:
            right["resourceNames"] = [after for name in right["resourceNames"] for after in names.get(name, [name])]


def _service_of(target: str) -> tuple[str, str]:
    """Give the full name of the target's service, and its namespace."""
    from loadgen.target import parse_target  # noqa: PLC0415

    parsed = parse_target(target)
    found = _HOST.fullmatch(parsed.host)
    if parsed.scheme != "http" or not found:
        raise UsageError(
            f"--target {target} is no service of the mesh",
            hint=f"write http://SERVICE.NAMESPACE:PORT/, such as {TARGET}; the sidecars add TLS",
        )
    return f"{found['service']}.{found['namespace']}.svc.cluster.local", found["namespace"]


def _check(option: str, value: str, pattern: re.Pattern[str], allowed: str) -> None:
    if not pattern.fullmatch(value):
        raise UsageError(f"{option} {value!r} is not possible", hint=allowed)


def _secret(file: TextIO | None) -> str:
    import secrets  # noqa: PLC0415

    if file is None:
        return secrets.token_urlsafe(SECRET_BYTES)
    least, most = SECRET_CHARACTERS
    try:
        secret = file.read(most + 2).strip()
    except UnicodeDecodeError:
        secret = ""
    if not re.fullmatch(rf"[!-~]{{{least},{most}}}", secret):
        raise UsageError(
            f"the secret in {file.name} is not one line of {least} to {most} printable characters without blanks",
            hint=f"make one: head -c {SECRET_BYTES} /dev/urandom | base64",
        )
    return secret


def _load(part: str) -> Iterator[Object]:
    """Give the objects of a kustomization; ours only list resources, so nothing else has to be understood."""
    from importlib.resources import files  # noqa: PLC0415

    import yaml  # noqa: PLC0415

    def read(folder: Traversable) -> Iterator[Object]:
        for name in yaml.safe_load(folder.joinpath("kustomization.yaml").read_text(encoding="utf-8"))["resources"]:
            yield from yaml.safe_load_all(folder.joinpath(name).read_text(encoding="utf-8"))

    return read(files("loadgen").joinpath("manifests", part))


def _names(before: str, after: str) -> dict[str, list[str]]:
    """Give the names of what a run makes for one host, by those for another."""
    from loadgen.cluster import marks  # noqa: PLC0415

    namers = (marks.lease_name, marks.overlay_name, marks.journal_name, marks.guard_name)
    return {name(before): [name(after)] for name in namers}


def _move(thing: Object, namespaces: Mapping[str, str]) -> None:
    """Put an object, and the accounts that it names, into the namespaces that were asked for."""
    for place in (thing["metadata"], *thing.get("subjects", ())):
        if "namespace" in place:
            place["namespace"] = namespaces.get(place["namespace"], place["namespace"])
    if thing["kind"] == "Namespace":
        thing["metadata"]["name"] = namespaces.get(thing["metadata"]["name"], thing["metadata"]["name"])


def _containers(deployment: Object) -> Iterable[Object]:
    containers: list[Object] = deployment["spec"]["template"]["spec"]["containers"]
    return containers


def _is_clients(thing: Object) -> bool:
    """Tell whether an object is about the tutorial's clients themselves, and not about their namespace or who they are."""
    return (thing["metadata"]["name"], thing["kind"]) in [("client", kind) for kind in ("Deployment", "Service", "PodDisruptionBudget")]


def _set_images(deployment: Object, image: str, locust_image: str) -> None:
    for container in _containers(deployment):
        container["image"] = locust_image if container["name"] == "locust" else image


def _set_locust(deployment: Object, locustfile: str, namespace: str) -> None:
    """Say in Locust's arguments which file its users are in, and in which namespace its master is."""
    changes = {f"/{LOCUSTFILES['fast-http']}": f"/{locustfile}", f".{NAMESPACE}.svc.": f".{namespace}.svc."}
    for container in _containers(deployment):
        if container["name"] == "locust":
            for old, new in changes.items():
                container["args"] = [each.replace(old, new) for each in container["args"]]


def _aim(thing: Object, host: str, target: str, namespace: str) -> None:
    """Let the files in a ConfigMap be about the target, and about clients in this namespace."""
    from loadgen.target import parse_target  # noqa: PLC0415

    if thing["kind"] != "ConfigMap":
        return
    parsed = parse_target(target)
    its_namespace = host.split(".")[1]
    named = {f"http://{EXAMPLE_HOST}:7000": f"http://{host}:{parsed.port}", EXAMPLE_HOST: host}
    lines = {f"namespace: {NAMESPACE}\n": f"namespace: {namespace}\n", f"namespace: {TARGET_NAMESPACE}\n": f"namespace: {its_namespace}\n"}
    for file, text in thing["data"].items():
        changes = {f"{old}/\n": f"{new}{parsed.path}\n" for old, new in named.items()} | named | lines
        marked = text
        for number, old in enumerate(changes):  # what one puts in is no other's to change
            marked = marked.replace(old, f"\0{number}\0")
        for number, new in enumerate(changes.values()):
            marked = marked.replace(f"\0{number}\0", new)
        thing["data"][file] = marked


def _set_clients(deployment: Object, replicas: int, values: Mapping[str, str]) -> None:
    """Say how many clients there are, and what their environment says."""
    if deployment["metadata"]["name"] not in CLIENTS:
        return
    deployment["spec"]["replicas"] = replicas
    for container in _containers(deployment):
        for variable in container["env"]:
            if variable["name"] in values:
                variable["value"] = values[variable["name"]]


def _control_secret(namespace: str, secret: str) -> Object:
    labels = {"app.kubernetes.io/name": "loadgen", "app.kubernetes.io/component": "client", "app.kubernetes.io/part-of": "loadgen"}
    metadata = {"name": "loadgen-control", "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "stringData": {"secret": secret}}
