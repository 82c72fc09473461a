"""Against what the real coordinator answered: every recorded manifest, each refusal, each activation."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from tacit.errors import ManifestError
from tacit.manifest import TemplateData, check_manifest, parse_manifest, parse_manifest_strict, render
from tacit.manifest.material import check_material
from tacit.manifest.template import TemplateSecret, check_templates


@pytest.fixture(scope="session")
def recorded(shared_vectors: Path) -> Path:
    return shared_vectors / "marblerun"


def set_manifest(raw: bytes) -> str:
    """The coordinator's pure part of setting a manifest; its message, or nothing when it is accepted."""
    data = TemplateData(root_ca=TemplateSecret(cert=b"certificate"))
    try:
        manifest = parse_manifest(raw).manifest
        try:
            check_manifest(manifest)
        except ManifestError as exc:
            return f"checking manifest: {exc}"
        check_material(manifest)
        try:
            check_templates(manifest, data)
        except ManifestError as exc:
            return f"running manifest template dry run: {exc}"
    except ManifestError as exc:
        return str(exc)
    return ""


def test_each_refusal_has_the_recorded_words(recorded: Path) -> None:
    seen = 0
    for path in sorted((recorded / "manifests" / "invalid").glob("*.json")):
        answer = json.loads((recorded / "rest" / "3-invalid-manifests" / path.name).read_text())
        assert set_manifest(path.read_bytes()) == answer["response"]["body"]["json"].get("message", ""), path.name
        seen += 1
    assert seen > 60


def test_accepted_manifests_are_accepted(recorded: Path) -> None:
    for path in sorted((recorded / "manifests").glob("*.json")):
        raw = path.read_bytes()
        parsed = parse_manifest(raw)
        if path.name == "case-insensitive-keys.json":
            assert len(parsed.leniencies) == 7
            continue
        assert parsed.leniencies == ()
        assert parse_manifest_strict(raw) == parsed.manifest
        if not path.name.startswith("update-svn"):
            check_manifest(parsed.manifest)


def pem_secret(decoded: dict[str, str], cert: str, key: str) -> TemplateSecret:
    """A certificate secret from what the recorded activation put out for it."""
    certificate = load_pem_x509_certificate(decoded[cert].encode())
    private = load_pem_private_key(decoded[key].encode(), None)
    der = base64.b64decode("".join(decoded[key].split("\n")[1:-2]))
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return TemplateSecret(cert=certificate.public_bytes(Encoding.DER), private=der, public=public)


def activation_data(files: dict[str, bytes], env: dict[str, str], rules: Any) -> TemplateData:
    """The secrets behind the recorded activation, gathered from the values that it gave out."""
    secrets = {}
    for name, rule in rules.items():
        flags = (rule.type, rule.size, rule.shared, rule.user_defined, rule.valid_for)
        if rule.type.startswith("cert"):
            made = pem_secret(env, f"{name}__cert", f"{name}__private")
            secrets[name] = TemplateSecret(*flags, made.cert, made.private, made.public)
        else:
            value = files.get(f"/s/{name}.raw", b"")
            secrets[name] = TemplateSecret(*flags, b"", value, value)
    text = {path: value.decode() for path, value in files.items() if path.startswith("/m/") and "-----" in str(value)}
    own = pem_secret(text, "/m/marble.crt", "/m/marble.key")

    def only(path: str) -> TemplateSecret:
        return TemplateSecret(cert=load_pem_x509_certificate(text[path].encode()).public_bytes(Encoding.DER))

    return TemplateData(
        secrets=secrets,
        previous_secrets=secrets,
        root_ca=only("/m/rootca.pem"),
        marble_cert=own,
        coordinator_root=only("/m/coordroot.pem"),
        coordinator_intermediate=only("/m/coordint.pem"),
    )


def test_an_activation_with_every_kind_of_secret_is_rendered_byte_for_byte(recorded: Path) -> None:
    manifest = parse_manifest((recorded / "manifests" / "secrets-all.json").read_bytes()).manifest
    parameters = json.loads((recorded / "activation" / "all-secrets.json").read_text())["response"]["Parameters"]
    files = {path: base64.b64decode(value) for path, value in parameters["Files"].items()}
    env = {name: base64.b64decode(value).decode() for name, value in parameters["Env"].items()}
    data = activation_data(files, env, manifest.secrets)
    marble = manifest.marbles["all"].parameters
    for path, content in marble.files.items():
        assert render(content, data, target="file") == files[path], path
    for name, content in marble.env.items():
        assert render(content, data, target="env").decode() == env[name], name
    assert len(marble.files) + len(marble.env) > 90
