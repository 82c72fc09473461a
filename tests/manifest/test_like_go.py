"""Beside Go's own text/template and encoding/json: what they refuse is refused, what they give is given or refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from tacit.errors import ManifestError, TemplateError
from tacit.manifest import TemplateData, parse_manifest
from tacit.manifest.template import TemplateSecret, render_text

VECTORS = Path(__file__).parents[1] / "vectors" / "manifest"
TEMPLATES = json.loads((VECTORS / "templates.json").read_text())
TEXTS = json.loads((VECTORS / "texts.json").read_text())
DATA = TemplateData(
    secrets={
        "k": TemplateSecret("symmetric-key", 16, shared=True, private=b"\x01\xff", public=b"\x01\xff"),
        "a-b": TemplateSecret("symmetric-key", 32, private=b"{{ hex }}", public=b"{{ hex }}"),
        "c": TemplateSecret("cert-rsa", 2048, valid_for=3, cert=b"c" * 100, private=b"p", public=b"q"),
        "u": TemplateSecret("plain", user_defined=True),
    },
    root_ca=TemplateSecret(cert=b"root"),
)


@pytest.mark.parametrize("entry", TEMPLATES, ids=[entry["template"] for entry in TEMPLATES])
def test_a_template_is_filled_in_as_go_does_or_refused(entry: dict[str, Any]) -> None:
    template = entry["template"].encode()
    if "output" in entry:
        assert render_text(template, DATA, target="file").decode("latin-1") == entry["output"]
        return
    with pytest.raises(TemplateError) as caught:
        render_text(template, DATA, target="file")
    if "go" in entry and not entry.get("other_words_here"):
        assert str(caught.value) == entry["go"]


@pytest.mark.parametrize("entry", TEXTS, ids=[ascii(entry["text"]) for entry in TEXTS])
def test_a_text_is_accepted_or_refused_with_gos_words(entry: dict[str, str]) -> None:
    text = entry["text"].encode("latin-1")
    if not entry["go"]:
        parse_manifest(text)
        return
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text)
    assert str(caught.value) == f"unmarshaling manifest: {entry['go']}"
