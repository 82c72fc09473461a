"""Everything that is wrong with a manifest, each with its place: what the strict reading refuses, and what makes no sense."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tacit.errors import Defect, ManifestError, PkiError, TemplateError
from tacit.manifest.check import find_warnings, locate_defects
from tacit.manifest.codec import survey_manifest
from tacit.manifest.codec.decode import Place
from tacit.manifest.codec.text import Node, parse_text, position
from tacit.manifest.material import check_recovery_key, secret_defect
from tacit.manifest.model import SECRET_TYPES, Manifest, SecretRule
from tacit.manifest.template import TemplateData, TemplateSecret, check_content
from tacit.manifest.template.functions import Target

Step = str | int

_STEP = re.compile(r'\.?([A-Za-z0-9_-]+)|\["(.*?)"\]|\[([0-9]+)\]', re.DOTALL)
_PLACED = re.compile(r"([A-Z][A-Za-z]*\.[^:]+): (.*)", re.DOTALL)
_FILLER = b"placeholder"
_MAX_PLACEHOLDER = 8192  # bytes


@dataclass(frozen=True, slots=True)
class Examined:
    """A manifest with all its defects and warnings; `manifest` is None where no reading takes it."""

    manifest: Manifest | None
    defects: tuple[Defect, ...]
    warnings: tuple[str, ...]


def examine_manifest(raw: bytes) -> Examined:
    """What is to be said about a manifest before anybody uploads it. Never raises for what the manifest says."""
    try:
        manifest, defects, unread = survey_manifest(raw)
    except ManifestError as exc:
        return Examined(None, exc.defects, ())
    # What follows from a value that nobody could read is no defect of its own.
    unread_entries = {parse_path(path)[:2] for path in unread}
    senseless = [
        one
        for one in (*_senseless(raw, manifest), *_templates(raw, manifest))
        if not any(parse_path(one.path)[: len(entry)] == entry for entry in unread_entries)
    ]
    found = sorted((*defects, *senseless), key=lambda one: (one.line, one.column))
    return Examined(manifest, tuple(found), tuple(find_warnings(manifest)))


def parse_path(path: str) -> tuple[Step, ...]:
    """The names and indexes of a path such as `Marbles.m.Parameters.Argv[2]` or `Marbles["a b"]`."""
    steps: list[Step] = []
    for name, quoted, index in _STEP.findall(path):
        steps.append(int(index) if index else name or quoted)
    return tuple(steps)


def _senseless(raw: bytes, manifest: Manifest) -> Iterator[Defect]:
    """What does not fit together."""
    tree = parse_text(raw)
    for steps, text in dict.fromkeys((*locate_defects(manifest), *_useless(manifest))):
        path, message = _named(steps), text
        placed = _PLACED.fullmatch(text)
        if placed is not None and placed[1].startswith(f"{path}."):
            path, message = placed[1], placed[2]
        line, column = position(raw, _offset(tree, parse_path(path)))
        yield Defect(path, line, column, message)


def _useless(manifest: Manifest) -> Iterator[tuple[tuple[str, ...], str]]:
    """Secrets, keys and certificates of which nothing can be made."""
    for name, rule in sorted(manifest.secrets.items()):
        text = "" if rule.user_defined or rule.type not in SECRET_TYPES else secret_defect(name, rule)
        if text:
            yield ("Secrets", name), text
    for name, pem in sorted(manifest.recovery_keys.items()):
        try:
            check_recovery_key(pem)
        except PkiError as exc:
            yield (
                ("RecoveryKeys", name),
                f"{exc}; expected an RSA key as PEM, -----BEGIN PUBLIC KEY-----",
            )
    for name, user in sorted(manifest.users.items()):
        if user.pem and not user.certificate:
            yield ("Users", name), f"received invalid certificate for user {name}; expected one as PEM"


def _templates(raw: bytes, manifest: Manifest) -> Iterator[Defect]:
    """Templates that cannot be filled in, tried with placeholders."""
    tree = parse_text(raw)
    secrets = {name: _placeholder(rule) for name, rule in manifest.secrets.items()}
    own = TemplateSecret("cert-ecdsa", cert=_FILLER, private=_FILLER, public=_FILLER)
    authority = TemplateSecret("cert-ecdsa", cert=_FILLER)
    data = TemplateData(secrets, secrets, authority, own, authority, authority)
    targets: tuple[tuple[Target, str], ...] = (("env", "Env"), ("file", "Files"))
    for name, marble in sorted(manifest.marbles.items()):
        for target, section in targets:
            contents = marble.parameters.env if target == "env" else marble.parameters.files
            for key, content in sorted(contents.items()):
                try:
                    check_content(content, data, target=target)
                except TemplateError as exc:
                    steps = ("Marbles", name, "Parameters", section, key)
                    yield Defect(_named(steps), *position(raw, _offset(tree, steps)), str(exc))


def _placeholder(rule: SecretRule) -> TemplateSecret:
    """A secret of this kind with made-up values, none of them empty and none with a NUL."""
    value = b"placeholder" if rule.type == "plain" else b"x" * min(max(rule.size // 8, 1), _MAX_PLACEHOLDER)
    certificate = _FILLER if rule.type.startswith("cert-") else b""
    return TemplateSecret(
        rule.type, rule.size, rule.shared, rule.user_defined, rule.valid_for, certificate, value, value
    )


def _named(steps: tuple[Step, ...]) -> str:
    place = Place()
    for step in steps:
        place = place.named(str(step))
    return place.path


def _offset(tree: Node, steps: tuple[Step, ...]) -> int:
    """Where the last step that is there stands; keys ignoring case, as the lenient reading takes them."""
    node, offset = tree, tree.offset
    for step in steps:
        if isinstance(step, int):
            if step >= len(node.items):
                break
            node = node.items[step]
            offset = node.offset
            continue
        named = [one for one in node.members if one.key == step] or [
            one for one in node.members if one.key.casefold() == step.casefold()
        ]
        if not named:
            break
        node, offset = named[-1].value, named[-1].offset
    return offset
