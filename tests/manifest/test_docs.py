"""The manifests in the documentation are manifests."""

import re
from pathlib import Path

import pytest

from tacit.manifest import TemplateData, check_manifest, parse_manifest_strict
from tacit.manifest.codec.schema import MANIFEST
from tacit.manifest.template import TemplateSecret, check_templates, render_text

TEXT = (Path(__file__).parents[2] / "docs" / "manifest.md").read_text()
BLOCKS = re.findall(r"```json manifest\n(.*?)```", TEXT, re.DOTALL)
ACTIONS = sorted(set(re.findall(r"`((?:[^`{]*\{\{[^`]*)\}\})`", TEXT)))


def test_there_are_manifests_and_templates_in_the_documentation() -> None:
    assert len(BLOCKS) >= 2
    assert len(ACTIONS) >= 8


@pytest.mark.parametrize("block", BLOCKS)
def test_a_manifest_in_the_documentation_passes_every_check(block: str) -> None:
    manifest = parse_manifest_strict(block.encode())
    assert check_manifest(manifest) == ()
    check_templates(manifest, TemplateData(marble_cert=TemplateSecret(cert=b"x")))


@pytest.mark.parametrize("action", ACTIONS)
def test_a_template_in_the_documentation_works(action: str) -> None:
    secret = TemplateSecret("symmetric-key", 256, cert=b"x", private=b"x", public=b"x")
    secrets = {"key": secret, "cert": secret, "a-b": secret}
    data = TemplateData(secrets=secrets, previous_secrets=secrets, root_ca=secret, marble_cert=secret)
    render_text(action.encode(), data, target="file")


def test_every_field_is_documented() -> None:
    pending = [MANIFEST]
    while pending:
        struct = pending.pop()
        for name, kind in struct.fields.items():
            inner = getattr(kind, "value", getattr(kind, "item", kind))
            if hasattr(inner, "fields"):
                pending.append(inner)
            if type(kind).__name__ != "Unused":
                assert name in TEXT, f"{name} of {struct.go_type} is not in docs/manifest.md"
