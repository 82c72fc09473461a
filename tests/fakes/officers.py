"""People of a manifest for tests of the audit log: one who writes secrets, one who reads the log.

core.set_manifest(encode(LOGGED))
core.audit.page("officer", 0)
"""

import json
from typing import Any

from fakes.tee import NOW
from tacit.coordinator.core import Coordinator
from tacit.pki import issue_self_signed

OWNER = issue_self_signed(["owner"], common_name="owner", now=NOW)
OFFICER = issue_self_signed(["officer"], common_name="officer", now=NOW)

LOGGED: dict[str, Any] = {
    "Packages": {"p": {"Debug": True, "SecurityVersion": 1}},
    "Marbles": {
        "m": {"Package": "p", "Parameters": {"Env": {"K": "{{ hex .Secrets.shared }}"}}},
        "counted": {"Package": "p", "MaxActivations": 100_000},
    },
    "Secrets": {
        "key": {"Type": "symmetric-key", "Size": 256, "UserDefined": True},
        "shared": {"Type": "symmetric-key", "Size": 128, "Shared": True},
    },
    "Users": {
        "owner": {"Certificate": OWNER.certificate_pem.decode(), "Roles": ["keys", "update", "raise"]},
        "officer": {"Certificate": OFFICER.certificate_pem.decode(), "ReadLog": True},
    },
    "Roles": {
        "keys": {"ResourceType": "Secrets", "ResourceNames": ["key"], "Actions": ["ReadSecret", "WriteSecret"]},
        "update": {"ResourceType": "Manifest", "Actions": ["UpdateManifest"]},
        "raise": {"ResourceType": "Packages", "ResourceNames": ["p"], "Actions": ["UpdateSecurityVersion"]},
    },
}
"""A manifest with something of everything that the log tells of."""


def read_log(core: Coordinator, user: str = "officer") -> list[dict[str, Any]]:
    """The whole log, page by page, and checked to be one chain up to its signed end."""
    entries: list[dict[str, Any]] = []
    after, position = 0, None
    while True:
        page = core.audit.page(user, after)
        if position is None:
            position = page.begins
        assert page.begins == position
        if not page.lines:
            assert (position.number, position.head.hex()) == (page.mark.entries, page.mark.head)
            return entries
        position = position.after_lines(page.lines)
        entries += [json.loads(line) for line in page.lines]
        after = position.number


def events(core: Coordinator) -> list[str]:
    """What happened, in order."""
    return [entry["event"] for entry in read_log(core)]
