"""The table of everything that a manifest may say, and how it becomes a `Manifest`.

`AllowedNames`, `LeafTTL`, `ReadLog`, `Models`, `Clients` and, in a package, `TEE` and what follows it are ours; a coordinator of
MarbleRun ignores them.
"""

from typing import Any

from tacit.errors import PkiError
from tacit.manifest.codec.certificate import CERTIFICATE, CERTIFICATE_BEFORE, build_certificate
from tacit.manifest.codec.content import Blob, ContentKind, Digest, Duration, Hex, read_certificate
from tacit.manifest.codec.decode import Alone, Flag, Kind, ListOf, MapOf, Place, Report, Struct, Text, Unused, Whole
from tacit.manifest.codec.text import Node, Shape
from tacit.manifest.material import parse_user_certificate
from tacit.manifest.model import (
    ClientRule,
    Config,
    Infrastructure,
    Manifest,
    Marble,
    ModelRule,
    Package,
    Parameters,
    RoleRule,
    SecretRule,
    TlsIncoming,
    TlsOutgoing,
    TlsRule,
    User,
)

_UINT16 = Whole("uint16", 2**16 - 1, optional=True)
_UINT = Whole("uint", 2**64 - 1)
_TEXTS = ListOf(Text())

PACKAGE = Struct(
    "quote.PackageProperties",
    {
        "Debug": Flag(),
        "UniqueID": Digest(),
        "SignerID": Digest(),
        "ProductID": Whole("uint64", 2**64 - 1, optional=True),
        "SecurityVersion": Whole("uint", 2**64 - 1, optional=True),
        "AcceptedTCBStatuses": _TEXTS,
        "AcceptedAdvisories": _TEXTS,
        "TEE": Text(),
        "Measurements": MapOf(Hex()),
        "AcceptedWeaknesses": _TEXTS,
        "TCBGraceDays": Whole("uint", 3650, optional=True),
        "MinimumTCBEvaluation": Whole("uint", 2**32 - 1, optional=True),
        "MinimumTCB": MapOf(Whole("uint", 255)),
        "AllowedHardwareIDs": ListOf(Hex()),
        "RefusedHardwareIDs": ListOf(Hex()),
        "RefusedProductLines": _TEXTS,
    },
)
_INFRASTRUCTURE = Struct(
    "quote.InfrastructureProperties",
    {"CPUSVN": Blob(), "QESVN": _UINT16, "PCESVN": _UINT16, "RootCA": Blob()},
)
_PARAMETERS = Struct(
    "manifest.Parameters", {"Files": MapOf(ContentKind()), "Env": MapOf(ContentKind()), "Argv": _TEXTS}
)
_MARBLE = Struct(
    "manifest.Marble",
    {
        "Package": Text(),
        "MaxActivations": _UINT,
        "Parameters": _PARAMETERS,
        "TLS": _TEXTS,
        "DisableSecretBinding": Flag(),
        "AllowedNames": _TEXTS,
        "LeafTTL": Duration(),
        "Models": _TEXTS,
    },
)
_WHOLE = "a certificate that is given whole is ignored; say how it is to look, as an object"
_NO_VALUE = "a secret's value has no place in a manifest and is ignored; upload it once the manifest is set"


class _Certificate(Alone):
    """How a certificate is to look. One that is given whole has to be one, as for Go."""

    __slots__ = ()

    def decode(self, node: Node, place: Place, current: Any, report: Report) -> Any:
        """The template."""
        if node.shape is Shape.STRING:
            read_certificate(node, place, report)
        return Alone.decode(self, node, place, current, report)


class _Value(Unused):
    """Bytes that are read, as Go reads them, and not used."""

    __slots__ = ()

    def decode(self, node: Node, place: Place, current: Any, report: Report) -> None:
        """Nothing."""
        if node.shape is not Shape.NULL:
            Blob(self.go_type).decode(node, place, b"", report)
            report.tolerate(place, node.offset, self.why)


_SECRET = Struct(
    "manifest.Secret",
    {
        "Type": Text(),
        "Size": _UINT,
        "Shared": Flag(),
        "UserDefined": Flag(),
        "ValidFor": _UINT,
        "Cert": _Certificate(CERTIFICATE, _WHOLE),
        "Private": _Value(_NO_VALUE, "manifest.PrivateKey"),
        "Public": _Value(_NO_VALUE, "manifest.PublicKey"),
    },
)
_TLS_ENTRY = Struct(
    "manifest.TLSTagEntry", {"Addr": Text(), "Port": Text(), "Cert": Text(), "DisableClientAuth": Flag()}
)
MANIFEST = Struct(
    "manifest.Manifest",
    {
        "Packages": MapOf(PACKAGE),
        "Infrastructures": MapOf(_INFRASTRUCTURE),
        "Marbles": MapOf(_MARBLE),
        "Secrets": MapOf(_SECRET),
        "Users": MapOf(Struct("manifest.User", {"Certificate": Text(), "Roles": _TEXTS, "ReadLog": Flag()})),
        "Roles": MapOf(Struct("manifest.Role", {"ResourceType": Text(), "ResourceNames": _TEXTS, "Actions": _TEXTS})),
        "TLS": MapOf(Struct("manifest.TLStag", {"Outgoing": ListOf(_TLS_ENTRY), "Incoming": ListOf(_TLS_ENTRY)})),
        "RecoveryKeys": MapOf(Text()),
        "Models": MapOf(
            Struct("manifest.Model", {"Format": Text(), "ID": Digest(), "MinVersion": _UINT, "Key": Text()})
        ),
        "Clients": MapOf(
            Struct(
                "manifest.Client",
                {"Certificate": Text(), "TokenHash": Digest(), "Models": _TEXTS, "Management": Flag()},
            )
        ),
        "Config": Struct(
            "manifest.Config",
            {
                "SealMode": Text(),
                "FeatureGates": _TEXTS,
                "UpdateThreshold": _UINT,
                "RecoveryThreshold": _UINT,
                "RotateRootSecret": Flag(),
            },
        ),
    },
)

_UNREAD: dict[str, Kind] = {
    "Cert": Alone(CERTIFICATE_BEFORE, _WHOLE),
    **dict.fromkeys(("Private", "Public"), Unused(_NO_VALUE)),
}
_SECRET_BEFORE = Struct(_SECRET.go_type, {**_SECRET.fields, **_UNREAD})
MANIFEST_BEFORE = Struct(MANIFEST.go_type, {**MANIFEST.fields, "Secrets": MapOf(_SECRET_BEFORE)})
"""What coordinators took before more fields of certificates were obeyed, and values read that have no place here."""

Values = dict[str, Any]


def build_manifest(raw: bytes, values: Values) -> Manifest:
    """The manifest of what the walk over `MANIFEST` gave."""
    return Manifest(
        raw=raw,
        packages={name: build_package(entry) for name, entry in values["Packages"].items()},
        infrastructures={name: _infrastructure(entry) for name, entry in values["Infrastructures"].items()},
        marbles={name: _marble(entry) for name, entry in values["Marbles"].items()},
        secrets={name: _secret(entry) for name, entry in values["Secrets"].items()},
        users={name: _user(entry) for name, entry in values["Users"].items()},
        roles={name: _role(entry) for name, entry in values["Roles"].items()},
        tls={name: _tls(entry) for name, entry in values["TLS"].items()},
        recovery_keys=values["RecoveryKeys"],
        models={name: _model(entry) for name, entry in values["Models"].items()},
        clients={name: _client(entry) for name, entry in values["Clients"].items()},
        config=_config(values["Config"]),
    )


def _tuple(entries: list[Any] | None) -> tuple[Any, ...]:
    return tuple(entries or ())


def _tuple_or_none(entries: list[Any] | None) -> tuple[Any, ...] | None:
    return None if entries is None else tuple(entries)


def build_package(entry: Values) -> Package:
    """A package of what the walk over `PACKAGE` gave."""
    return Package(
        debug=entry["Debug"],
        unique_id=entry["UniqueID"],
        signer_id=entry["SignerID"],
        product_id=entry["ProductID"],
        security_version=entry["SecurityVersion"],
        accepted_tcb_statuses=_tuple_or_none(entry["AcceptedTCBStatuses"]),
        accepted_advisories=_tuple_or_none(entry["AcceptedAdvisories"]),
        tee=entry["TEE"] or None,
        measurements=entry["Measurements"],
        accepted_weaknesses=_tuple(entry["AcceptedWeaknesses"]),
        tcb_grace_days=entry["TCBGraceDays"],
        minimum_tcb_evaluation=entry["MinimumTCBEvaluation"],
        minimum_tcb=entry["MinimumTCB"],
        allowed_hardware_ids=_tuple_or_none(entry["AllowedHardwareIDs"]),
        refused_hardware_ids=_tuple(entry["RefusedHardwareIDs"]),
        refused_product_lines=_tuple(entry["RefusedProductLines"]),
    )


def _infrastructure(entry: Values) -> Infrastructure:
    return Infrastructure(
        cpu_svn=entry["CPUSVN"], qe_svn=entry["QESVN"], pce_svn=entry["PCESVN"], root_ca=entry["RootCA"]
    )


def _marble(entry: Values) -> Marble:
    parameters = entry["Parameters"]
    return Marble(
        package=entry["Package"],
        max_activations=entry["MaxActivations"],
        tls=_tuple(entry["TLS"]),
        disable_secret_binding=entry["DisableSecretBinding"],
        parameters=Parameters(parameters["Files"], parameters["Env"], _tuple(parameters["Argv"])),
        allowed_names=_tuple_or_none(entry["AllowedNames"]),
        leaf_ttl=entry["LeafTTL"],
        models=_tuple(entry["Models"]),
    )


def _secret(entry: Values) -> SecretRule:
    return SecretRule(
        type=entry["Type"],
        size=entry["Size"],
        shared=entry["Shared"],
        user_defined=entry["UserDefined"],
        valid_for=entry["ValidFor"],
        certificate=build_certificate(entry["Cert"]),
    )


def _user(entry: Values) -> User:
    try:
        certificate = parse_user_certificate(entry["Certificate"])
    except PkiError:
        certificate = b""  # refused later and by name, in the order that MarbleRun has
    return User(certificate, entry["Certificate"], _tuple(entry["Roles"]), entry["ReadLog"])


def _role(entry: Values) -> RoleRule:
    return RoleRule(entry["ResourceType"], _tuple(entry["ResourceNames"]), _tuple(entry["Actions"]))


def _tls(entry: Values) -> TlsRule:
    outgoing = tuple(TlsOutgoing(one["Addr"], one["Port"]) for one in entry["Outgoing"] or ())
    incoming = tuple(TlsIncoming(one["Port"], one["Cert"], one["DisableClientAuth"]) for one in entry["Incoming"] or ())
    return TlsRule(outgoing, incoming)


def _model(entry: Values) -> ModelRule:
    return ModelRule(entry["Format"], entry["ID"], entry["MinVersion"], entry["Key"])


def _client(entry: Values) -> ClientRule:
    try:
        certificate = parse_user_certificate(entry["Certificate"]) if entry["Certificate"] else b""
    except PkiError:
        certificate = b""  # refused later and by name
    return ClientRule(
        certificate, entry["Certificate"], entry["TokenHash"], _tuple(entry["Models"]), entry["Management"]
    )


def _config(entry: Values) -> Config:
    return Config(
        seal_mode=entry["SealMode"],
        feature_gates=_tuple(entry["FeatureGates"]),
        update_threshold=entry["UpdateThreshold"],
        recovery_threshold=entry["RecoveryThreshold"],
        rotate_root_secret=entry["RotateRootSecret"],
    )
