"""How secrets come to be: made at random, derived for one marble, or given by their owners.

Sizes of rules are bits. A symmetric key and a plain secret have the same bytes as `private` and `public`; a certificate
secret has PKCS#8 and PKIX DER there, and `certificate` in DER.

Source: derivation and words of refusal as recorded from MarbleRun v1.9.1.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tacit.errors import ManifestError, PkiError, SecretError
from tacit.manifest import Manifest
from tacit.manifest.material import MAX_DERIVED_SIZE
from tacit.manifest.model import SecretRule
from tacit.manifest.template import TemplateSecret
from tacit.pki import CertificateRequest, KeyPair, issue_secret_certificate
from tacit.pki.certificate import check_extensions
from tacit.pki.extensions import Extras
from tacit.pki.keys import public_key_of

DEFAULT_VALIDITY = 365  # days, where the manifest says nothing
ROOT_SECRET_SIZE = 32  # bytes
MAX_PLACEHOLDER = 64 << 10  # bytes

Random = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret as it is held. Values are empty while nobody has set them. `size` is bits, `valid_for` days."""

    type: str
    size: int
    shared: bool
    user_defined: bool
    valid_for: int
    certificate: bytes = b""
    private: bytes = field(default=b"", repr=False)
    public: bytes = field(default=b"", repr=False)

    def as_template(self) -> TemplateSecret:
        """The same for a template."""
        return TemplateSecret(
            type=self.type,
            size=self.size,
            shared=self.shared,
            user_defined=self.user_defined,
            valid_for=self.valid_for,
            cert=self.certificate,
            private=self.private,
            public=self.public,
        )


@dataclass(frozen=True, slots=True)
class NewValue:
    """What an owner gives: a key, or a certificate (DER) with its private key (PKCS#8 DER)."""

    key: bytes = field(default=b"", repr=False)
    certificate: bytes = b""
    private: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Marble:
    """For whom secrets are derived: the type and the canonical UUID."""

    type: str
    uuid: str
    disable_binding: bool = False


def unset_secret(rule: SecretRule) -> Secret:
    """A secret that waits for its owner."""
    return Secret(rule.type, rule.size, rule.shared, rule.user_defined, rule.valid_for)


def generate_shared(manifest: Manifest, *, issuer: KeyPair, now: datetime, random: Random) -> dict[str, Secret]:
    """All secrets that are held from the start: shared ones made, user-defined ones still empty. Raises: ManifestError."""
    held: dict[str, Secret] = {}
    for name, rule in manifest.secrets.items():
        if rule.user_defined:
            held[name] = unset_secret(rule)
        elif rule.shared:
            held[name] = generate_one(name, rule, issuer=issuer, now=now, random=random)
    return held


def generate_one(name: str, rule: SecretRule, *, issuer: KeyPair, now: datetime, random: Random) -> Secret:
    """A new value for a secret that all marbles share. Raises: ManifestError."""
    if rule.type == "symmetric-key":
        key = random(rule.size // 8)
        return replace(unset_secret(rule), private=key, public=key)
    try:
        return _certificate(name, rule, issuer=issuer, now=now)
    except PkiError as exc:
        raise ManifestError(f"generating secrets from manifest: {exc}") from exc


def renew_certificate(
    name: str, rule: SecretRule, secret: Secret, *, not_after: datetime, issuer: KeyPair, now: datetime
) -> Secret:
    """A new key and certificate with the end of validity that the old one had. Raises: PkiError."""
    same_end = replace(rule, valid_for=0, certificate=replace(rule.certificate, not_after=not_after))
    return replace(_certificate(name, same_end, issuer=issuer, now=now), valid_for=secret.valid_for)


def as_taken(name: str, rule: SecretRule) -> SecretRule:
    """The rule of a manifest that was taken before: what cannot be written was read over then, and goes on so."""
    try:
        check_extensions(_request(name, rule))
    except PkiError:
        template = rule.certificate
        length = template.max_path_len if template.is_ca else None
        return replace(rule, certificate=replace(template, extras=Extras(), max_path_len=length))
    return rule


def derive_for_marble(
    manifest: Manifest,
    marble: Marble,
    *,
    root_secret: bytes,
    issuer: KeyPair,
    now: datetime,
    names: Iterable[str],
) -> dict[str, Secret]:
    """Those of the named secrets that are this marble's own, whatever else the manifest has.

    Keys come out the same at every activation, certificates are new each time.
    """
    own: dict[str, Secret] = {}
    for name in names:
        rule = manifest.secrets[name]
        if rule.shared or rule.user_defined:
            continue
        if rule.type == "symmetric-key":
            key = derive_symmetric(root_secret, name, marble, size=rule.size)
            own[name] = replace(unset_secret(rule), private=key, public=key)
        else:
            own[name] = _certificate(name, rule, issuer=issuer, now=now)
    return own


def check_own_rules(manifest: Manifest, *, issuer: KeyPair, now: datetime) -> None:
    """Refuse rules that no marble could ever get its own secret by, before any marble asks.

    Certificates are tried with a small key in place of the one that the rule names.

    Raises:
        ManifestError: a field that no certificate can hold, or a key longer than can be derived.
    """
    for name, rule in sorted(manifest.secrets.items()):
        if rule.shared or rule.user_defined:
            continue
        try:
            if rule.type == "symmetric-key":
                derive_symmetric(bytes(ROOT_SECRET_SIZE), name, Marble("", ""), size=rule.size)
            else:
                _certificate(name, replace(rule, type="cert-ecdsa", size=256), issuer=issuer, now=now)
        except (PkiError, SecretError) as exc:
            raise ManifestError(f"generating placeholder secrets from manifest: {exc}") from exc


def derive_symmetric(root_secret: bytes, name: str, marble: Marble, *, size: int) -> bytes:
    """`size` bits from the root secret, for one marble.

    The salt is the UUID and the name without a separator, as MarbleRun has it: a canonical UUID always has 36
    characters, so no two pairs give one salt. The type is the info; binding switched off leaves it empty.

    Raises:
        SecretError: more than HKDF can give.
    """
    if size > MAX_DERIVED_SIZE:
        raise SecretError(f"secret {name} has {size} bits; at most {MAX_DERIVED_SIZE} are derived for one marble")
    info = b"" if marble.disable_binding else marble.type.encode()
    salt = (marble.uuid + name).encode()
    return HKDF(SHA256(), size // 8, salt, info).derive(root_secret)


def placeholders(
    manifest: Manifest,
    held: Mapping[str, Secret],
    *,
    issuer: KeyPair,
    random: Random,
    written: Collection[str] = (),
) -> dict[str, Secret]:
    """The secrets of a rehearsal: what is held, and for the rest values of the right shape that nobody ever gets.

    Names just `written` stand as they are, so that a value that their owner empties is seen before it is stored.
    """
    filled = dict(held)
    for name, rule in manifest.secrets.items():
        secret = filled.get(name) or unset_secret(rule)
        if not secret.private and name not in written:
            secret = _placeholder(rule, secret, issuer=issuer, random=random)
        filled[name] = secret
    return filled


def parse_new_values(
    manifest: Manifest, held: Mapping[str, Secret], values: Mapping[str, NewValue]
) -> dict[str, Secret]:
    """What owners give, as secrets of the manifest's rules.

    Raises:
        SecretError: the first that does not fit, in MarbleRun's words.
    """
    if not values:
        raise SecretError("no new secrets defined")
    return {name: _parse_new(name, manifest, held, value) for name, value in sorted(values.items())}


def _parse_new(name: str, manifest: Manifest, held: Mapping[str, Secret], value: NewValue) -> Secret:
    rule = manifest.secrets.get(name)
    if rule is None:
        raise SecretError("secret manifest specifies a secret which the original manifest does not contain")
    if not rule.user_defined:
        raise SecretError(f"secret {name} is not writeable")
    before = held.get(name) or unset_secret(rule)
    if rule.type in ("symmetric-key", "plain"):
        _check_key(name, rule, value.key)
        if value.certificate or value.private:
            raise SecretError(
                f"secret {name} is set to be of type symmetric-key but specified values for a certificate"
            )
        return replace(before, private=value.key, public=value.key)
    if value.key:
        raise SecretError(f"secret {name} is set to be of type {rule.type} but specified values for a symmetric-key")
    if not value.certificate or not value.private:
        missing = "Cert" if not value.certificate else "Private"
        raise SecretError(f"secret {name} needs both Cert and Private; {missing} is missing")
    return replace(before, certificate=value.certificate, private=value.private, public=_public_of(value.certificate))


def _check_key(name: str, rule: SecretRule, key: bytes) -> None:
    if rule.type == "symmetric-key":
        if rule.size == 0 or rule.size % 8:
            raise SecretError(f"invalid secret size: {name}")
        if len(key) != rule.size // 8:
            raise SecretError(f"declared size and actual size don't match: {name}")


def _public_of(certificate: bytes) -> bytes:
    key = public_key_of(x509.load_der_x509_certificate(certificate))
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _certificate(name: str, rule: SecretRule, *, issuer: KeyPair, now: datetime) -> Secret:
    pair = issue_secret_certificate(_request(name, rule), issuer=issuer, now=now)
    defaulted = not rule.valid_for and rule.certificate.not_after is None
    return replace(
        unset_secret(rule),
        valid_for=DEFAULT_VALIDITY if defaulted else rule.valid_for,
        certificate=pair.certificate_der,
        private=pair.key_der,
        public=pair.public_der,
    )


def _request(name: str, rule: SecretRule) -> CertificateRequest:
    template = rule.certificate
    return CertificateRequest(
        name=name,
        type=rule.type,
        size=rule.size,
        valid_for=rule.valid_for,
        common_name=template.common_name,
        serial_number=template.serial_number,
        subject=template.subject,
        dns_names=template.dns_names,
        ip_addresses=template.ip_addresses,
        email_addresses=template.email_addresses,
        not_after=template.not_after,
        key_usage=template.key_usage,
        ext_key_usage=template.ext_key_usage,
        is_ca=template.is_ca,
        max_path_len=template.max_path_len,
        extras=template.extras,
    )


def _placeholder(rule: SecretRule, secret: Secret, *, issuer: KeyPair, random: Random) -> Secret:
    if rule.type == "plain":
        # Printable: `string` refuses NUL, and a rehearsal must not fail by chance.
        value = b"placeholder"
        return replace(secret, private=value, public=value)
    if rule.type == "symmetric-key":
        # Of the size that the manifest says, but no more: its owner may never send that much.
        # Without NUL, as above.
        value = random(min(max(rule.size // 8, 1), MAX_PLACEHOLDER)).replace(b"\0", b"\1")
        return replace(secret, private=value, public=value)
    certificate = issuer.certificate_der
    return replace(secret, certificate=certificate, private=random(64), public=_public_of(certificate))
