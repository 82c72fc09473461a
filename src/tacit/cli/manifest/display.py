"""`tacit manifest get --display-update`: the manifest with everything said that it leaves out, and raised versions.

The form is MarbleRun's: each key by its proper name, keys sorted, four columns for each level, a list on one line where
it fits into 80 columns; null and empty objects are left out, and what has a default and was not given has it. Our
extensions are shown where they were given; what no reader takes is not.

Source: recorded output of MarbleRun v1.9.1.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tacit.errors import InputError
from tacit.manifest.codec.content import ContentKind
from tacit.manifest.codec.decode import Alone, Kind, ListOf, MapOf, Struct, Unused
from tacit.manifest.codec.schema import MANIFEST

_WIDTH = 80
_INDENT = " " * 4

# What is always said of a thing of MarbleRun's, by its name in the table of the codec.
_DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "quote.PackageProperties": {"Debug": False, "UniqueID": "", "SignerID": ""},
    "manifest.Marble": {"Package": "", "MaxActivations": 0, "DisableSecretBinding": False},
    "manifest.Secret": {"Type": "", "Size": 0, "Shared": False, "UserDefined": False, "ValidFor": 0},
    "manifest.User": {"Certificate": ""},
    "manifest.Role": {"ResourceType": ""},
    "manifest.TLSTagEntry": {"Addr": "", "Cert": "", "DisableClientAuth": False, "Port": ""},
    "manifest.Config": {"SealMode": "", "UpdateThreshold": 0, "RecoveryThreshold": 0, "RotateRootSecret": False},
}
_CONTENT = Struct("manifest.File", {"Data": ContentKind(), "Encoding": ContentKind(), "NoTemplates": ContentKind()})
_WHOLE_UPDATE = "Complete Manifest updated"
_RAISED = "SecurityVersion increased"
# Go writes these as escapes, so that JSON can stand in a page of HTML.
_ESCAPED = {code: f"\\u{code:04x}" for code in (*map(ord, "<>&"), 0x2028, 0x2029)}


def show_updated(raw: bytes, log: Sequence[str]) -> str:
    """The text for a manifest and the lines of the update log behind it. Raises: InputError."""
    try:
        manifest = json.loads(raw)
    except ValueError as exc:
        raise InputError(f"the coordinator's manifest is no JSON ({exc})") from exc
    if not isinstance(manifest, dict):
        raise InputError("the coordinator's manifest is no JSON object")
    shown = _named(MANIFEST, {"Config": {}, **manifest})
    for package, version in _raised(log).items():
        if package in shown.get("Packages", {}):
            shown["Packages"][package]["SecurityVersion"] = version
    return _pretty(shown, 0) + "\n"


def _named(kind: Kind, value: Any) -> Any:
    """A value with each key by its proper name, defaults filled in, and nothing in it that says nothing."""
    if isinstance(kind, Alone):
        return _named(kind.kind, value)
    if isinstance(kind, Struct) and isinstance(value, dict):
        return _named_fields(kind, value)
    if isinstance(kind, MapOf) and isinstance(value, dict):
        entries = {name: _named(kind.value, {} if entry is None else entry) for name, entry in value.items()}
        return {name: entry for name, entry in entries.items() if entry != {}}
    if isinstance(kind, ListOf) and isinstance(value, list):
        return [_named(kind.item, item) for item in value]
    if isinstance(kind, ContentKind):
        return _named_content(value)
    return value


def _named_fields(kind: Struct, value: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = dict(_DEFAULTS.get(kind.go_type, {}))
    for key, given in value.items():
        name = kind.proper_name(key)
        if name is None or isinstance(kind.fields[name], Unused):
            continue
        entry, before = _named(kind.fields[name], given), found.get(name)
        # A key that stands there in two spellings adds to what the first one said, as Go reads it.
        found[name] = {**before, **entry} if isinstance(before, dict) and isinstance(entry, dict) else entry
    return {name: entry for name, entry in found.items() if entry is not None and entry != {}}


def _named_content(value: Any) -> Any:
    """A file or variable as the object that it may be written as."""
    if isinstance(value, str):
        return {"Data": value, "Encoding": "string", "NoTemplates": False}
    if not isinstance(value, dict):
        return value
    fields = {_CONTENT.proper_name(key): given for key, given in value.items()}
    return {
        "Data": fields.get("Data") or "",
        "Encoding": fields.get("Encoding") or "string",
        "NoTemplates": bool(fields.get("NoTemplates")),
    }


def _raised(log: Sequence[str]) -> Mapping[str, int]:
    """The newest security version by package; an update of the whole manifest brings its own."""
    versions: dict[str, int] = {}
    for line in log:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if not isinstance(event, dict):
            continue
        if event.get("update") == _WHOLE_UPDATE:
            versions.clear()
        elif event.get("update") == _RAISED and isinstance(event.get("new version"), int):
            versions[str(event.get("package"))] = event["new version"]
    return versions


def _pretty(value: Any, level: int) -> str:
    """A value as text, from where its key ends."""
    inner, outer = _INDENT * (level + 1), _INDENT * level
    if isinstance(value, dict) and value:
        rows = []
        for key in sorted(value):
            head = f"{inner}{_json(key)}: "
            rows.append(head + _pretty_in(value[key], level + 1, len(head)))
        return "{\n" + ",\n".join(rows) + f"\n{outer}}}"
    if isinstance(value, list) and value:
        rows = [inner + _pretty_in(item, level + 1, len(inner)) for item in value]
        return "[\n" + ",\n".join(rows) + f"\n{outer}]"
    return _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).translate(_ESCAPED)


def _pretty_in(value: Any, level: int, column: int) -> str:
    """A list on the line where it begins, if it fits there and holds no object."""
    if isinstance(value, list):
        line = _json(value)
        if column + len(line) < _WIDTH and not _holds_object(value):
            return line
    return _pretty(value, level)


def _holds_object(items: Sequence[Any]) -> bool:
    return any(isinstance(item, dict) or (isinstance(item, list) and _holds_object(item)) for item in items)
