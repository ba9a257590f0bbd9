"""What can be done with the objects of a cluster? They go in and out raw, so that what we do not know in them survives.

The law: a write whose answer was lost is never repeated blindly. It is looked whether it happened; only what did not happen is written
again, and its preconditions (uid, resourceVersion, the name of what is created) hold back what happens late.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Self

import anyio

from loadgen.cluster.access import find_access
from loadgen.cluster.failure import ApiError, ConflictError, GoneError, InvalidError, LostError, NotFoundError, UnusableError
from loadgen.cluster.marks import Json
from loadgen.cluster.paths import ISTIO, ISTIO_GROUP, VERSIONS, Call
from loadgen.cluster.server import Server, Tries
from loadgen.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from types import TracebackType

    from loadgen.cluster.access import Source
    from loadgen.cluster.way import Answer

TRY_S = 5.0
APPLY_S = 30.0
RESTORE_S = 120.0
SETTLE_S = TRY_S + 1.0
"""After this time nothing that was sent can still happen: the server was told to give it up after ``TRY_S``."""
PAGE = 500
MAX_OBJECTS = 100_000
MAX_LISTS = 3
"""So often a list is begun anew whose rest the server has forgotten."""
PLAIN_JSON, JSON_PATCH = "application/json", "application/json-patch+json"

Objects = list[Json]
Ours = Callable[[Json], bool]
"""Tells, after an answer was lost, whether what is there now is what we wrote."""
Look = Callable[[], Awaitable[Json | None]]


class KubeApi:
    """One API server; an async context manager. Every method raises an ApiError when it is final.

    ``within`` gives the same with one deadline for all that is asked through it; without, each operation may take ``APPLY_S``. ``until`` is
    that deadline, on anyio's clock.
    """

    def __init__(self, source: Source | None = None, *, try_s: float = TRY_S) -> None:
        self.until: float | None = None
        self._server = Server(source or find_access(), try_s)

    def __repr__(self) -> str:
        return f"<KubeApi {self.url}>"

    @property
    def url(self) -> str:
        """Where the server is."""
        return self._server.url

    async def __aenter__(self) -> Self:
        await self._server.log_in()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self._server.close()

    def within(self, seconds: float) -> Self:
        """Give the same client with a deadline for everything that is asked through it; one that holds already is not put off."""
        other = copy.copy(self)
        until = anyio.current_time() + seconds
        other.until = until if self.until is None else min(until, self.until)
        return other

    def server_time(self) -> datetime:
        """Say what the server's clock shows now; our own until it has answered once."""
        return self._server.clock.now()

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: object = None, content_type: str = PLAIN_JSON
    ) -> Answer:
        """Ask until there is an answer that is final.

        Raises LostError for a write that may have happened; it is not tried again here.
        """
        until = anyio.current_time() + APPLY_S if self.until is None else self.until
        content = b"" if body is None else json.dumps(body).encode()
        headers = {"content-type": content_type} if content else {}
        return await self._server.ask(Call(method, path), query or {}, headers, content, until)

    async def proxy(
        self,
        namespace: str,
        pod: str,
        port: int,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = TRY_S,
    ) -> tuple[int, bytes]:
        """GET a path of a pod through the API server, or POST a body there; give status and body. It is asked once."""
        return await self._server.ask_pod(namespace, pod, port, path, headers or {}, body, timeout_s)

    # Reading.

    async def text(self, path: str) -> str:
        """Give the object at a path as it stands."""
        return (await self.request("GET", path)).body.decode()

    async def get(self, path: str, **query: str) -> Json:
        """Give the object at a path."""
        return _object(Call("GET", path), await self.request("GET", path, query=query))

    async def find(self, path: str) -> Json | None:
        """Give the object at a path, or None if there is none."""
        try:
            return await self.get(path)
        except NotFoundError:
            return None

    async def list(self, path: str, **query: str) -> Objects:
        """Give all objects of a collection, read in pages; ``labelSelector`` and the like are query parameters."""
        if self.until is None:
            return await self.within(APPLY_S).list(path, **query)
        for _ in range(MAX_LISTS - 1):
            try:
                return await self._pages(path, query)
            except GoneError:
                continue
        return await self._pages(path, query)

    async def _pages(self, path: str, query: Mapping[str, str]) -> Objects:
        items: Objects = []
        more: Mapping[str, str] = {}
        while True:
            page = await self.get(path, **{"limit": str(PAGE), **query, **more})
            items += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return items
            if len(items) > MAX_OBJECTS:
                raise UnusableError(Call("GET", path), 0, f"there are more than {MAX_OBJECTS:,} of them")
            more = {"continue": token}

    async def rule_version(self) -> str:
        """Give the best version of DestinationRules that is served.

        Raises RefusedError if the cluster has none.
        """
        group = await self.find(ISTIO_GROUP)
        served = {str(each.get("version")) for each in (group or {}).get("versions") or []}
        for version in VERSIONS:
            resources = await self.get(f"{ISTIO_GROUP}/{version}") if version in served else {}
            if any(each.get("name") == "destinationrules" for each in resources.get("resources") or []):
                return version
        message = f"the cluster has no DestinationRules (none of {ISTIO}/{', '.join(VERSIONS)} is served)"
        raise RefusedError(message, hint="Istio's CRDs are not installed; istioctl install does it")

    # Writing.

    async def create(self, collection: str, thing: Json, *, ours: Ours | None = None, **query: str) -> Json:
        """Create an object; give it as the server stored it. Without ``ours``, it is just tried again after a lost answer.

        Raises ExistsError if there is one of that name.
        """
        if self.until is None:
            return await self.within(APPLY_S).create(collection, thing, ours=ours, **query)

        async def look() -> Json | None:
            found = await self.find(f"{collection}/{thing['metadata']['name']}") if ours else None
            return found if ours and found is not None and ours(found) else None

        return await self._write("POST", collection, thing, look, query=query)

    async def replace(self, path: str, thing: Json, *, ours: Ours) -> Json:
        """Replace an object; its resourceVersion must be in it.

        Raises ConflictError if it was changed meanwhile.
        """
        assert thing["metadata"].get("resourceVersion"), "a replacement that could overwrite somebody's change"
        if self.until is None:
            return await self.within(APPLY_S).replace(path, thing, ours=ours)
        return await self._write("PUT", path, thing, lambda: self._changed(path, ours))

    async def patch(self, path: str, operations: Sequence[Json], *, ours: Ours, **query: str) -> Json:
        """Change an object by a JSON patch that tests its uid and resourceVersion.

        Raises ConflictError if it was changed meanwhile.
        """
        tests = {each["path"]: each["value"] for each in operations if each["op"] == "test"}
        assert tests.keys() >= {"/metadata/uid", "/metadata/resourceVersion"}, "a patch that could overwrite somebody's change"
        if self.until is None:
            return await self.within(APPLY_S).patch(path, operations, ours=ours, **query)
        try:
            return await self._write("PATCH", path, operations, lambda: self._changed(path, ours), content_type=JSON_PATCH, query=query)
        except InvalidError as error:
            found = await self.get(path)  # a test that fails is answered as an object that is not valid is
            if found["metadata"]["resourceVersion"] == tests["/metadata/resourceVersion"]:
                raise
            raise ConflictError(error.call, error.status, "it was changed meanwhile") from error

    async def delete(self, path: str, *, uid: str, version: str = "") -> None:
        """Delete an object if it still is the one with this uid, in this version; one that is gone already is well, too.

        Raises ConflictError if it is another one, or was changed.
        """
        if self.until is None:
            await self.within(APPLY_S).delete(path, uid=uid, version=version)
            return
        preconditions = {"uid": uid, **({"resourceVersion": version} if version else {})}
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background", "preconditions": preconditions}

        async def look() -> Json | None:
            found = await self.find(path)
            return {} if found is None or found["metadata"]["uid"] != uid or found["metadata"].get("deletionTimestamp") else None

        try:
            await self._write("DELETE", path, options, look)
        except NotFoundError:
            return

    async def withdraw(self, path: str, *, ours: Ours) -> None:
        """Delete what may have been written, also late, by a write whose end is not known; where that cannot be done, whoever comes next has to."""
        with anyio.CancelScope(shield=True), contextlib.suppress(ApiError):
            await anyio.sleep(SETTLE_S)
            found = await self.within(TRY_S).find(path)
            if found is not None and ours(found):
                metadata = found["metadata"]
                await self.within(TRY_S).delete(path, uid=metadata["uid"], version=metadata["resourceVersion"])

    async def _changed(self, path: str, ours: Ours) -> Json | None:
        found = await self.get(path)
        return found if ours(found) else None

    async def _write(
        self, method: str, path: str, body: object, look: Look, *, content_type: str = PLAIN_JSON, query: Mapping[str, str] | None = None
    ) -> Json:
        assert self.until is not None, "a write without a deadline"
        tries = Tries()
        lost = False
        while True:
            tries.count += 1
            try:
                return _object(Call(method, path), await self.request(method, path, query=query, body=body, content_type=content_type))
            except LostError as failure:
                lost = True
                found = await _look(look, tries.final(failure))
                if found is not None:
                    return found
                await tries.rest(failure, self.until)
            except ConflictError:
                found = await look() if lost else None
                if found is None:
                    raise
                return found


async def _look(look: Look, failure: ApiError) -> Json | None:
    """Look whether a write happened.

    Raises its failure if that cannot be seen either.
    """
    try:
        return await look()
    except NotFoundError:
        raise
    except ApiError as error:
        raise failure from error


def _object(call: Call, answer: Answer) -> Json:
    found = json.loads(answer.body)
    if not isinstance(found, dict):
        raise UnusableError(call, answer.status, "what came with it is no object")
    return found
