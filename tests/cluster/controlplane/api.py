"""How does a test speak to the API server? Raw objects in and out, as ``kubectl`` would; none of the code under test is in it."""

from __future__ import annotations

import json
import ssl
from typing import TYPE_CHECKING, Any, Self

import httpx

if TYPE_CHECKING:
    from pathlib import Path

Object = dict[str, Any]
FIELD_MANAGER = "test"
TIMEOUT_S = 10.0


class ApiError(Exception):
    """The API server said no. ``status`` is the HTTP status, ``reason`` and ``message`` are what it says."""

    def __init__(self, response: httpx.Response) -> None:
        try:
            body = response.json()
        except ValueError:
            body = {}
        self.status = response.status_code
        self.reason = str(body.get("reason", ""))
        self.message = str(body.get("message", response.text))
        super().__init__(f"{self.status} {self.reason}: {self.message}")


class Api:
    """One user's way to one API server. Threads may share it."""

    def __init__(self, url: str, authority: Path, token: str) -> None:
        context = ssl.create_default_context(cafile=str(authority))
        headers = {"authorization": f"Bearer {token}"}
        self._client = httpx.Client(base_url=url, verify=context, headers=headers, timeout=TIMEOUT_S, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def get(self, path: str, **query: str) -> Any:
        """Give an object, a list, or the text of a page that is no JSON."""
        return self._ask("GET", path, query)

    def find(self, path: str) -> Object | None:
        """Give an object, or None if there is none."""
        try:
            found: Object = self.get(path)
        except ApiError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise
            return None
        return found

    def list(self, path: str, **query: str) -> list[Object]:
        """Give the items of a collection; ``labelSelector`` and the like are query parameters."""
        items: list[Object] = self.get(path, **query)["items"]
        return items

    def create(self, thing: Object) -> Object:
        """Create an object; there must be none."""
        return self.post(collection_of(thing), thing, fieldManager=FIELD_MANAGER)

    def post(self, path: str, body: Object, **query: str) -> Object:
        """Post a body, for what is no plain object: bindings, reviews, token requests."""
        answer: Object = self._ask("POST", path, query, body)
        return answer

    def apply(self, *things: Object) -> None:
        """Create or change objects by server-side apply, whoever owns their fields."""
        for thing in things:
            self.patch(path_of(thing), thing, "application/apply-patch+yaml", fieldManager=FIELD_MANAGER, force="true")

    def patch(self, path: str, change: Any, content_type: str = "application/merge-patch+json", **query: str) -> Object:
        """Change a part of an object; ``path`` may end in ``/status``."""
        patched: Object = self._ask("PATCH", path, query, change, content_type)
        return patched

    def delete(self, path: str, **options: Any) -> None:
        """Delete an object if it is there; ``options`` are fields of DeleteOptions."""
        try:
            self._ask("DELETE", path, {}, options or None)
        except ApiError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise

    def service_account_token(self, namespace: str, name: str, seconds: int = 3600) -> str:
        """Give a token of a service account that exists; the API server makes none for less than 600 s."""
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": seconds}}
        return str(self.post(f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", request)["status"]["token"])

    def _ask(self, method: str, path: str, query: dict[str, str], body: Any = None, content_type: str = "application/json") -> Any:
        content = None if body is None else json.dumps(body)
        headers = {} if content is None else {"content-type": content_type}
        response = self._client.request(method, path, params=query, content=content, headers=headers)
        if response.is_error:
            raise ApiError(response)
        is_json = response.headers.get("content-type", "").startswith("application/json")
        return response.json() if is_json else response.text


def path_of(thing: Object) -> str:
    """Give the path of an object, from what stands in it."""
    return f"{collection_of(thing)}/{thing['metadata']['name']}"


def collection_of(thing: Object) -> str:
    """Give the path of an object's collection. Kubernetes' plurals are regular, as far as tests go."""
    version, namespace, kind = thing["apiVersion"], thing["metadata"].get("namespace"), thing["kind"].lower()
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}es" if kind.endswith("s") else f"{kind}s"
    return f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"
