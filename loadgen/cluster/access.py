"""Where is the API server, and how do we prove who we are?

A kubeconfig is read by the package ``kubernetes``, which knows its plugins; inside a pod the files of the service account are enough.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from loadgen.errors import RefusedError, printable

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
KUBECONFIG = Path("~/.kube/config")
_HINT = "name a kubeconfig with --kubeconfig or KUBECONFIG, and a context in it with --context; kubectl cluster-info must work with them"


@dataclass(frozen=True, slots=True)
class Access:
    """The way to one API server. ``authorization`` gives the header's value, None for a client certificate; it is asked for each request.

    ``server`` is a URL; ``server_name`` is what the certificate must be made out to if it is not the URL's host.
    """

    server: str
    tls: ssl.SSLContext | None
    authorization: Callable[[], str | None]
    proxy: str | None = None
    server_name: str | None = None


Source = Callable[[], Access]
"""Makes the access; asked again when the server no longer accepts us. It may take long, and block."""


def find_access(*, kubeconfig: Path | None = None, context: str | None = None) -> Source:
    """Find the way to the cluster as ``kubectl`` does: what is named, KUBECONFIG, the user's file, the pod's service account."""
    named = str(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG", "")
    home = KUBECONFIG.expanduser()
    if not named and not context and not home.is_file() and in_pod():
        return from_service_account
    return lambda: from_kubeconfig(named or str(home), context)


def in_pod(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether this process runs in a pod with a service account."""
    return "KUBERNETES_SERVICE_HOST" in environment and (SERVICE_ACCOUNT / "token").is_file()


def from_service_account(folder: Path = SERVICE_ACCOUNT, environment: Mapping[str, str] = os.environ) -> Access:
    """Use what a pod is given.

    Raises RefusedError if something of it is missing.
    """
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
    token = TokenFile(folder / "token")
    try:
        token()
        tls = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    except OSError as error:
        raise RefusedError(
            f"the pod's service account cannot be used: {error}", hint="automountServiceAccountToken must be true"
        ) from error
    address = f"[{host}]" if ":" in host else host
    return Access(f"https://{address}:{port}", _lenient(tls), token)


class TokenFile:
    """A token that is renewed in its file while we run; it is read again when the file has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at = 0
        self._token = ""

    def __call__(self) -> str:
        """Give the header's value."""
        changed = self._path.stat().st_mtime_ns
        if changed != self._read_at:
            self._token, self._read_at = _header(self._path.read_bytes().decode("ascii", "replace"), "the service account's token"), changed
        return f"Bearer {self._token}"


def from_kubeconfig(files: str, context: str | None = None) -> Access:
    """Read a kubeconfig (several files, with ``:`` between them, are merged) and log in as it says.

    Raises RefusedError if it cannot be read, if its plugin fails, or without the package ``kubernetes``.
    """
    try:
        from kubernetes.client import Configuration  # noqa: PLC0415  # takes a second, and the image has none
        from kubernetes.config import load_kube_config  # noqa: PLC0415
    except ImportError as error:
        raise RefusedError("a kubeconfig can only be read with the package kubernetes", hint="pip install 'loadgen[cluster]'") from error

    if not any(Path(each).expanduser().is_file() for each in files.split(os.pathsep) if each):
        raise RefusedError(f"the kubeconfig {files} cannot be used: there is no such file", hint=_HINT)
    configuration = Configuration()
    configuration.proxy = None  # what the environment says is httpx's business, with its exceptions
    with _Complaints() as complaints:  # a plugin that fails is only logged, and we would be nobody
        try:
            load: Callable[..., None] = load_kube_config
            load(files, context, client_configuration=configuration)
            tls = _tls(configuration) if configuration.host.startswith("https") else None
        except Exception as error:
            raise RefusedError(f"the kubeconfig {files} cannot be used: {_trouble(error)}", hint=_HINT) from error
        finally:
            _remove_copies()
    authorization = configuration.api_key.get("BearerToken")
    if complaints.said and authorization is None:
        raise RefusedError(f"logging in as the kubeconfig {files} says failed: {printable('; '.join(complaints.said))}", hint=_HINT)
    if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", str(configuration.host)):
        raise RefusedError(f"the kubeconfig {files} names no API server: its server must be a URL, such as https://host:6443", hint=_HINT)
    proof = authorization and _header(authorization, f"the token that the kubeconfig {files} gives")
    return Access(configuration.host, tls, lambda: proof, configuration.proxy, configuration.tls_server_name)


def _header(value: str, what: str) -> str:
    """Make sure that a secret can be a header's value.

    Raises RefusedError that does not repeat it.
    """
    stripped = value.strip()
    if not re.fullmatch(r"[!-~]+( [!-~]+)?", stripped):
        raise RefusedError(f"{what} cannot be a token: it holds spaces, line breaks or characters beyond ASCII", hint=_HINT)
    return stripped


def _trouble(error: Exception) -> str:
    """Say what is wrong with a kubeconfig without repeating what it holds: that may be a secret."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {printable(str(error.filename))}" if error.filename else error.strerror
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"it is no YAML, see line {mark.line + 1}"
    if type(error).__name__ == "ConfigException":
        return printable(str(error))
    return f"it is no kubeconfig, or damaged ({type(error).__name__})"


def _remove_copies() -> None:
    """Remove what the package ``kubernetes`` copied out of a kubeconfig, keys too: it does so only at an end in good order."""
    from kubernetes.config import kube_config  # noqa: PLC0415

    kube_config._cleanup_temp_files()  # type: ignore[no-untyped-call]  # noqa: SLF001  # there is no public way


def _tls(configuration: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    return _lenient(context)


def _lenient(context: ssl.SSLContext) -> ssl.SSLContext:
    """Accept authorities without the extensions that newer versions of Python ask for: many clusters have such."""
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


class _Complaints(logging.Handler):
    """Takes what the package ``kubernetes`` only logs while the block runs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)
