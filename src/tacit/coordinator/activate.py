"""What a marble gets, once it is known to be allowed.

The order of the checks is MarbleRun's: (1) the state, (2) the type, (3) its budget of activations, (4) the evidence,
(5) the UUID, (6) the signing request, (7) the parameters, (8) the budget again, counted and stored, and only then the
answer. (1), (3) and (8) need what is held and are `core`'s; the rest is here, pure.

Nothing is released without an `Appraisal`, which only `manifest.appraise` makes, or, where the coordinator itself has
no TEE to speak of, an `Unattested`.

Source: order, names of variables and words of refusal as recorded from MarbleRun v1.9.1.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from tacit.coordinator.secrets import Marble, Secret, derive_for_marble, placeholders
from tacit.coordinator.state import Holdings, Identity
from tacit.errors import (
    ActivationError,
    AppraisalError,
    CollateralAbsentError,
    EvidenceError,
    InputError,
    PkiError,
    PlatformError,
    TemplateError,
    WrongTeeError,
)
from tacit.evidence import Claims, Tee
from tacit.manifest import Appraisal, Manifest, TemplateData, Unattested, appraise, render
from tacit.manifest import model as rules
from tacit.manifest.access import marbles_with, named_secrets, used_secrets, uses_previous
from tacit.manifest.template import TemplateSecret, check_templates
from tacit.pki import KeyPair, issue_leaf, parse_csr
from tacit.pki.keys import Encoded, encode_pem
from tacit.wire.release import CLIENTS_ENV, KEY_FOLDER, MODELS_ENV, ClientRule, ModelRule
from tacit.wire.rest import encode_like_go

Permission = Appraisal | Unattested
Verifier = Callable[[bytes, bytes, Tee], Claims]
"""Evidence, the client certificate (DER) of its connection and the kind of TEE that the package names in; authentic
claims, bound to that certificate, out. They may be of another kind: that is for the package to refuse."""

TTLS_ENV = "MARBLE_TTLS_CONFIG"
MODEL_KEY_SIZE = 32  # bytes

_HYPHENS = (8, 13, 18, 23)
_URN = "urn:uuid:"


@dataclass(frozen=True, slots=True)
class Order:
    """What a marble asks for. `certificate` is the client certificate (DER) of its connection."""

    marble_type: str
    uuid: str
    csr: bytes
    evidence: bytes
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Release:
    """What a marble gets; `secret_names` are for the log."""

    files: Mapping[str, bytes] = field(repr=False)
    env: Mapping[str, bytes] = field(repr=False)
    argv: tuple[str, ...]
    uuid: str
    secret_names: tuple[str, ...]


def require_known_type(manifest: Manifest, marble_type: str) -> rules.Marble:
    """(2) The rule of a marble type.

    Raises:
        ActivationError: the manifest has none.
    """
    marble = manifest.marbles.get(marble_type)
    if marble is None:
        raise ActivationError("marble verification failed: unknown marble type requested")
    return marble


def require_budget(holdings: Holdings, marble_type: str, marble: rules.Marble) -> None:
    """(3) One more activation, where the manifest sets a limit.

    Raises:
        ActivationError: the budget is spent.
    """
    limit = marble.max_activations
    if limit and holdings.activations.get(marble_type, 0) >= limit:
        raise ActivationError(
            f'marble verification failed: reached max activations count ({limit}) for marble type "{marble_type}"'
        )


OPERATORS_OWN = (PlatformError, CollateralAbsentError)
"""Their words name the coordinator's own folder, or whom it asks: for its log, not for a marble that proved nothing."""


def permit(manifest: Manifest, marble: rules.Marble, order: Order, *, verify: Verifier | None) -> Permission:
    """(4) Authentic evidence of allowed software, bound to this connection's key. Without a verifier: unattested mode.

    Raises:
        ActivationError: with the refusing rule behind it as the cause.
    """
    package = manifest.packages.get(marble.package)
    if package is None:
        raise ActivationError(f'marble verification failed: undefined package "{marble.package}"')
    if verify is None:
        return Unattested("the coordinator runs in unattested mode")
    try:
        return appraise(verify(order.evidence, order.certificate, _named_tee(package)), package)
    except OPERATORS_OWN as exc:
        raise ActivationError(
            "marble verification failed: invalid quote: the coordinator has no collateral for it at this time; its log says why"
        ) from exc
    except (EvidenceError, AppraisalError) as exc:
        raise ActivationError(f"marble verification failed: invalid quote: {exc}") from exc


def _named_tee(package: rules.Package) -> Tee:
    """The kind that a package names; SGX where it names none.

    Raises:
        WrongTeeError: no kind that there is.
    """
    named = package.tee or Tee.SGX
    if named not in tuple(Tee):
        raise WrongTeeError(
            f"the package is for TEE {named!r}, which no evidence is from; expected one of {', '.join(Tee)}"
        )
    return Tee(named)


def parse_uuid(text: str) -> str:
    """(5) The canonical form of a UUID: plain, in braces, as a URN, or 32 digits.

    Raises:
        InputError: in MarbleRun's words.
    """
    size = len(text.encode())
    bare = text
    if size == 36 + len(_URN):
        if text[: len(_URN)].lower() != _URN:
            raise InputError(f'invalid UUID: invalid urn prefix: "{text[: len(_URN)]}"')
        bare = text[len(_URN) :]
    elif size == 38:
        bare = text[1:-1]
    elif size == 32:
        bare = "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
    elif size != 36:
        raise InputError(f"invalid UUID: invalid UUID length: {size}")
    if not re.fullmatch(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", bare):
        raise InputError("invalid UUID: invalid UUID format")
    return bare.lower()


def release(
    permission: Permission,
    holdings: Holdings,
    manifest: Manifest,
    order: Order,
    *,
    uuid: str,
    now: datetime,
    mark: str | None,
) -> Release:
    """(6) and (7): the certificate, the secrets, and what the manifest makes of them.

    Raises:
        PkiError: the signing request cannot be used.
        TemplateError: a template cannot be filled in, for example with a secret that its owner has not set.
        ActivationError: `permission` is none.
    """
    if not isinstance(permission, Appraisal | Unattested):
        raise ActivationError("nothing is released without an appraisal")
    rule = manifest.marbles[order.marble_type]
    leaf = _leaf(holdings.identity, rule, order, uuid=uuid, now=now, mark=mark).encode()
    marble = Marble(order.marble_type, uuid, rule.disable_secret_binding)
    used = used_secrets(manifest, rule)

    def gather(held: Mapping[str, Secret], root_secret: bytes) -> dict[str, Secret]:
        issuer = holdings.identity.marble_root
        own = derive_for_marble(manifest, marble, root_secret=root_secret, issuer=issuer, now=now, names=used)
        return {name: held[name] for name in used if name in held} | own

    secrets = gather(holdings.secrets, holdings.root_secret)
    previous = gather(holdings.previous_secrets, holdings.previous_root_secret) if uses_previous(rule) else {}
    data = _template_data(holdings.identity, leaf, secrets, previous)
    try:
        files, env = _fill_in(rule.parameters, data)
        models_env, keys = _models(manifest, rule, secrets)
    except TemplateError as exc:
        raise TemplateError(f"customizing marble parameters: {exc}") from exc
    env |= models_env | _clients(manifest) | _reserved(holdings.identity, leaf)
    if rule.tls:
        env[TTLS_ENV] = ttls_config(manifest, rule.tls, secrets, holdings.identity, leaf)
    return Release(files | keys, env, rule.parameters.argv, uuid, tuple(sorted(used)))


def rehearse(
    holdings: Holdings,
    manifest: Manifest,
    *,
    secrets: Mapping[str, Secret],
    random: Callable[[int], bytes],
    only: frozenset[str] | None = None,
) -> None:
    """Fill in every template once, with placeholders for what is not known yet. `only` spares templates of other names.

    Raises:
        TemplateError: the first that cannot be filled in, and where it stands.
    """
    identity = holdings.identity
    filled = placeholders(manifest, secrets, issuer=identity.marble_root, random=random, written=only or ())
    data = _template_data(identity, identity.intermediate.encode(), filled, filled)

    def concerned(content: rules.Content) -> bool:
        return only is None or any(mentions(content, one) for one in only)

    marbles = None if only is None else marbles_with(manifest, only)
    try:
        check_templates(manifest, data, marbles=marbles, concerned=concerned)
    except TemplateError as exc:
        raise TemplateError(f"running manifest template dry run: {exc}") from exc


def mentions(content: rules.Content, name: str) -> bool:
    """Whether a template may use the secret of this name. Says yes when in doubt."""
    named = named_secrets(content)
    return named is None or name in named


def ttls_config(
    manifest: Manifest, tags: tuple[str, ...], secrets: Mapping[str, Secret], identity: Identity, leaf: Encoded
) -> bytes:
    """The configuration of MarbleRun's transparent TLS, byte by byte as Go writes it."""
    authority = identity.marble_root.certificate_pem.decode()
    own = {"cacrt": authority, "clicrt": leaf.certificate_pem.decode(), "clikey": leaf.key_pem.decode()}
    incoming: dict[str, object] = {}
    outgoing: dict[str, object] = {}
    for tag in tags:
        for one in manifest.tls[tag].outgoing:
            outgoing[f"{one.addr}:{one.port}"] = own
        for port in manifest.tls[tag].incoming:
            entry: dict[str, object] = {**own, "clientAuth": not port.disable_client_auth}
            if port.certificate:
                secret = secrets[port.certificate]
                entry["clicrt"] = encode_pem("CERTIFICATE", secret.certificate).decode()
                entry["clikey"] = encode_pem("PRIVATE KEY", secret.private).decode()
            incoming[f"*:{port.port}"] = entry
    config = {"tls": {"Incoming": incoming, "Outgoing": outgoing}}
    return encode_like_go(config)


def _leaf(
    identity: Identity, rule: rules.Marble, order: Order, *, uuid: str, now: datetime, mark: str | None
) -> KeyPair:
    try:
        return issue_leaf(
            parse_csr(order.csr),
            issuer=identity.intermediate,
            uuid=uuid,
            marble_type=order.marble_type,
            allowed_names=rule.allowed_names,
            now=now,
            lifetime=rule.leaf_ttl,
            mark=mark,
        )
    except PkiError as exc:
        raise PkiError(f"generating marble authentication secrets: {exc}") from exc


def _template_data(
    identity: Identity, leaf: Encoded, secrets: Mapping[str, Secret], previous: Mapping[str, Secret]
) -> TemplateData:
    return TemplateData(
        secrets={name: secret.as_template() for name, secret in secrets.items()},
        previous_secrets={name: secret.as_template() for name, secret in previous.items()},
        root_ca=_only_certificate(identity.marble_root),
        marble_cert=TemplateSecret(cert=leaf.certificate_der, private=leaf.key_der, public=leaf.public_der),
        coordinator_root=_only_certificate(identity.root),
        coordinator_intermediate=_only_certificate(identity.intermediate),
    )


def _fill_in(parameters: rules.Parameters, data: TemplateData) -> tuple[dict[str, bytes], dict[str, bytes]]:
    files: dict[str, bytes] = {}
    env: dict[str, bytes] = {}
    for path, content in parameters.files.items():
        try:
            files[path] = render(content, data, target="file")
        except TemplateError as exc:
            raise TemplateError(f'parsing secrets for file "{path}": {exc}') from exc
    for name, content in parameters.env.items():
        try:
            env[name] = render(content, data, target="env")
        except TemplateError as exc:
            raise TemplateError(f'parsing secrets for env variable "{name}": {exc}') from exc
    return files, env


def _models(
    manifest: Manifest, rule: rules.Marble, secrets: Mapping[str, Secret]
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What a server of this type may load, as a variable, and the keys that open it, as files in memory."""
    if not rule.models:
        return {}, {}
    described: dict[str, ModelRule] = {}
    keys: dict[str, bytes] = {}
    for name in rule.models:
        model = manifest.models[name]
        described[name] = ModelRule(model.format, (model.model_id or b"").hex(), model.min_version, model.key)
        if model.key:
            keys[KEY_FOLDER + name] = _model_key(name, model.key, secrets[model.key].private)
    return {MODELS_ENV: msgspec.json.encode(described)}, keys


def _clients(manifest: Manifest) -> dict[str, bytes]:
    """Who may call a server and who may manage it. Every type gets all of it: one without it would serve everybody."""
    if not manifest.clients:
        return {}
    described = {
        name: ClientRule(
            hashlib.sha256(client.certificate).hexdigest() if client.certificate else "",
            (client.token_hash or b"").hex(),
            list(client.models),
            client.management,
        )
        for name, client in manifest.clients.items()
    }
    return {CLIENTS_ENV: msgspec.json.encode(described)}


def _model_key(model: str, name: str, value: bytes) -> bytes:
    if not value:
        raise TemplateError(
            f'model "{model}": its key, secret "{name}", was not set yet; its owner sets it with `tacit secret set`'
        )
    key = value
    if len(key) != MODEL_KEY_SIZE:
        try:
            key = base64.b64decode(value.strip(), validate=True)
        except (binascii.Error, ValueError):
            key = b""
    if len(key) != MODEL_KEY_SIZE:
        raise TemplateError(f'model "{model}": secret "{name}" is neither {MODEL_KEY_SIZE} bytes nor base64 of as many')
    return key


def _reserved(identity: Identity, leaf: Encoded) -> dict[str, bytes]:
    """What every marble gets, whatever the manifest says under these names."""
    return {
        "MARBLE_PREDEFINED_ROOT_CA": identity.marble_root.certificate_pem,
        "MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN": leaf.certificate_pem + identity.intermediate.certificate_pem,
        "MARBLE_PREDEFINED_PRIVATE_KEY": leaf.key_pem,
        "MARBLE_PREDEFINED_COORDINATOR_ROOT_CA": identity.root.certificate_pem,
    }


def _only_certificate(pair: KeyPair) -> TemplateSecret:
    return TemplateSecret(cert=pair.certificate_der)
