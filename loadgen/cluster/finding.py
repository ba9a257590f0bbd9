"""What of a run's change is left in a rule, and what takes just that out? Decided from the journal's entry and the rule as it is now.

The law: what somebody else wrote is never overwritten. A rule that we created goes if its spec still is what we wrote; a rule that we
changed gets back, value for value, what still is ours. Anything else is left as it is, without our marks, and it is said who did it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from loadgen.cluster import marks
from loadgen.cluster.journal import SCHEMA, Entry
from loadgen.cluster.managers import only_ours, owns_alone, who_changed, without_us
from loadgen.cluster.marks import Json, annotation, guard_name, json_of, run_of
from loadgen.cluster.merge import ABSENT, foreign, merge, operations, pointer, same
from loadgen.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loadgen.cluster.marks import Run
    from loadgen.cluster.merge import Path

_POOL = ("spec", "trafficPolicy", "connectionPool")
_LABELS = (marks.RUN, marks.MANAGED_BY)
_ANNOTATIONS = (marks.RUN, marks.HOLDER, marks.HOST, marks.HOME, marks.EXPIRES_AT, marks.UNDO)
_SHOWN_EDITS = 3


class Fate(StrEnum):
    """What became of the undo of one rule. Superseded: somebody else changed it, and that was left as it is."""

    VERIFIED = "verified"
    SUPERSEDED = "superseded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What to do about a rule, and what to say of it then. Nothing to do means that it is done."""

    fate: Fate
    sentence: str
    deletes: bool = False
    waits: bool = False
    patch: tuple[Json, ...] = ()

    @property
    def is_done(self) -> bool:
        """Tell whether nothing is left to be done."""
        return not (self.deletes or self.waits or self.patch)


def find(entry: Entry, run: Run, now: Json | None) -> Finding:
    """Say what is left of an entry of this run."""
    return _created(entry, run, now) if entry.creates else _changed(entry, run, now)


def drift(entry: Entry, run: Run, now: Json | None) -> str:
    """Say who changed a rule while our change is in force, and what; empty if nobody did."""
    if now is None:
        return f"the rule {entry.key} was deleted by somebody else"
    if entry.uid and now["metadata"]["uid"] != entry.uid:
        return f"the rule {entry.key} was deleted and made again by {who_changed(now, None)}"
    if run_of(now) != run.id:
        return f"{who_changed(now, _image(entry))} took the marks of the run off the rule {entry.key}"
    image = _image(entry) or {}
    whole = entry.written if entry.creates else merge(entry.written, entry.before, image.get("spec") or {})
    edits = list(_edits(now.get("spec") or {}, whole))
    return f"{_edited(entry, now, edits)}; what they wrote is left as it is" if edits else ""


def _stays(entry: Entry) -> str:
    """Say what a person has to know of a rule that is theirs now."""
    command = f"kubectl delete destinationrules.networking.istio.io {entry.name} -n {entry.namespace}"
    return "it was left as it is, and is in force" + (f"; to remove it: {command}" if entry.creates else "")


def _edits(spec: Json, whole: Json) -> Iterable[tuple[Path, Any, Any]]:
    for operation in operations(whole, spec):
        path = tuple(step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:])
        yield path, _at(whole, path), operation.get("value", ABSENT)


def _created(entry: Entry, run: Run, now: Json | None) -> Finding:
    if now is None:
        return Finding(Fate.VERIFIED, f"the rule {entry.key} is gone")
    is_other = bool(entry.uid) and now["metadata"]["uid"] != entry.uid
    if run_of(now) == run.id:
        return _made_again(entry, run, now) if is_other else _ours(entry, run, now)
    who = who_changed(now, None)
    if entry.uid and not is_other:
        return Finding(Fate.SUPERSEDED, f"{who} took the marks of the run off the rule {entry.key}; {_stays(entry)}")
    return Finding(Fate.VERIFIED, f"the rule {entry.key} is gone; there is another one of that name now, made by {who}")


def _ours(entry: Entry, run: Run, now: Json) -> Finding:
    if now["metadata"].get("deletionTimestamp"):
        held = ", ".join(map(str, now["metadata"].get("finalizers") or ()))
        sentence = f"the rule {entry.key} is being deleted" + (f", but {printable(held)} holds it" if held else "")
        return Finding(Fate.FAILED, sentence, waits=True)
    spec = now.get("spec") or {}
    if same(spec, entry.written) or only_ours(now):
        return Finding(Fate.VERIFIED, f"the rule {entry.key} is deleted", deletes=True)
    edits = list(_edits(spec, entry.written))
    return Finding(Fate.SUPERSEDED, f"{_edited(entry, now, edits)}; {_stays(entry)}", patch=_disowned(run, now))


def _made_again(entry: Entry, run: Run, now: Json) -> Finding:
    limits = ", with the limits of the run in it"
    sentence = f"the rule {entry.key} was deleted and made again by {who_changed(now, None)}{limits}; {_stays(entry)}"
    return Finding(Fate.SUPERSEDED, sentence, patch=_disowned(run, now))


def _changed(entry: Entry, run: Run, now: Json | None) -> Finding:
    if now is None:
        return Finding(Fate.SUPERSEDED, f"the rule {entry.key} was deleted by somebody else; it is not made again")
    image = _image(entry)
    is_marked = annotation(now, marks.RUN) == run.id
    if image and now["metadata"]["uid"] != image["metadata"]["uid"]:
        if is_marked:
            return _made_again(entry, run, now)
        return Finding(
            Fate.SUPERSEDED, f"the rule {entry.key} was deleted and made again by {who_changed(now, None)}; it was left as it is"
        )
    spec = now.get("spec") or {}
    as_written = bool(entry.uid) and same(_at(spec, _POOL[1:]), _at(entry.written, _POOL[1:]))
    still_ours = not run_of(now) and as_written and owns_alone(now, _POOL)  # another run may have written the same, and it is that run's
    if not is_marked and not still_ours:
        return replace(_untouched(entry, now, image), patch=_remains(run, now))
    then = merge(entry.before, entry.written, spec)
    patch = (*operations(spec, then, ("spec",)), *_disowned(run, now))
    edits = list(foreign(entry.before, entry.written, spec))
    if edits:
        return Finding(Fate.SUPERSEDED, f"{_edited(entry, now, edits)}; that was left as it is, and the rest put back", patch=patch)
    return Finding(Fate.VERIFIED, f"the limits of the rule {entry.key} are put back", patch=patch)


def _untouched(entry: Entry, now: Json, image: Json | None) -> Finding:
    """Say of a rule that has nothing of ours in it how it compares with the one before."""
    if image is None:
        return Finding(Fate.VERIFIED, f"the limits of the rule {entry.key} are those that its own annotation names")
    if same(users_part(now), users_part(image)):
        return Finding(Fate.VERIFIED, f"the rule {entry.key} is exactly as it was before")
    who = who_changed(now, image)
    return Finding(Fate.VERIFIED, f"the rule {entry.key} has nothing of the run in it; what {who} changed meanwhile was left as it is")


def _remains(run: Run, now: Json) -> tuple[Json, ...]:
    """Clear away what somebody left of our marks."""
    is_about_us = (annotation(now, marks.HOST), annotation(now, marks.HOME)) == (run.host, run.namespace)
    return _disowned(run, now) if is_about_us and run_of(now) == "" else ()


def users_part(rule: Json) -> Json:
    """Give what people write in a rule: spec, labels and annotations."""
    metadata = rule["metadata"]
    return {"spec": rule.get("spec") or {}, "labels": metadata.get("labels") or {}, "annotations": metadata.get("annotations") or {}}


def ownership(entry: Entry, now: Json) -> Json | None:
    """Give the change that takes us out of ``managedFields`` of a rule that is put back, so that nobody's next apply meets a conflict.

    None if nothing is to be changed, and for a rule that another run has changed since: there our name is that run's.
    """
    image = _image(entry)
    if image is None or run_of(now):
        return None
    exact = same(users_part(now), users_part(image))
    fields = image["metadata"].get("managedFields") if exact else without_us(now)
    is_so = same(fields, now["metadata"].get("managedFields"))
    return None if is_so or not fields else {"op": "replace", "path": "/metadata/managedFields", "value": fields}


# The marks of a run on a rule, and a rule's entry made from them alone.


def entry_of(rule: Json) -> Entry | None:
    """Read from a rule's own marks what a run did to it; None if it has none that can be read."""
    metadata, spec = rule["metadata"], rule.get("spec") or {}
    try:
        undo = json_of(annotation(rule, marks.UNDO))
        if undo["schema"] != SCHEMA:
            return None
        if "digest" in undo:
            written = spec if undo["digest"] == digest(spec) else {}
            return Entry(metadata["namespace"], metadata["name"], creates=True, written=written, uid=metadata["uid"])
        return Entry(metadata["namespace"], metadata["name"], creates=False, written=dict(undo["written"]), before=dict(undo["before"]))
    except (ValueError, KeyError, TypeError):
        return None


def undo_annotation(entry: Entry) -> str:
    """Write what ``entry_of`` reads."""
    part = {"digest": digest(entry.written)} if entry.creates else {"before": entry.before, "written": entry.written}
    return json.dumps({"schema": SCHEMA, **part}, sort_keys=True)


def digest(spec: Json) -> str:
    """Give a fingerprint of a spec."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


def _disowned(run: Run, now: Json) -> tuple[Json, ...]:
    """Take our marks off a rule, so that nothing of ours deletes or changes it later."""
    metadata = now["metadata"]
    then = dict(metadata)
    then["labels"] = _less(metadata.get("labels"), _LABELS if (metadata.get("labels") or {}).get(marks.RUN) == run.id else ())
    then["annotations"] = _less(metadata.get("annotations"), _ANNOTATIONS)
    owners = metadata.get("ownerReferences") or []
    then["ownerReferences"] = [each for each in owners if (each.get("kind"), each.get("name")) != ("Job", guard_name(run.host))]
    keys = [key for key in ("labels", "annotations", "ownerReferences") if metadata.get(key)]
    return tuple(step for key in keys for step in operations(metadata[key], then[key], ("metadata", key)))


def _less(values: Json | None, keys: Iterable[str]) -> Json:
    return {key: value for key, value in (values or {}).items() if key not in keys}


def _image(entry: Entry) -> Json | None:
    image: Json | None = json.loads(entry.image) if entry.image else None
    return image


def _at(value: Any, path: Path) -> Any:
    for step in path:
        value = value.get(step, ABSENT) if isinstance(value, dict) else ABSENT
    return value


def _edited(entry: Entry, now: Json, edits: list[tuple[Path, Any, Any]]) -> str:
    """Say who changed what in a rule of ours."""
    who = who_changed(now, _image(entry), ("spec", *edits[0][0]))
    shown = [
        f"spec{pointer(path).replace('/', '.')} from {_value(ours)} to {_value(theirs)}" for path, ours, theirs in edits[:_SHOWN_EDITS]
    ]
    more = f" and {len(edits) - _SHOWN_EDITS} more" if len(edits) > _SHOWN_EDITS else ""
    return f"{who} changed the rule {entry.key}: {', '.join(shown)}{more}"


def _value(value: Any) -> str:
    return "nothing" if value is ABSENT else printable(json.dumps(value))
