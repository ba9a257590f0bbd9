"""Who may speak to the API server, and how do they prove it? One bearer token for each user, and the kubeconfig that says so."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ADMIN = "admin"
_MASTERS = "system:masters"


class Users:
    """The users of one API server. Only the admin may do anything; RBAC says what the others may."""

    def __init__(self, file: Path, names: Iterable[str]) -> None:
        self.file = file
        self._tokens = {name: secrets.token_hex(16) for name in (ADMIN, *names)}
        self._write()

    def token(self, name: str) -> str:
        """Give the token of a user that the control plane was started with."""
        return self._tokens[name]

    def renew(self, name: str) -> None:
        """Give the user another token; the API server must be started again to forget the old one."""
        self._tokens[name] = secrets.token_hex(16)
        self._write()

    def _write(self) -> None:
        lines = [f"{token},{name},{name}" + (f',"{_MASTERS}"' if name == ADMIN else "") for name, token in self._tokens.items()]
        self.file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.file.chmod(0o600)


def kubeconfig(url: str, authority: Path, user: str, token: str, namespace: str = "default") -> str:
    """Make the text of a kubeconfig with one context; JSON is YAML too."""
    certificate = base64.b64encode(authority.read_bytes()).decode()
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority-data": certificate}}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": user, "context": {"cluster": "test", "user": user, "namespace": namespace}}],
            "current-context": user,
        },
        indent=1,
    )


def make_signing_key(file: Path) -> None:
    """Make the key that the API server signs the tokens of service accounts with."""
    subprocess.run(["openssl", "genrsa", "-out", str(file), "2048"], check=True, capture_output=True)
    file.chmod(0o600)
