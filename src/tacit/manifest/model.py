"""The values of a manifest: what is allowed, by name.

The fields are MarbleRun's; ours, absent from its manifests, are `Marble.allowed_names`, `Marble.leaf_ttl`,
`Marble.models`, `User.read_log`, `Manifest.models`, `Manifest.clients`, and of a package `tee` and what follows it.
Digests are bytes; sizes of secrets are bits, validity is days, as on the wire.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tacit.pki.extensions import Extras


@dataclass(frozen=True, slots=True)
class Package:
    """Reference values: which software, on which kind of TEE, is this package.

    `tee` None means SGX, as in MarbleRun's manifests. `unique_id` is MRENCLAVE, `signer_id` MRSIGNER, 32 bytes each;
    `b""` stands for text that was given but is no digest, and is never matched. `accepted_tcb_statuses` None leaves
    MarbleRun's default; `accepted_advisories` None accepts any advisory of an accepted status, `()` none.

    `measurements` are registers by the maker's names; `accepted_weaknesses` what the claims may say against themselves.
    `tcb_grace_days` is how long a platform may be OutOfDate; `minimum_tcb` are lowest versions by component (SNP).
    Hardware ids are PPIDs (16 bytes) or CHIP_IDs (64); `allowed_hardware_ids` None allows any.
    """

    debug: bool = False
    unique_id: bytes | None = None
    signer_id: bytes | None = None
    product_id: int | None = None
    security_version: int | None = None
    accepted_tcb_statuses: tuple[str, ...] | None = None
    accepted_advisories: tuple[str, ...] | None = None
    tee: str | None = None
    measurements: Mapping[str, bytes] = field(default_factory=dict)
    accepted_weaknesses: tuple[str, ...] = ()
    tcb_grace_days: int | None = None
    minimum_tcb_evaluation: int | None = None
    minimum_tcb: Mapping[str, int] = field(default_factory=dict)
    allowed_hardware_ids: tuple[bytes, ...] | None = None
    refused_hardware_ids: tuple[bytes, ...] = ()
    refused_product_lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Infrastructure:
    """Properties of a platform. MarbleRun parses and does not compare them."""

    cpu_svn: bytes = b""
    qe_svn: int | None = None
    pce_svn: int | None = None
    root_ca: bytes = b""


@dataclass(frozen=True, slots=True)
class Content:
    """A file or an environment variable of a marble: decoded text or bytes, with or without templates in it."""

    data: bytes
    templates: bool = True


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a marble gets at activation."""

    files: Mapping[str, Content] = field(default_factory=dict)
    env: Mapping[str, Content] = field(default_factory=dict)
    argv: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Marble:
    """A type of server: its package, how often it may be activated (0: without limit), and what it gets.

    `allowed_names` None leaves the names of the certificate to the request, as MarbleRun does; `()` allows none.
    `leaf_ttl` is how long the certificate of an activation is valid; None is as long as the mesh.
    `models` are the names in `Manifest.models` that this type may load.
    """

    package: str
    max_activations: int = 0
    tls: tuple[str, ...] = ()
    disable_secret_binding: bool = False
    parameters: Parameters = field(default_factory=Parameters)
    allowed_names: tuple[str, ...] | None = None
    leaf_ttl: timedelta | None = None
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CertificateTemplate:
    """How a certificate secret is to look. What is None takes MarbleRun's defaults; `()` is none.

    `subject` are the further attributes by Go's names (`Country`, `Organization`, ...), in the order in which they
    stand in the certificate, before CommonName and SerialNumber. `ip_addresses` are canonical texts. `key_usage` and
    `ext_key_usage` are Go's numbers. `max_path_len` may be 0; None is no limit.
    """

    common_name: str | None = None
    serial_number: str | None = None
    subject: tuple[tuple[str, str], ...] = ()
    dns_names: tuple[str, ...] | None = None
    ip_addresses: tuple[str, ...] | None = None
    email_addresses: tuple[str, ...] = ()
    not_after: datetime | None = None
    key_usage: int | None = None
    ext_key_usage: tuple[int, ...] | None = None
    is_ca: bool = False
    max_path_len: int | None = None
    extras: Extras = field(default_factory=Extras)


@dataclass(frozen=True, slots=True)
class SecretRule:
    """How a secret is made. `type` is one of `SECRET_TYPES`; `size` is bits; `valid_for` is days (0: not given)."""

    type: str
    size: int = 0
    shared: bool = False
    user_defined: bool = False
    valid_for: int = 0
    certificate: CertificateTemplate = field(default_factory=CertificateTemplate)


SECRET_TYPES = ("symmetric-key", "plain", "cert-rsa", "cert-ed25519", "cert-ecdsa")


@dataclass(frozen=True, slots=True)
class User:
    """A person or program that calls the client API, known by one exact certificate (DER).

    An empty `certificate` stands for a `pem` that holds none; no caller ever has it. `read_log` lets the user read the
    coordinator's audit log.
    """

    certificate: bytes
    pem: str
    roles: tuple[str, ...] = ()
    read_log: bool = False


@dataclass(frozen=True, slots=True)
class RoleRule:
    """Permissions: actions on named resources of one type."""

    resource_type: str
    resource_names: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TlsIncoming:
    """A port of a marble that MarbleRun's transparent TLS covers."""

    port: str
    certificate: str = ""
    disable_client_auth: bool = False


@dataclass(frozen=True, slots=True)
class TlsOutgoing:
    """An address that a marble reaches through MarbleRun's transparent TLS."""

    addr: str
    port: str


@dataclass(frozen=True, slots=True)
class TlsRule:
    """A tag of transparent TLS."""

    outgoing: tuple[TlsOutgoing, ...] = ()
    incoming: tuple[TlsIncoming, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelRule:
    """What an attested server may load under this name.

    `model_id` is the capsule's id (32 bytes), `min_version` the lowest version number, `key` the secret that opens it,
    `format` one of `capsule`, `ctr`, `plain`.
    """

    format: str
    model_id: bytes | None = None
    min_version: int = 0
    key: str = ""


@dataclass(frozen=True, slots=True)
class ClientRule:
    """Who may call model servers, known by one exact certificate (DER), by a bearer token's SHA-256, or by both.

    An empty `certificate` stands for a `pem` that holds none, or for no `pem`. Where a client names models, those who
    name a model are the only ones that may call it. `management` lets it exchange models while a server runs.
    """

    certificate: bytes = b""
    pem: str = ""
    token_hash: bytes | None = None
    models: tuple[str, ...] = ()
    management: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of the coordinator itself."""

    seal_mode: str = ""
    feature_gates: tuple[str, ...] = ()
    update_threshold: int = 0
    recovery_threshold: int = 0
    rotate_root_secret: bool = False


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is allowed. `raw` is the text as uploaded; its SHA-256 is the fingerprint that clients pin."""

    raw: bytes
    packages: Mapping[str, Package] = field(default_factory=dict)
    infrastructures: Mapping[str, Infrastructure] = field(default_factory=dict)
    marbles: Mapping[str, Marble] = field(default_factory=dict)
    secrets: Mapping[str, SecretRule] = field(default_factory=dict)
    users: Mapping[str, User] = field(default_factory=dict)
    roles: Mapping[str, RoleRule] = field(default_factory=dict)
    tls: Mapping[str, TlsRule] = field(default_factory=dict)
    recovery_keys: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, ModelRule] = field(default_factory=dict)
    clients: Mapping[str, ClientRule] = field(default_factory=dict)
    config: Config = field(default_factory=Config)
