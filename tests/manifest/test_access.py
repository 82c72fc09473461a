"""Which secrets reach whom."""

from typing import Any

import pytest

from fakes.manifests import minimal, raw
from tacit.manifest import parse_manifest
from tacit.manifest.access import (
    holders,
    marbles_with,
    permissions,
    revealed_secrets,
    used_secrets,
    users_who_may,
    ways_to_secrets,
)
from tacit.manifest.model import Content, Manifest

SECRETS = {
    "key": {"Type": "symmetric-key", "Size": 256, "Shared": True},
    "crt": {"Type": "cert-ecdsa", "Size": 256},
    "a-b": {"Type": "plain", "UserDefined": True},
}


def manifest_of(**sections: Any) -> Manifest:
    return parse_manifest(raw(minimal(**({"Secrets": SECRETS} | sections)))).manifest


@pytest.mark.parametrize(
    ("template", "revealed"),
    [
        ("plain text with .Secrets.key in it", set()),
        ("{{ hex .Secrets.key }}", {"key"}),
        ("{{ hex .Secrets.key.Public }}", {"key"}),
        ("{{ .Secrets.key.Size }}", set()),
        ("{{ pem .Secrets.crt.Cert }}{{ pem .Secrets.crt.Public }}", set()),
        ("{{ pem .Secrets.crt.Cert }}{{ pem .Secrets.crt.Private }}", {"crt"}),
        ("{{ hex .Secrets.crt.Cert.Raw }}", set()),
        ("{{ hex .Secrets.key @ }}", {"key"}),
        ('{{ string (index .Secrets "a-b") }}', {"a-b"}),
        ('{{ pem (index .Secrets "crt").Cert }}', set()),
        ("{{ hex .Previous.Secrets.key }}", {"key"}),
        ("{{ hex .Secrets.unknown }}", set()),
        ("{{ range .Secrets }}{{ end }}", {"key", "crt", "a-b"}),
        ("{{ with .Secrets.key }}{{ hex .Private }}{{ end }}", {"key"}),
        ("{{ with .Secrets.crt.Cert }}{{ end }}", set()),
        ("{{ with .Secrets }}{{ hex .key }}{{ end }}", {"key", "crt", "a-b"}),
        ('{{ with or (eq "}}" "") .Secrets }}{{ hex .key }}{{ end }}', {"key", "crt", "a-b"}),
        ('{{ print "}}" (hex .Secrets.key) }}', {"key"}),
        ('{{ print ".Secrets.key" }}', set()),
        ('{{ with .MarbleRun.RootCA }}{{ print (hex (index .Secrets "key")) .Type }}{{ end }}', {"key"}),
        ('{{ with .MarbleRun.RootCA }}{{ print (index .Secrets "key") .Type }}{{ end }}', {"key"}),
        ("{{ (index .Previous.Secrets `crt` ).Size }}", set()),
        ('{{ hex (index $.Secrets "key") }}', {"key"}),
        ('{{ hex (index .Secrets "k\\x65y") }}', {"key", "crt", "a-b"}),
        ('{{ "key" | index .Secrets | hex }}', {"key", "crt", "a-b"}),
        ("{{ this does not close .Secrets.key", {"key", "crt", "a-b"}),
        ("{{/* .Secrets.key */}}", set()),
    ],
)
def test_a_template_reveals_the_secret_part_and_not_the_public_one(template: str, revealed: set[str]) -> None:
    assert revealed_secrets(manifest_of(), Content(template.encode())) == revealed


def test_secrets_come_by_files_variables_ports_and_models() -> None:
    parameters = {"Files": {"/k": "{{ raw .Secrets.key }}"}, "Env": {"T": '{{ string (index .Secrets "a-b") }}'}}
    manifest = manifest_of(
        Marbles={
            "m": {"Package": "server", "TLS": ["t", "undefined"], "Models": ["d", "no"], "Parameters": parameters}
        },
        TLS={"t": {"Incoming": [{"Port": "1", "Cert": "crt", "DisableClientAuth": True}]}},
        Models={"d": {"Format": "capsule", "Key": "key"}},
    )
    marble = manifest.marbles["m"]
    assert ways_to_secrets(manifest, marble) == {
        "a-b": ("variable T",),
        "crt": ("TLS tag t",),
        "key": ("file /k", "model d"),
    }
    assert used_secrets(manifest, marble) == {"key", "crt", "a-b"}
    assert holders(manifest) == {name: frozenset({"m"}) for name in ("a-b", "crt", "key")}


def test_marbles_are_found_by_the_secrets_that_their_templates_name() -> None:
    def marble(**parameters: Any) -> dict[str, Any]:
        return {"Package": "server", "Parameters": parameters}

    types = {
        "both": marble(Files={"/k": "{{ raw .Secrets.key }}"}, Env={"C": "{{ pem .Secrets.crt.Cert }}"}),
        "key": marble(Files={"/k": "{{ raw .Secrets.key }}"}),
        "none": marble(Files={"/k": "plain .Secrets.key"}, Argv=["{{ .Secrets.key }}"]),
        "any": marble(Env={"A": "{{ range .Secrets }}{{ end }}"}),
    }
    first, second = manifest_of(Marbles=types), manifest_of(Marbles={"none": types["key"]})
    for _ in range(2):  # each manifest has an index of its own
        assert marbles_with(first, ["key"]) == {"both", "key", "any"}
        assert marbles_with(first, ["crt"]) == {"both", "any"}
        assert marbles_with(first, ["crt", "key"]) == {"both", "key", "any"}
        assert marbles_with(first, ["a-b", "unknown"]) == {"any"}
        assert marbles_with(first, []) == {"any"}
        assert marbles_with(second, ["key"]) == {"none"}
        assert marbles_with(second, ["crt"]) == frozenset()


def test_roles_add_up_and_undefined_ones_give_nothing() -> None:
    manifest = manifest_of(
        Users={"u": {"Certificate": "x", "Roles": ["w", "m", "no"]}, "v": {"Certificate": "y"}},
        Roles={
            "w": {"ResourceType": "Secrets", "ResourceNames": ["a-b"], "Actions": ["WriteSecret", "readsecret"]},
            "m": {"ResourceType": "Manifest", "Actions": ["UpdateManifest"]},
        },
    )
    assert permissions(manifest, "u") == {("writesecret", "a-b"), ("readsecret", "a-b"), ("updatemanifest", "")}
    assert permissions(manifest, "v") == frozenset()
    assert users_who_may(manifest, "updatemanifest") == ("u",)
