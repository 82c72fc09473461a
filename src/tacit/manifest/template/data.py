"""What a template can see: secrets, and nothing of the process around it.

Values inside a template are few: text, whole numbers, truth, bytes of a secret, a certificate, records with named
fields, maps, and nothing. A record has exactly the fields listed here; no attribute of any Python object can be
reached from a template.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final


@dataclass(frozen=True, slots=True)
class TemplateSecret:
    """A secret with its values. Keys and plain secrets have the same bytes in `private` and `public`.

    `cert` is DER; of certificate secrets `private` is PKCS#8 DER and `public` is PKIX DER. `size` is bits, `valid_for`
    days. Empty bytes stand for a value that is not there (yet).
    """

    type: str = ""
    size: int = 0
    shared: bool = False
    user_defined: bool = False
    valid_for: int = 0
    cert: bytes = field(default=b"", repr=False)
    private: bytes = field(default=b"", repr=False)
    public: bytes = field(default=b"", repr=False)


NO_SECRET: Final = TemplateSecret()


@dataclass(frozen=True)
class TemplateData:
    """Everything that a template can name; `dot` is the same as templates see it.

    `root_ca` is the marble root (`.MarbleRun.RootCA`), `marble_cert` the marble's own leaf with its key; of the
    coordinator's and the root's certificates only `cert` is filled.
    """

    secrets: Mapping[str, TemplateSecret] = field(default_factory=dict)
    previous_secrets: Mapping[str, TemplateSecret] = field(default_factory=dict)
    root_ca: TemplateSecret = NO_SECRET
    marble_cert: TemplateSecret = NO_SECRET
    coordinator_root: TemplateSecret = NO_SECRET
    coordinator_intermediate: TemplateSecret = NO_SECRET

    @cached_property
    def dot(self) -> "Record":
        """Made once for all the templates of a marble."""
        return _root_record(self)


@dataclass(frozen=True, slots=True)
class Bytes:
    """Bytes of a secret; `label` is what its PEM block is called, empty for those that have none."""

    go_type: str
    label: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Record:
    """Named fields."""

    go_type: str
    fields: Mapping[str, object] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Entries:
    """A map from text; `missing` is what `index` gives for a name that is not there."""

    go_type: str
    values: Mapping[str, object] = field(repr=False)
    missing: object = field(repr=False)


def _root_record(data: TemplateData) -> Record:
    """The dot of a template. Manifests of 2021 write `.Marblerun`, later ones `.MarbleRun`."""
    reserved = Record(
        "manifest.ReservedSecrets",
        {
            "RootCA": _secret(data.root_ca),
            "MarbleCert": _secret(data.marble_cert),
            "CoordinatorRoot": _secret(data.coordinator_root),
            "CoordinatorIntermediate": _secret(data.coordinator_intermediate),
        },
    )
    previous = Record("manifest.PreviousSecrets", {"Secrets": _entries(data.previous_secrets)})
    fields = {"MarbleRun": reserved, "Marblerun": reserved, "Secrets": _entries(data.secrets), "Previous": previous}
    return Record("manifest.TemplateSecrets", fields)


class _Secrets(Mapping[str, object]):
    """Secrets as records, made when they are asked for: a template names few of perhaps thousands."""

    __slots__ = ("_secrets",)

    def __init__(self, secrets: Mapping[str, TemplateSecret]) -> None:
        self._secrets = secrets

    def __getitem__(self, name: str) -> object:
        return _secret(self._secrets[name.encode("latin-1").decode("utf-8", "surrogateescape")])

    def __iter__(self) -> Iterator[str]:
        return map(_latin, self._secrets)

    def __len__(self) -> int:
        return len(self._secrets)


def _entries(secrets: Mapping[str, TemplateSecret]) -> Entries:
    return Entries("map[string]manifest.Secret", _Secrets(secrets), _secret(NO_SECRET))


_FIELDS: Mapping[str, Callable[[TemplateSecret], object]] = {
    "Type": lambda secret: _latin(secret.type),
    "Size": lambda secret: secret.size,
    "Shared": lambda secret: secret.shared,
    "UserDefined": lambda secret: secret.user_defined,
    "ValidFor": lambda secret: secret.valid_for,
    "Cert": lambda secret: Bytes("manifest.Certificate", "CERTIFICATE", secret.cert),
    "Private": lambda secret: Bytes("manifest.PrivateKey", "PRIVATE KEY", secret.private),
    "Public": lambda secret: Bytes("manifest.PublicKey", "PUBLIC KEY", secret.public),
}


class _SecretFields(Mapping[str, object]):
    """The fields of one secret, made when they are asked for: a template seldom wants more than one."""

    __slots__ = ("_secret",)

    def __init__(self, secret: TemplateSecret) -> None:
        self._secret = secret

    def __contains__(self, name: object) -> bool:
        return name in _FIELDS

    def __getitem__(self, name: str) -> object:
        return _FIELDS[name](self._secret)

    def __iter__(self) -> Iterator[str]:
        return iter(_FIELDS)

    def __len__(self) -> int:
        return len(_FIELDS)


def _secret(secret: TemplateSecret) -> Record:
    return Record("manifest.Secret", _SecretFields(secret))


def _latin(text: str) -> str:
    """Text as a template holds it: one character is one byte of its UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")
