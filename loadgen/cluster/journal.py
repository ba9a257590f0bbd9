"""What was changed, how was it before, and how far did it get? Written down before it is done, in the cluster and in a file here.

The law: INTENT says what will be written, and how it was before; only then it is written. APPLIED says that it was. RESTORING says that the
undo has begun. A journal that is gone needs nothing more. Whoever dies between two lines leaves enough to be undone.

Each state replaces the one before with its resourceVersion: a run whose journal somebody else has taken away learns of it before it writes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

import anyio

from loadgen.cluster.failure import ApiError, ConflictError, ExistsError, LostError, NotFoundError
from loadgen.cluster.marks import Json, Run, journal_name, json_of, moment_of, restore_command, rfc3339, run_of
from loadgen.cluster.paths import config_maps
from loadgen.errors import ExitCode, LoadgenError, MeshError, RefusedError, printable

if TYPE_CHECKING:
    from datetime import datetime

    from loadgen.cluster.api import KubeApi
    from loadgen.cluster.journal_file import JournalFile

SCHEMA = "loadgen.journal/v1"
MAX_CHARACTERS = 900_000
"""A ConfigMap holds a MiB, and the before-image stands in it as text in JSON."""
FINISH_TRIES, FINISH_PAUSE_S = 10, 0.2
"""So often a journal is removed that somebody changes again and again."""
_KEY = "journal.json"


class State(StrEnum):
    """How far a change got. INTENT without entries: nothing of ours is in force."""

    INTENT = "INTENT"
    APPLIED = "APPLIED"
    RESTORING = "RESTORING"


class JournalError(LoadgenError):
    """A journal that cannot be read, so that nothing is undone by guessing."""

    exit_code = ExitCode.RESTORE_FAILED


class JournalLostError(MeshError):
    """Somebody else wrote or removed our journal: the change is not ours any more."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One rule that is, or will be, created or changed.

    ``written`` is the spec of what is created, or the part of a spec that is put in the place of ``before``. ``image`` is a changed rule as
    the server gave it, letter for letter; ``uid`` and ``version`` are known once it was written.
    """

    namespace: str
    name: str
    creates: bool
    written: Json
    before: Json = field(default_factory=dict)
    image: str = ""
    uid: str = ""
    version: str = ""

    @property
    def key(self) -> str:
        """Name the rule as ``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    def applied(self, rule: Json) -> Self:
        """Give the entry with what the server stored."""
        metadata, spec = rule["metadata"], rule.get("spec") or {}
        written = spec if self.creates else {"trafficPolicy": {"connectionPool": spec["trafficPolicy"]["connectionPool"]}}
        return replace(self, written=written, uid=metadata["uid"], version=metadata["resourceVersion"])


@dataclass(frozen=True, slots=True)
class Record:
    """What a journal says. ``server`` is the API server it is about; ``rules`` the version of DestinationRules."""

    run: Run
    mode: str
    state: State
    server: str
    rules: str
    entries: tuple[Entry, ...] = ()

    def to_text(self) -> str:
        """Write the record as JSON."""
        run = {**asdict(self.run), "expires_at": rfc3339(self.run.expires_at)}
        return json.dumps({"schema": SCHEMA, **asdict(self), "run": run}, indent=1, ensure_ascii=False)

    @classmethod
    def of_text(cls, text: str, where: str) -> Self:
        """Read a record; what is unknown in it is passed over.

        Raises JournalError if it is none, or of a newer kind.
        """
        try:
            values = json_of(text)
            schema = str(values["schema"])
            if schema != SCHEMA:
                raise _unknown(schema, where)
            return cls(
                run=_run(values["run"]),
                mode=str(values["mode"]),
                state=State(values["state"]),
                server=str(values.get("server", "")),
                rules=str(values.get("rules", "v1")),
                entries=tuple(_entry(each) for each in values.get("entries", ())),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{where} is no journal that can be read: {printable(repr(error))}"
            raise JournalError(message, hint="look at it; what it says was changed has to be put back by hand") from error


def _unknown(schema: str, where: str) -> JournalError:
    family, _, version = schema.rpartition("/")
    if family == SCHEMA.rpartition("/")[0] and version.removeprefix("v").isdigit():
        message = f"{where} was written by another version of loadgen ({printable(schema)}; this one reads {SCHEMA})"
        return JournalError(message, hint="restore with the version that made it, or a newer one")
    return JournalError(f"{where} is no journal of loadgen's: its schema is {printable(schema)}")


def _run(values: dict[str, Any]) -> Run:
    expires_at = moment_of(values["expires_at"])
    if expires_at is None:
        raise ValueError(f"no moment: {values['expires_at']}")
    return Run(str(values["id"]), str(values["holder"]), str(values["host"]), str(values["namespace"]), expires_at)


def _entry(values: dict[str, Any]) -> Entry:
    return Entry(
        namespace=str(values["namespace"]),
        name=str(values["name"]),
        creates=bool(values["creates"]),
        written=dict(values["written"]),
        before=dict(values.get("before") or {}),
        image=_image(str(values.get("image") or "")),
        uid=str(values.get("uid") or ""),
        version=str(values.get("version") or ""),
    )


def _image(text: str) -> str:
    if text and not json_of(text)["metadata"]["uid"]:
        raise ValueError("the image of a rule is none")
    return text


class Journal:
    """The journal of a run: a ConfigMap in the clients' namespace, and a file here if there can be one.

    Made by ``begin`` for a new run, by ``find`` for one that was left behind. ``record`` is what it says now.
    """

    def __init__(self, api: KubeApi, record: Record, config_map: Json, file: JournalFile | None) -> None:
        self.record = record
        self._api = api
        self._map = config_map
        self._file = file

    @classmethod
    async def begin(cls, api: KubeApi, record: Record, file: JournalFile | None) -> Self:
        """Create the journal of a new run.

        Raises RefusedError if there is one already.
        """
        if file:
            file.write(record.to_text())
        name = journal_name(record.run.host)
        thing = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": record.run.metadata(name), "data": _data(record)}
        try:
            made = await api.create(config_maps(record.run.namespace), thing, ours=lambda found: found.get("data") == thing["data"])
        except BaseException as error:  # also if it is cancelled: nothing is in force, so nothing must stay
            if file:
                file.remove()
            if not isinstance(error, ApiError) or isinstance(error, LostError):
                path = config_maps(record.run.namespace, name)
                await api.withdraw(path, ours=lambda found: run_of(found) == record.run.id)
            if not isinstance(error, ExistsError):
                raise
            message = f"there is a journal of {record.run.host} already: {record.run.namespace}/{name}"
            raise RefusedError(message, hint=f"an earlier run was not undone; {restore_command(record.run.namespace)} does it") from error
        return cls(api, record, made, file)

    @classmethod
    async def find(cls, api: KubeApi, host: str, namespace: str) -> Self | None:
        """Find the journal of a host in the cluster.

        Raises JournalError if it cannot be read.
        """
        name = journal_name(host)
        found = await api.find(config_maps(namespace, name))
        if found is None:
            return None
        where = f"the ConfigMap {namespace}/{name}"
        return cls(api, record_of(found, where), found, None)

    async def write(self, state: State, entries: tuple[Entry, ...]) -> None:
        """Go on to a state.

        Raises JournalLostError if the journal is not as we left it.
        """
        record = replace(self.record, state=state, entries=entries)
        data = _data(record)
        if self._file:
            self._file.write(record.to_text())
        try:
            self._map = await self._api.replace(self._path, {**self._map, "data": data}, ours=lambda found: found.get("data") == data)
        except (ConflictError, NotFoundError) as error:
            message = f"the journal of {record.run.host} was changed or removed by somebody else"
            command = restore_command(record.run.namespace)
            raise JournalLostError(message, hint=f"was the run taken for dead? see who has the lease, and what {command} says") from error
        self.record = record

    async def finish(self) -> None:
        """Remove the journal: nothing is left to be undone.

        Raises JournalLostError if it has become another run's.
        """
        for tries_left in reversed(range(FINISH_TRIES)):
            metadata = self._map["metadata"]
            try:
                await self._api.delete(self._path, uid=metadata["uid"], version=metadata["resourceVersion"])
            except ConflictError as error:
                found = await self._api.find(self._path)
                if found is None:
                    break
                if run_of(found) != self.record.run.id:
                    self._remove_file()  # it is about our change only
                    message = f"the journal of {self.record.run.host} is another run's by now"
                    raise JournalLostError(message, hint=f"see what {restore_command(self.record.run.namespace)} says") from error
                if not tries_left:
                    raise
                self._map = found  # a write of ours whose answer was lost, or a note of somebody's
                await anyio.sleep(FINISH_PAUSE_S)
            else:
                break
        self._remove_file()

    def _remove_file(self) -> None:
        if self._file:
            self._file.remove()

    @property
    def _path(self) -> str:
        return config_maps(self.record.run.namespace, journal_name(self.record.run.host))


def record_of(config_map: Json, where: str) -> Record:
    """Read the record that a ConfigMap holds.

    Raises JournalError if it holds none that can be read.
    """
    return Record.of_text(str((config_map.get("data") or {}).get(_KEY, "")), where)


def _data(record: Record) -> dict[str, str]:
    """Give the record, and each before-image once more as it stands, so that a person can put it back with kubectl alone."""
    text = record.to_text()
    images = {f"before-{each.namespace}.{each.name}.json": each.image for each in record.entries if each.image}
    if len(text) + sum(map(len, images.values())) > MAX_CHARACTERS:
        images = {}
    if len(text) > MAX_CHARACTERS:
        message = f"the rule is too large to be kept in a journal: {len(text):,} characters with all that is needed to undo its change"
        raise RefusedError(message, hint="use a rule of loadgen's own over it, or a smaller rule")
    return {_KEY: text, **images}


def expired(record: Record, now: datetime) -> bool:
    """Tell whether the run's time is over."""
    return now >= record.run.expires_at
