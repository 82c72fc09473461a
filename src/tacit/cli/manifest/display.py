"""`tacit manifest get --display-update`: the manifest with everything said that it leaves out, and raised versions.

The form is MarbleRun's: keys sorted, four columns for each level, a list on one line where it fits into 80 columns;
null and empty objects are left out, and what has a default and was not given has it.

Source: recorded output of MarbleRun v1.9.1.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tacit.errors import InputError

_WIDTH = 80
_INDENT = " " * 4

# What is always said of each entry of a section; `Config` is an entry itself.
_DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "Packages": {"Debug": False, "UniqueID": "", "SignerID": ""},
    "Marbles": {"Package": "", "MaxActivations": 0, "DisableSecretBinding": False},
    "Secrets": {"Type": "", "Size": 0, "Shared": False, "UserDefined": False, "ValidFor": 0},
    "Users": {"Certificate": ""},
    "Roles": {"ResourceType": ""},
}
_CONFIG: Mapping[str, object] = {
    "SealMode": "",
    "UpdateThreshold": 0,
    "RecoveryThreshold": 0,
    "RotateRootSecret": False,
}
_WHOLE_UPDATE = "Complete Manifest updated"
_RAISED = "SecurityVersion increased"


def show_updated(raw: bytes, log: Sequence[str]) -> str:
    """The text for a manifest and the lines of the update log behind it. Raises: InputError."""
    try:
        manifest = json.loads(raw)
    except ValueError as exc:
        raise InputError(f"the coordinator's manifest is no JSON ({exc})") from exc
    if not isinstance(manifest, dict):
        raise InputError("the coordinator's manifest is no JSON object")
    shown = _without_nothing(manifest)
    for section, defaults in _DEFAULTS.items():
        # An entry that says nothing is shown with its defaults all the same.
        for name, entry in _entries(manifest, section).items():
            shown.setdefault(section, {})[name] = {**defaults, **_without_nothing(entry)}
    shown["Config"] = {**_CONFIG, **shown.get("Config", {})}
    for package, version in _raised(log).items():
        if package in shown.get("Packages", {}):
            shown["Packages"][package]["SecurityVersion"] = version
    return _pretty(shown, 0) + "\n"


def _entries(manifest: Mapping[str, Any], section: str) -> Mapping[str, Mapping[str, Any]]:
    found = manifest.get(section)
    if not isinstance(found, dict):
        return {}
    return {name: entry for name, entry in found.items() if isinstance(entry, dict)}


def _without_nothing(value: Any) -> Any:
    """A value without null and without empty objects at any depth."""
    if isinstance(value, list):
        return [_without_nothing(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _without_nothing(item) for key, item in value.items()}
    return {key: item for key, item in kept.items() if item is not None and item != {}}


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
            head = f"{inner}{json.dumps(key, ensure_ascii=False)}: "
            rows.append(head + _pretty_in(value[key], level + 1, len(head)))
        return "{\n" + ",\n".join(rows) + f"\n{outer}}}"
    if isinstance(value, list) and value:
        rows = [inner + _pretty_in(item, level + 1, len(inner)) for item in value]
        return "[\n" + ",\n".join(rows) + f"\n{outer}]"
    return json.dumps(value, ensure_ascii=False)


def _pretty_in(value: Any, level: int, column: int) -> str:
    """A list on the line where it begins, if it fits there and holds no object."""
    if isinstance(value, list):
        line = json.dumps(value, ensure_ascii=False)
        if column + len(line) < _WIDTH and not _holds_object(value):
            return line
    return _pretty(value, level)


def _holds_object(items: Sequence[Any]) -> bool:
    return any(isinstance(item, dict) or (isinstance(item, list) and _holds_object(item)) for item in items)
