"""Each check of a manifest, in MarbleRun's words where it has the check."""

from datetime import UTC, datetime
from typing import Any

import pytest

from fakes.manifests import SIGNER_ID, UNIQUE_ID, minimal, raw
from tacit.errors import ManifestError
from tacit.manifest import check_manifest, parse_manifest
from tacit.manifest.check import find_defects
from tacit.pki import issue_root

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
SYMMETRIC = {"Type": "symmetric-key", "Size": 256, "Shared": True}
NOW = datetime(2026, 1, 1, tzinfo=UTC)
USER_PLAIN = {"Type": "plain", "UserDefined": True}


def check(environ: dict[str, str] | None = None, **sections: Any) -> tuple[str, ...]:
    return check_manifest(parse_manifest(raw(minimal(**sections))).manifest, environ=environ or {})


def refusal(**sections: Any) -> str:
    """The first defect; the others can be had too, whatever the first one is."""
    with pytest.raises(ManifestError) as caught:
        check(**sections)
    defects = list(find_defects(parse_manifest(raw(minimal(**sections))).manifest))
    assert defects[0] == str(caught.value)
    return defects[0]


def package(**fields: Any) -> dict[str, Any]:
    return {"Packages": {"server": fields}}


def role(kind: str, names: list[str], *actions: str, **secrets: Any) -> dict[str, Any]:
    return {
        "Roles": {"r": {"ResourceType": kind, "ResourceNames": names, "Actions": list(actions)}},
        "Secrets": secrets,
    }


def tls(**tag: Any) -> dict[str, Any]:
    return {"TLS": {"t": tag}}


def marble(**fields: Any) -> dict[str, Any]:
    return {"Marbles": {"m": {"Package": "server"} | fields}}


def model(secret: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {"Models": {"digits": fields}, "Secrets": {"k": secret} if secret else {}}


def test_a_minimal_manifest_passes_without_warnings() -> None:
    assert check() == ()


REFUSALS = [
    ({"Packages": {}}, "no allowed packages defined"),
    ({"Marbles": {}}, "no allowed marbles defined"),
    (marble(Package="nope"), "manifest does not contain marble package nope"),
    (
        package(UniqueID=UNIQUE_ID, ProductID=0),
        "manifest specifies both UniqueID *and* SignerID/ProductID/SecurityVersion in package server",
    ),
    (package(ProductID=1, SecurityVersion=1), "manifest misses value for SignerID in package server"),
    (package(SignerID=SIGNER_ID, SecurityVersion=1), "manifest misses value for ProductID in package server"),
    (package(SignerID=SIGNER_ID, ProductID=1), "manifest misses value for SecurityVersion in package server"),
    (package(TEE="simulated"), "manifest misses value for SignerID in package server"),
    (marble(TLS=["x"]), "manifest misses TLS entry for x"),
    (tls(Incoming=[{}]), "manifest misses Port in TLS.Incoming.t"),
    (
        tls(Incoming=[{"Port": "1", "Cert": "c", "DisableClientAuth": True}]),
        "TLS.Incoming.t references undefined secret c",
    ),
    (
        tls(Incoming=[{"Port": "1", "Cert": "c"}]) | {"Secrets": {"c": {"Type": "cert-ed25519"}}},
        "TLS.Incoming.t defines Cert but does not disable client authentication",
    ),
    (tls(Incoming=[{"Port": "1", "DisableClientAuth": True}]), "TLS.Incoming.t disables client authentication"),
    (tls(Outgoing=[{"Port": "1"}]), "manifest misses Addr in TLS.Outgoing.t"),
    (tls(Outgoing=[{"Addr": "a"}]), "manifest misses Port in TLS.Outgoing.t"),
    ({"Users": {"u": {}}}, "manifest does not contain a certificate for user u"),
    (
        {"Users": {"u": {"Certificate": CERTIFICATE, "Roles": ["r"]}}},
        "manifest specifies role r for user u, but role does not exist",
    ),
    (
        {"Users": {"u": {"Certificate": CERTIFICATE}, "v": {"Certificate": CERTIFICATE}}},
        "manifest contains the same certificate for users v and u",
    ),
    (role("Packages", ["x"]), "role r: resource x of type Packages is not defined in manifest"),
    (role("Secrets", ["x"], "ReadSecret"), "role r: resource x of type Secrets is not defined in manifest"),
    (role("Packages", ["server"], "ReadSecret"), "unknown action: ReadSecret for type Packages in role: r"),
    (role("Secrets", ["x"], "Fly"), "unknown action: Fly for type Secrets in role: r"),
    (role("Manifest", [], "x"), "unknown action: x for type Manifest in role: r"),
    (role("Manifest", ["x"], "UpdateManifest"), "role r: resource names are not allowed for type Manifest"),
    (role("Marbles", ["a", "b"], "x"), "unrecognized resource type: {Marbles [a b] [x]} for role: r"),
    (
        role("Secrets", ["s"], "WriteSecret", s=SYMMETRIC),
        "manifest specifies write permission for role r and secret s, but secret is not user-defined",
    ),
    (
        role("Secrets", ["s"], "ReadSecret", s={"Type": "symmetric-key", "Size": 128}),
        "manifest specifies read permission for role r and per-marble-unique secret s",
    ),
    (
        {"Secrets": {"s": {"Type": "cert-rsa", "ValidFor": 1, "Cert": {"NotAfter": "2031-01-02T03:04:05Z"}}}},
        "ambiguous certificate validity duration for secret: s, both NotAfter and ValidFor are specified",
    ),
    (
        {"Secrets": {"s": {"Type": "weird", "ValidFor": 1, "Cert": {"NotAfter": "2031-01-02T03:04:05Z"}}}},
        "unknown type: weird for secret: s",
    ),
    ({"Secrets": {"s": {"Type": "weird"}}}, "unknown type: weird for secret: s"),
    (
        {"Config": {"UpdateThreshold": 1}},
        "not enough users with manifest update permissions (0) to meet the threshold of 1",
    ),
    ({"Config": {"SealMode": "productkey"}}, "unknown seal mode: productkey"),
    ({"Config": {"FeatureGates": ["Foo"]}}, "unknown feature gate: Foo"),
    (
        {"Config": {"RecoveryThreshold": 2}},
        "not enough recovery keys (0) defined to meet the recovery threshold of 2",
    ),
    (
        {"Config": {"RecoveryThreshold": 1}},
        "not enough recovery keys (0) defined to meet the recovery threshold of 1",
    ),
    (
        {"Config": {"RecoveryThreshold": 1}, "RecoveryKeys": {"r": "x"}},
        "invalid recovery threshold: if set, threshold must be at least 2",
    ),
]


@pytest.mark.parametrize(("sections", "words"), REFUSALS, ids=[words for _, words in REFUSALS])
def test_refusals_have_the_recorded_words(sections: dict[str, Any], words: str) -> None:
    assert refusal(**sections) == words


SHARED, OWN_KEY = SYMMETRIC | {"Shared": True}, SYMMETRIC


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (role("Packages", ["x"], "Fly"), "role r: resource x of type Packages is not defined in manifest"),
        (role("Secrets", ["x"], "Fly"), "unknown action: Fly for type Secrets in role: r"),
        (role("Secrets", ["x"], "WriteSecret"), "role r: resource x of type Secrets is not defined in manifest"),
        (
            role("Secrets", ["a"], "ReadSecret", "WriteSecret", a=OWN_KEY),
            "manifest specifies write permission for role r and secret a, but secret is not user-defined",
        ),
        (
            role("Secrets", ["a"], "WriteSecret", "ReadSecret", a=SHARED),
            "manifest specifies write permission for role r and secret a, but secret is not user-defined",
        ),
        (role("Manifest", ["x"], "Fly"), "role r: resource names are not allowed for type Manifest"),
        (role("Other", ["x"], "Fly"), "unrecognized resource type: {Other [x] [Fly]} for role: r"),
    ],
)
def test_of_a_roles_defects_the_first_is_the_one_that_marblerun_finds_first(
    sections: dict[str, Any], words: str
) -> None:
    assert refusal(**sections) == words


MRTD, MEASUREMENT = {"MRTD": "11" * 48}, {"MEASUREMENT": "11" * 48}
GOOD = issue_root([], now=NOW).certificate_pem.decode()
HASH = "ab" * 32


def client(**fields: Any) -> dict[str, Any]:
    return model(Format="plain") | {"Clients": {"ann": fields}}


OURS = [
    (client(Models=["digits"]), "Clients.ann"),
    (client(Certificate="no PEM", Models=["digits"]), "Clients.ann.Certificate"),
    (client(TokenHash="a token", Models=["digits"]), "Clients.ann.TokenHash"),
    (client(TokenHash="00ff", Models=["digits"]), "Clients.ann.TokenHash"),
    (client(TokenHash=HASH, Management=True), "Clients.ann.Management"),
    (client(TokenHash=HASH, Models=["letters"]), "Clients.ann.Models"),
    (client(TokenHash=HASH), "Clients.ann"),
    (package(UniqueID=UNIQUE_ID, TEE="sev"), "Packages.server.TEE"),
    (package(UniqueID=UNIQUE_ID, Measurements={"MRTD": "11" * 48}), "Packages.server.Measurements"),
    (package(UniqueID=UNIQUE_ID, Measurements={"MRENCLAVE": "11" * 31}), "Packages.server.Measurements.MRENCLAVE"),
    (package(UniqueID=UNIQUE_ID, AcceptedWeaknesses=["sept-ve-off"]), "Packages.server.AcceptedWeaknesses"),
    (package(UniqueID=UNIQUE_ID, MinimumTCB={"snp": 3}), "Packages.server.MinimumTCB"),
    (package(UniqueID=UNIQUE_ID, RefusedHardwareIDs=["11" * 15]), "Packages.server"),
    (package(TEE="tdx", Measurements=MRTD, AcceptedWeaknesses=["sept_ve_off"]), "Packages.server.AcceptedWeaknesses"),
    (package(TEE="tdx", Measurements=MRTD, UniqueID=UNIQUE_ID), "Packages.server"),
    (package(TEE="snp", Measurements=MEASUREMENT, MinimumTCB={"bios": 3}), "Packages.server.MinimumTCB"),
    (package(TEE="snp", Measurements=MEASUREMENT, TCBGraceDays=3), "Packages.server.TCBGraceDays"),
    (package(TEE="snp", Measurements=MEASUREMENT, MinimumTCBEvaluation=3), "Packages.server.MinimumTCBEvaluation"),
    (package(TEE="snp", Measurements=MEASUREMENT, AllowedHardwareIDs=["11" * 16]), "Packages.server"),
    (marble(Models=["x"]), "Marbles.m.Models"),
    (marble(AllowedNames=["no name"]), "Marbles.m.AllowedNames"),
    (marble(AllowedNames=[""]), "Marbles.m.AllowedNames"),
    (marble(LeafTTL="0s"), "Marbles.m.LeafTTL"),
    (marble(LeafTTL="59s"), "Marbles.m.LeafTTL"),
    (marble(AllowedNames=["a.*.b"]), "Marbles.m.AllowedNames"),
    (marble(Parameters={"Env": {"A=B": ""}}), "Marbles.m.Parameters.Env"),
    (marble(Parameters={"Files": {"": ""}}), "Marbles.m.Parameters.Files"),
    (model(Format="pickle"), "Models.digits.Format"),
    (model(SYMMETRIC, Format="capsule", Key="k", ID="no digest"), "Models.digits.ID"),
    (model(SYMMETRIC, Format="capsule", Key="k", ID="00ff"), "Models.digits.ID"),
    (model(Format="capsule"), "Models.digits.Key"),
    (model(Format="ctr", Key="nope"), "Models.digits.Key"),
    (model(SYMMETRIC | {"Size": 128}, Format="capsule", Key="k"), "Models.digits.Key"),
    (model({"Type": "symmetric-key", "Size": 256}, Format="capsule", Key="k"), "Models.digits.Key"),
    (model({"Type": "cert-ed25519"}, Format="capsule", Key="k"), "Models.digits.Key"),
    (model(SYMMETRIC, Format="plain", Key="k"), "Models.digits.Key"),
]


@pytest.mark.parametrize(("sections", "path"), OURS)
def test_our_extensions_are_checked_and_the_path_is_named(sections: dict[str, Any], path: str) -> None:
    assert refusal(**sections).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "sections",
    [
        {"Secrets": {"s": {**SYMMETRIC, "ValidFor": 1, "Cert": {"NotAfter": "2031-01-02T03:04:05Z"}}}},
        {"Secrets": {"s": {"Type": "cert-rsa", "ValidFor": 1, "Cert": {"NotAfter": "0001-01-01T00:00:00Z"}}}},
        model(SYMMETRIC, Format="capsule", Key="k", ID="ab" * 32),
        model({"Type": "symmetric-key", "Size": 256, "UserDefined": True}, Format="capsule", Key="k", ID="ab" * 32),
        model(USER_PLAIN, Format="capsule", Key="k", ID="ab" * 32),
        marble(AllowedNames=["a.example", "*.b.example", "10.0.0.1", "::1", "localhost"]),
        role("Secrets", ["s"], "readsecret", "WRITESECRET", s=USER_PLAIN),
        model(SYMMETRIC, Format="capsule", Key="k", ID="ab" * 32)
        | {"Clients": {"ann": {"Certificate": GOOD, "TokenHash": HASH, "Models": ["digits"], "Management": True}}},
        package(UniqueID=UNIQUE_ID, TEE="simulated"),
        package(TEE="tdx", Measurements=MRTD, AcceptedWeaknesses=["sept-ve-off"], TCBGraceDays=0),
        package(TEE="simulated-snp", Measurements=MEASUREMENT, MinimumTCB={"snp": 24}, RefusedProductLines=["Milan"]),
        package(SignerID=SIGNER_ID, ProductID=0, SecurityVersion=0, TEE="sgx"),
        {"Config": {"SealMode": "Disabled", "FeatureGates": ["signquoteendpoint", "MonotonicCounter"]}},
    ],
)
def test_what_is_right_passes_without_warnings(sections: dict[str, Any]) -> None:
    assert check(**sections) == ()


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (package(UniqueID=UNIQUE_ID, Debug=True), "Debug is true"),
        (package(Debug=True), "manifest misses value for SignerID in package server"),
        (package(UniqueID=UNIQUE_ID, AcceptedTCBStatuses=["Revoked"]), "Revoked is never accepted"),
        (package(UniqueID="YOUR_ID"), "no enclave can match it"),
        (marble(Parameters={"Env": {"MARBLE_PREDEFINED_ROOT_CA": "x"}}), "reserved"),
        (model(SYMMETRIC, Format="ctr", Key="k"), "altered"),
        (model(Format="plain"), "altered"),
        (model(SYMMETRIC, Format="capsule", Key="k"), "Models.digits.ID"),
    ],
)
def test_what_is_weak_is_warned_of(sections: dict[str, Any], words: str) -> None:
    assert any(words in warning for warning in check(**sections))


@pytest.mark.parametrize(
    ("more", "warned"),
    [
        ({}, 1),
        ({"AcceptedTCBStatuses": ["UpToDate"]}, 1),
        ({"AcceptedTCBStatuses": ["NotRated"]}, 0),
        ({"MinimumTCB": {"snp": 1}}, 0),
    ],
)
def test_a_package_of_snp_that_no_evidence_fits_is_warned_of(more: dict[str, Any], warned: int) -> None:
    server = {"TEE": "snp", "Measurements": {"MEASUREMENT": "ab" * 48}, **more}
    warnings = check(Packages={"server": server})
    assert len([one for one in warnings if "AMD rates no platforms" in one]) == warned


def test_an_unused_debug_package_is_warned_of_once() -> None:
    server = {"UniqueID": UNIQUE_ID}
    warnings = check(Packages={"server": server, "spare": {"Debug": True}})
    assert warnings == ("Packages.spare: Debug is true: the host reads the memory of such an enclave",)


def test_t19_an_unused_package_may_be_incomplete_as_it_is_never_asked() -> None:
    assert check(Packages={"server": {"UniqueID": UNIQUE_ID}, "other": {}}) == ()


def test_a_threshold_counts_users_that_may_update() -> None:
    users = {"u": {"Certificate": CERTIFICATE, "Roles": ["r"]}}
    roles = {"r": {"ResourceType": "Manifest", "Actions": ["updatemanifest"]}}
    assert check(Users=users, Roles=roles, Config={"UpdateThreshold": 1}) == ()
    assert "(1)" in refusal(Users=users, Roles=roles, Config={"UpdateThreshold": 2})


HSM = {"EDG_MAA_URL", "EDG_AZURE_HSM_VAULT_URL", "EDG_AZURE_HSM_KEY_NAME", "EDG_AZURE_CLIENT_ID", "EDG_AZURE_TENANT_ID"}


def test_sealing_with_an_hsm_names_the_variables_that_are_missing() -> None:
    environ = dict.fromkeys(HSM - {"EDG_MAA_URL"}, "x") | {"EDG_AZURE_CLIENT_SECRET": "x"}
    with pytest.raises(ManifestError, match=r"variables are not set: \[EDG_MAA_URL\]$"):
        check(environ, Config={"FeatureGates": ["AzureHSMSealing"]})


def test_sealing_with_an_hsm_is_refused_by_name_when_nothing_is_missing() -> None:
    environ = dict.fromkeys(HSM | {"EDG_AZURE_CLIENT_SECRET"}, "x")
    with pytest.raises(ManifestError, match="take AzureHSMSealing out"):
        check(environ, Config={"FeatureGates": ["azurehsmsealing"]})


def test_of_several_defects_the_first_is_always_the_same_and_all_can_be_had() -> None:
    marbles = {name: {"Package": name} for name in ("c", "a", "b")}
    manifest = parse_manifest(raw(minimal(Marbles=marbles, Config={"SealMode": "x"}))).manifest
    expected = [f"manifest does not contain marble package {name}" for name in "abc"]
    assert list(find_defects(manifest)) == [*expected, "unknown seal mode: x"]
