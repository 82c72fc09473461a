"""Who gains and who loses what, in words."""

from typing import Any

import pytest

from fakes.manifests import SIGNER_ID, UNIQUE_ID, minimal, raw
from tacit.manifest import parse_manifest
from tacit.manifest.review import Effect, compare_manifests

GAIN, CHANGE, LOSS = Effect
SECRET = {"key": {"Type": "symmetric-key", "Size": 256, "Shared": True}}
RAW = {"Files": {"/k": "{{ raw .Secrets.key }}"}}


def said(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[Effect, str]]:
    before, after = (parse_manifest(raw(minimal(**one))).manifest for one in (old, new))
    return [(one.effect, one.text) for one in compare_manifests(before, after)]


def marble(**fields: Any) -> dict[str, Any]:
    return {"Marbles": {"m": {"Package": "server"} | fields}}


def package(**fields: Any) -> dict[str, Any]:
    return {"Packages": {"server": fields}}


def td(**fields: Any) -> dict[str, Any]:
    return package(TEE="tdx", Measurements={"MRTD": "11" * 48} | fields.pop("Measurements", {}), **fields)


def model(**fields: Any) -> dict[str, Any]:
    return {"Models": {"d": {"Format": "capsule"} | fields}}


def user(*actions: str, certificate: str = "", kind: str = "Secrets") -> dict[str, Any]:
    role = {"ResourceType": kind, "ResourceNames": [] if kind == "Manifest" else ["key"], "Actions": list(actions)}
    return {"Users": {"ann": {"Certificate": certificate, "Roles": ["r"]}}, "Roles": {"r": role}}


def config(**fields: Any) -> dict[str, Any]:
    return {"Config": fields}


def recovery(*names: str, threshold: int = 0, pem: str = "PEM") -> dict[str, Any]:
    return {"RecoveryKeys": dict.fromkeys(names, pem), "Config": {"RecoveryThreshold": threshold}}


def port(**fields: Any) -> dict[str, Any]:
    return {"TLS": {"t": {"Incoming": [{"Port": "1"} | fields]}}}


def client(**fields: Any) -> dict[str, Any]:
    return model() | {"Clients": {"ann": fields, "bob": {"TokenHash": "00" * 32, "Models": ["e"]}}}


# old, new, what the way from old to new says, what the way back says
BOTH_WAYS: list[tuple[dict[str, Any], dict[str, Any], tuple[Effect, str], tuple[Effect, str]]] = [
    (
        client(TokenHash="ab" * 32),
        client(TokenHash="ab" * 32, Models=["d"]),
        (GAIN, "Client ann may now call the model d."),
        (LOSS, "Client ann is no longer named for the model d."),
    ),
    (
        client(TokenHash="ab" * 32, Models=["d"]),
        client(TokenHash="ab" * 32, Models=["d"], Management=True),
        (GAIN, "Client ann may now exchange models."),
        (LOSS, "Client ann may no longer exchange models."),
    ),
    (
        client(TokenHash="ab" * 32, Models=["d"]),
        client(TokenHash="cd" * 32, Models=["d"]),
        (CHANGE, "Client ann is known by another certificate or token."),
        (CHANGE, "Client ann is known by another certificate or token."),
    ),
    (
        td(),
        td(AcceptedWeaknesses=["migratable"]),
        (GAIN, "Package server may now run with the weakness migratable."),
        (LOSS, "Package server may no longer run with the weakness migratable."),
    ),
    (
        td(),
        td(TCBGraceDays=7),
        (GAIN, "Package server: TCBGraceDays is 7, was None."),
        (LOSS, "Package server: TCBGraceDays is None, was 7."),
    ),
    (
        td(MinimumTCBEvaluation=17),
        td(),
        (GAIN, "Package server: MinimumTCBEvaluation is None, was 17."),
        (LOSS, "Package server: MinimumTCBEvaluation is 17, was None."),
    ),
    (
        td(MinimumTCB={"snp": 24}),
        td(MinimumTCB={"snp": 23}),
        (GAIN, "Package server: the lowest snp is 23, was 24."),
        (LOSS, "Package server: the lowest snp is 24, was 23."),
    ),
    (
        td(AllowedHardwareIDs=["11" * 16]),
        td(),
        (GAIN, "Package server may run on any hardware, before on 1 listed platforms."),
        (LOSS, "Package server may run on 1 listed platforms, before on any hardware."),
    ),
    (
        td(RefusedHardwareIDs=["11" * 16]),
        td(),
        (GAIN, f"Package server may run on {'11' * 16} again."),
        (LOSS, f"Package server may no longer run on {'11' * 16}."),
    ),
    (
        td(RefusedProductLines=["Milan"]),
        td(),
        (GAIN, "Package server may run on Milan again."),
        (LOSS, "Package server may no longer run on Milan."),
    ),
    (
        marble() | {"Secrets": SECRET},
        marble(Parameters=RAW) | {"Secrets": SECRET},
        (GAIN, "Marble m (package server) gains access to the secret key, by file /k."),
        (LOSS, "Marble m loses access to the secret key."),
    ),
    (
        marble() | model(Key="key"),
        marble(Models=["d"]) | model(Key="key"),
        (GAIN, "Marble m (package server) gains access to the secret key, by model d."),
        (LOSS, "Marble m may no longer load the model d."),
    ),
    (
        marble() | port(Cert="key"),
        marble(TLS=["t"]) | port(Cert="key"),
        (GAIN, "Marble m (package server) gains access to the secret key, by TLS tag t."),
        (CHANGE, "Marble m has other tags of TLS: t before, none now."),
    ),
    (
        {},
        {"Marbles": {"tf-server": {"Package": "server"}, "m": {"Package": "server"}}},
        (GAIN, "Marble m is new: package server may join the mesh as m."),
        (LOSS, "Marble m is gone: nothing may join the mesh as m."),
    ),
    (
        marble(Package="server", Parameters=RAW) | {"Secrets": SECRET},
        marble(Package="other", Parameters=RAW) | {"Secrets": SECRET},
        (GAIN, "Package other takes the place of server as marble m, with key."),
        (GAIN, "Package server takes the place of other as marble m, with key."),
    ),
    (
        marble(MaxActivations=2),
        marble(),
        (GAIN, "Marble m may be activated more often: 2 before, without limit now."),
        (LOSS, "Marble m may be activated less often: without limit before, 2 now."),
    ),
    (
        marble(),
        marble(DisableSecretBinding=True),
        (GAIN, "Unshared keys of marble m are no longer bound to its name; they change."),
        (LOSS, "Unshared keys of marble m are now bound to its name; they change."),
    ),
    (
        marble(AllowedNames=["a"]),
        marble(AllowedNames=["a", "b"]),
        (GAIN, "Marble m may now have the name b in its certificate."),
        (LOSS, "Marble m may no longer have the name b in its certificate."),
    ),
    (
        marble(LeafTTL="1h30m"),
        marble(LeafTTL="24h"),
        (GAIN, "Certificates of marble m are valid for 1 day, 0:00:00 now, for 1:30:00 before."),
        (LOSS, "Certificates of marble m are valid for 1:30:00 now, for 1 day, 0:00:00 before."),
    ),
    (
        marble(LeafTTL="24h"),
        marble(),
        (GAIN, "Certificates of marble m are valid as long as the mesh now, for 1 day, 0:00:00 before."),
        (LOSS, "Certificates of marble m are valid for 1 day, 0:00:00 now, as long as the mesh before."),
    ),
    (
        marble(AllowedNames=["a"]),
        marble(),
        (GAIN, "Marble m may now have any name in its certificate."),
        (LOSS, "Marble m may now have only these names in its certificate: a."),
    ),
    (
        marble(Parameters={"Argv": ["a"], "Env": {"E": "1"}}),
        marble(Parameters={"Argv": ["b"], "Env": {"E": "2"}}),
        (CHANGE, "Marble m runs another command or other arguments."),
        (CHANGE, "Marble m gets the variable E, with other contents."),
    ),
    (
        package(UniqueID=UNIQUE_ID),
        package(UniqueID=SIGNER_ID),
        (
            GAIN,
            "Package server is other software: UniqueID 6b6b6b6b6b6b6b6b… before, UniqueID 4343434343434343… now; "
            "it reaches no secrets.",
        ),
        (
            GAIN,
            "Package server is other software: UniqueID 4343434343434343… before, UniqueID 6b6b6b6b6b6b6b6b… now; "
            "it reaches no secrets.",
        ),
    ),
    (
        package(SignerID=SIGNER_ID, ProductID=1, SecurityVersion=3),
        package(SignerID=SIGNER_ID, ProductID=1, SecurityVersion=2),
        (GAIN, "Package server now accepts security versions from 2 to below 3."),
        (LOSS, "Package server no longer accepts security versions from 2 to below 3."),
    ),
    (
        package(UniqueID=UNIQUE_ID),
        package(UniqueID=UNIQUE_ID, TEE="simulated"),
        (GAIN, "Package server runs in another TEE: sgx before, simulated now."),
        (CHANGE, "Package server runs in another TEE: simulated before, sgx now."),
    ),
    (
        package(UniqueID=UNIQUE_ID),
        package(UniqueID=UNIQUE_ID, Debug=True),
        (GAIN, "The host gains all that package server has (no secrets): Debug is now true."),
        (LOSS, "The host loses the view into package server: Debug is now false."),
    ),
    (
        package(),
        package(AcceptedTCBStatuses=["SWHardeningNeeded", "OutOfDate"]),
        (GAIN, "Package server may now run on platforms of status OutOfDate."),
        (LOSS, "Package server may no longer run on platforms of status OutOfDate."),
    ),
    (
        package(AcceptedAdvisories=["A"]),
        package(),
        (GAIN, "Package server may now run on platforms with any advisory."),
        (LOSS, "Package server may now run with listed advisories only: A."),
    ),
    (
        package(AcceptedAdvisories=[]),
        package(AcceptedAdvisories=["A"]),
        (GAIN, "Package server may now run on platforms with advisory A."),
        (LOSS, "Package server may no longer run on platforms with advisory A."),
    ),
    (
        {},
        {"Packages": {"server": {"UniqueID": UNIQUE_ID}, "other": {"UniqueID": UNIQUE_ID}}},
        (GAIN, "Package other is new: UniqueID 6b6b6b6b6b6b6b6b…."),
        (LOSS, "Package other is gone: its software may no longer run."),
    ),
    (
        model(ID=UNIQUE_ID),
        model(),
        (GAIN, "Model d may now be any capsule under its key."),
        (CHANGE, "Model d is now the capsule 6b6b6b6b6b6b6b6b…."),
    ),
    (
        model(MinVersion=3),
        model(MinVersion=1),
        (GAIN, "Model d is now loaded in versions below 3."),
        (LOSS, "Model d is no longer loaded in versions below 3."),
    ),
    (
        model(),
        model(Format="ctr"),
        (
            GAIN,
            "Model d has another format: capsule before, ctr now; nobody notices any more when it was altered.",
        ),
        (CHANGE, "Model d has another format: ctr before, capsule now."),
    ),
    (
        model(Key="a"),
        model(Key="b"),
        (CHANGE, "Model d is opened by the secret b, a before."),
        (CHANGE, "Model d is opened by the secret a, b before."),
    ),
    ({}, model(), (CHANGE, "Model d is new."), (LOSS, "Model d is gone.")),
    (
        user("WriteSecret"),
        user("WriteSecret", "ReadSecret"),
        (GAIN, "User ann may now read the secret key."),
        (LOSS, "User ann may no longer read the secret key."),
    ),
    (
        {},
        user("UpdateManifest", kind="Manifest"),
        (GAIN, "User ann may now update the manifest."),
        (LOSS, "User ann is gone."),
    ),
    ({}, user(), (CHANGE, "User ann is new."), (LOSS, "User ann is gone.")),
    (
        recovery("a"),
        recovery("a", "b", threshold=2),
        (GAIN, "The holder of recovery key b gains a part in recovery."),
        (LOSS, "The holder of recovery key b loses the part in recovery."),
    ),
    (
        recovery("a", "b", "c"),
        recovery("a", "b", "c", threshold=2),
        (GAIN, "Recovery needs 2 of 3 keys; 3 of 3 before."),
        (LOSS, "Recovery needs 3 of 3 keys; 2 of 3 before."),
    ),
    (
        recovery("a"),
        recovery("a", pem="OTHER"),
        (GAIN, "Another key is recovery key a now."),
        (GAIN, "Another key is recovery key a now."),
    ),
    (
        config(),
        config(UpdateThreshold=1),
        (GAIN, "An update needs 1 users to agree; all who may before."),
        (LOSS, "An update needs all who may to agree; 1 users before."),
    ),
    (
        config(),
        config(FeatureGates=["SignQuoteEndpoint"]),
        (GAIN, "Marbles and users gain the feature SignQuoteEndpoint."),
        (LOSS, "Marbles and users lose the feature SignQuoteEndpoint."),
    ),
    (
        config(SealMode="Disabled"),
        config(),
        (CHANGE, "The state is sealed another way: Disabled before, the default now."),
        (CHANGE, "The state is sealed another way: the default before, Disabled now."),
    ),
    (
        config(),
        config(RotateRootSecret=True),
        (CHANGE, "An update now changes every generated key."),
        (CHANGE, "Updates now keep the keys."),
    ),
    (
        port(),
        port(DisableClientAuth=True),
        (GAIN, "Clients without a certificate gain port 1 of TLS tag t."),
        (LOSS, "Clients without a certificate lose port 1 of TLS tag t."),
    ),
    (
        {},
        port(),
        (CHANGE, "TLS tag t has other ports, certificates or addresses."),
        (CHANGE, "TLS tag t has other ports, certificates or addresses."),
    ),
    (
        {"Secrets": {"key": SECRET["key"] | {"Shared": False}}},
        {"Secrets": SECRET},
        (GAIN, "Secret key is now one for all marbles that get it."),
        (LOSS, "Secret key is now another for each marble."),
    ),
    (
        {"Secrets": SECRET},
        {"Secrets": {"key": SECRET["key"] | {"Size": 128, "UserDefined": True}}},
        (CHANGE, "Secret key has another Size: 256 before, 128 now."),
        (CHANGE, "Secret key now comes from the coordinator."),
    ),
    (
        {"Secrets": SECRET},
        {"Secrets": {"key": SECRET["key"] | {"Cert": {"IsCA": True}}}},
        (CHANGE, "Secret key has another certificate."),
        (CHANGE, "Secret key has another certificate."),
    ),
    ({}, {"Secrets": SECRET}, (CHANGE, "Secret key is new."), (LOSS, "Secret key is gone.")),
    (
        {},
        {"Infrastructures": {"azure": {"QESVN": 2}}},
        (CHANGE, "Infrastructures differ; no coordinator compares them."),
        (CHANGE, "Infrastructures differ; no coordinator compares them."),
    ),
]


@pytest.mark.parametrize(
    ("old", "new", "there", "back"), BOTH_WAYS, ids=lambda one: one[1] if isinstance(one, tuple) else ""
)
def test_a_change_is_said_in_words_and_its_reverse_too(
    old: dict[str, Any], new: dict[str, Any], there: tuple[Effect, str], back: tuple[Effect, str]
) -> None:
    assert there in said(old, new)
    assert back in said(new, old)
    assert said(old, old) == []


def test_another_way_to_the_same_secret_is_a_change() -> None:
    old = marble(Parameters=RAW) | {"Secrets": SECRET}
    new = marble(Parameters={"Env": {"K": "{{ hex .Secrets.key }}"}}) | {"Secrets": SECRET}
    assert (CHANGE, "Marble m gets the secret key another way: file /k before, variable K now.") in said(old, new)


def test_t17_a_certificate_alone_is_no_access_to_the_key() -> None:
    secrets = {"Secrets": {"key": {"Type": "cert-ecdsa", "Size": 256}}}
    shown = marble(Parameters={"Files": {"/k": "{{ pem .Secrets.key.Cert }}"}}) | secrets
    assert not any("gains access" in text for _, text in said(marble() | secrets, shown))
    private = marble(Parameters={"Files": {"/k": "{{ pem .Secrets.key.Private }}"}}) | secrets
    assert any("gains access" in text for _, text in said(shown, private))


def test_t17_a_template_that_may_reach_any_secret_gains_all() -> None:
    old = marble() | {"Secrets": SECRET | {"b": {"Type": "plain", "UserDefined": True}}}
    new = old | marble(Parameters={"Files": {"/k": "{{ range .Secrets }}{{ hex .Private }}{{ end }}"}})
    assert sum("gains access" in text for _, text in said(old, new)) == 2


def test_gains_come_first_and_losses_last() -> None:
    old = marble(MaxActivations=1, AllowedNames=["a"], Parameters={"Argv": ["a"]})
    new = marble(MaxActivations=2, AllowedNames=["b"], Parameters={"Argv": ["b"]})
    ranks = [effect.rank for effect, _ in said(old, new)]
    assert ranks == sorted(ranks)
    assert set(ranks) == {0, 1, 2}


def test_a_named_tee_that_means_the_same_is_no_change() -> None:
    assert said(package(UniqueID=UNIQUE_ID), package(UniqueID=UNIQUE_ID, TEE="sgx")) == []
