"""What an update changes, what it keeps, and that it outlives whatever happens."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fakes.core import Made, encode, make_coordinator, make_order
from fakes.tee import NOW
from tacit.coordinator.api.answers import update_answer
from tacit.coordinator.sealed.changes import encode_snapshot
from tacit.coordinator.secrets import NewValue
from tacit.coordinator.state import Holdings
from tacit.coordinator.store import DATA_NAME, KEY_NAME, SealedFolder
from tacit.errors import ForbiddenError, ManifestError, StateError, UpdateError
from tacit.pki import issue_self_signed

USERS = {name: issue_self_signed([name], common_name=name, now=NOW) for name in ("ann", "ben")}
RECOVERY = rsa.generate_private_key(65537, 2048)
PEM = RECOVERY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def manifest(*, users: tuple[str, ...] = ("ann",), config: dict[str, Any] | None = None, **more: Any) -> bytes:
    secrets = {
        "key": {"Type": "symmetric-key", "Size": 128, "Shared": True},
        "other": {"Type": "symmetric-key", "Size": 128, "Shared": True},
        "own": {"Type": "symmetric-key", "Size": 128},
        "cert": {"Type": "cert-ecdsa", "Size": 256, "Shared": True},
        "given": {"Type": "plain", "UserDefined": True},
    }
    secrets.update(more.pop("secrets", {}))
    env = {"OWN": "{{ hex .Secrets.own }}", "WAS": "{{ hex .Previous.Secrets.own }}"}
    made = {
        "Packages": {"p": {"Debug": True, "SecurityVersion": 2}},
        "Marbles": {"m": {"Package": "p", "MaxActivations": 9, "Parameters": {"Env": env}}},
        "Secrets": {name: rule for name, rule in secrets.items() if rule},
        "Users": {
            name: {"Certificate": USERS[name].certificate_pem.decode(), "Roles": ["up", "svn", "w"]} for name in users
        },
        "Roles": {
            "up": {"ResourceType": "Manifest", "Actions": ["UpdateManifest"]},
            "svn": {"ResourceType": "Packages", "ResourceNames": ["p"], "Actions": ["UpdateSecurityVersion"]},
            "w": {"ResourceType": "Secrets", "ResourceNames": ["given"], "Actions": ["WriteSecret"]},
        },
        "Config": config or {},
    }
    return encode({**made, **more})


def set_up(**more: Any) -> Made:
    made = make_coordinator()
    made.core.set_manifest(manifest(**more))
    made.core.write_secrets("ann", {"given": NewValue(key=b"word")})
    made.core.activate(make_order())
    return made


def update(made: Made, raw: bytes) -> tuple[Holdings, Holdings]:
    before = made.core.holdings
    made.core.updates.update("ann", raw)
    return before, made.core.holdings


def same_root_and_new_authorities(before: Holdings, after: Holdings) -> bool:
    old, new = before.identity, after.identity
    return old.root == new.root and old.intermediate != new.intermediate and old.marble_root != new.marble_root


def test_a_security_version_is_raised_and_the_manifests_text_stays() -> None:
    made = set_up()
    before, after = update(made, encode({"Packages": {"p": {"SecurityVersion": 5}}}))
    assert after.manifest is not None
    assert before.manifest is not None
    assert after.manifest.packages["p"].security_version == 5
    assert (after.manifest.raw, after.signature) == (before.manifest.raw, before.signature)
    assert same_root_and_new_authorities(before, after)
    assert after.secrets["key"] == before.secrets["key"]
    old, new = (x509.load_der_x509_certificate(one.secrets["cert"].certificate) for one in (before, after))
    assert old.public_key() != new.public_key()
    assert old.not_valid_after_utc == new.not_valid_after_utc
    with pytest.raises(ManifestError, match="downgrade"):
        made.core.updates.update("ann", encode({"Packages": {"p": {"SecurityVersion": 4}}}))


@pytest.mark.parametrize(
    "beside",
    [{"AcceptedTCBStatuses": ["UpToDate"]}, {"AcceptedAdvisories": ["INTEL-SA-1"]}, {"TEE": "sgx"}, {"UniqueID": ""}],
)
def test_what_stands_beside_a_security_version_and_is_not_the_programs_changes_nothing(beside: dict[str, Any]) -> None:
    before, after = update(set_up(), encode({"Packages": {"p": {"SecurityVersion": 5, **beside}}}))
    assert before.manifest is not None
    assert after.manifest is not None
    assert after.manifest.packages["p"] == replace(before.manifest.packages["p"], security_version=5)


@pytest.mark.parametrize(
    "beside",
    [
        {"Debug": True},
        {"UniqueID": "ab" * 32},
        {"SignerID": "ab" * 32},
        {"ProductID": 0},
        {"TEE": "tdx"},
        {"TCBGraceDays": 3},
    ],
)
def test_t20_what_a_security_version_does_not_change_is_refused_beside_it(beside: dict[str, Any]) -> None:
    made = set_up()
    with pytest.raises(ManifestError, match="update manifest contains unupdatable values"):
        made.core.updates.update("ann", encode({"Packages": {"p": {"SecurityVersion": 5, **beside}}}))


def test_what_keeps_its_definition_keeps_its_value_and_certificates_are_new() -> None:
    made = set_up()
    secrets = {"other": {"Type": "symmetric-key", "Size": 256, "Shared": True}}
    before, after = update(made, manifest(secrets=secrets))
    assert after.secrets["key"] == before.secrets["key"]
    assert after.secrets["given"].private == b"word"
    assert len(after.secrets["other"].private) == 32
    assert after.previous_secrets["other"] == after.secrets["other"]
    assert after.secrets["cert"].certificate != before.secrets["cert"].certificate
    assert after.previous_secrets["cert"] == before.secrets["cert"]
    assert same_root_and_new_authorities(before, after)
    assert after.activations == {"m": 1}
    assert after.root_secret == before.root_secret


def test_a_secret_that_is_gone_is_gone_with_its_previous_value() -> None:
    _, after = update(set_up(), manifest(secrets={"other": None}))
    assert "other" not in after.secrets
    assert "other" not in after.previous_secrets


def test_rotation_renews_every_generated_key_and_keeps_what_owners_gave() -> None:
    made = set_up()
    own = made.core.activate(make_order()).env["OWN"]
    before, after = update(made, manifest(config={"RotateRootSecret": True}))
    assert after.secrets["key"].private != before.secrets["key"].private
    assert after.previous_secrets["key"] == before.secrets["key"]
    assert after.secrets["given"].private == b"word"
    released = made.core.activate(make_order())
    assert released.env["OWN"] != own
    assert released.env["WAS"] == own


@pytest.mark.parametrize(
    "later", [encode({"Packages": {"p": {"SecurityVersion": 5}}}), manifest()], ids=["version", "manifest"]
)
def test_what_a_rotation_replaced_is_kept_by_later_updates(later: bytes) -> None:
    made = set_up()
    own = made.core.activate(make_order()).env["OWN"]
    first, rotated = update(made, manifest(config={"RotateRootSecret": True}))
    for _ in range(2):
        _, after = update(made, later)
        assert after.previous_root_secret == first.root_secret
        assert after.previous_secrets["key"] == first.secrets["key"]
        assert after.secrets["key"] == rotated.secrets["key"]
        assert made.core.activate(make_order()).env["WAS"] == own


def test_the_value_before_follows_what_an_update_renewed_and_nothing_else() -> None:
    made = set_up()
    first, raised = update(made, encode({"Packages": {"p": {"SecurityVersion": 5}}}))
    assert raised.secrets["cert"] != first.secrets["cert"]
    assert raised.previous_secrets == first.previous_secrets
    _, after = update(made, manifest())
    assert after.previous_secrets["cert"] == raised.secrets["cert"]
    assert after.previous_secrets["given"].private == b""
    assert after.secrets["given"].private == b"word"


def test_certificates_that_have_ended_go_on_through_updates() -> None:
    ended = {"Type": "cert-ecdsa", "Size": 256, "Cert": {"NotAfter": "2020-01-01T00:00:00Z"}}
    secrets = {"ended": {**ended, "Shared": True}, "own_ended": ended}
    env = {"A": "{{ pem .Secrets.ended.Cert }}", "B": "{{ pem .Secrets.own_ended.Cert }}"}
    raw = manifest(secrets=secrets, Marbles={"m": {"Package": "p", "Parameters": {"Env": env}}})
    made = make_coordinator()
    made.core.set_manifest(raw)
    for later in (encode({"Packages": {"p": {"SecurityVersion": 5}}}), raw):
        update(made, later)
        for name in ("A", "B"):
            released = x509.load_pem_x509_certificate(made.core.activate(make_order()).env[name])
            assert released.not_valid_after_utc == datetime(2020, 1, 1, tzinfo=UTC)


def test_an_update_undoes_an_earlier_raise_and_says_so_in_the_state() -> None:
    made = set_up()
    update(made, encode({"Packages": {"p": {"SecurityVersion": 5}}}))
    _, after = update(made, manifest())
    assert after.manifest is not None
    assert after.manifest.packages["p"].security_version == 2


def test_sealing_is_neither_begun_nor_ended_by_an_update() -> None:
    made = set_up()
    with pytest.raises(ManifestError, match=r"invalid manifest: Config.SealMode"):
        made.core.updates.update("ann", manifest(config={"SealMode": "Disabled"}))


def test_t20_a_lower_security_version_is_refused_and_one_that_was_raised_stays() -> None:
    made = set_up()
    made.core.updates.update("ann", encode({"Packages": {"p": {"SecurityVersion": 5}}}))
    with pytest.raises(ManifestError, match="tries to downgrade SecurityVersion"):
        made.core.updates.update("ann", encode({"Packages": {"p": {"SecurityVersion": 4}}}))
    held = made.core.holdings.manifest
    assert held is not None
    assert held.packages["p"].security_version == 5


def test_who_may_not_update_changes_nothing() -> None:
    made = make_coordinator()
    nothing = {"ResourceType": "Packages", "ResourceNames": [], "Actions": []}
    made.core.set_manifest(manifest(Roles=dict.fromkeys(("up", "svn", "w"), nothing)))
    before = made.core.holdings
    with pytest.raises(ForbiddenError):
        made.core.updates.update("ann", manifest())
    with pytest.raises(ForbiddenError):
        made.core.updates.update("ann", encode({"Packages": {"p": {"SecurityVersion": 5}}}))
    assert made.core.holdings is before


# ---- what is refused, in MarbleRun's order and words

NO_FUNCTION = {"m": {"Package": "p", "Parameters": {"Env": {"A": "{{ nope }}"}}}}
SHORT = {"Type": "symmetric-key", "Size": 7}
PATH = {"Type": "cert-ecdsa", "Size": 256, "Cert": {"MaxPathLen": 3}}
ONLY_CAS = "x509: only CAs are allowed to specify MaxPathLen"
BAD_KEY = "generating recovery encryption key: given PEM data is not a public key"


def with_users(pem: str) -> dict[str, Any]:
    return {"ann": {"Certificate": USERS["ann"].certificate_pem.decode(), "Roles": ["up"]}, "u": {"Certificate": pem}}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {"Users": with_users("x"), "RecoveryKeys": {"r": "x"}, "secrets": {"s": SHORT}, "Marbles": NO_FUNCTION},
            "generating users from manifest: received invalid certificate for user u",
        ),
        (
            {"RecoveryKeys": {"r": "x"}, "secrets": {"s": SHORT}},
            "updating secrets: generating placeholder secrets from manifest: invalid secret size: s",
        ),
        (
            {"secrets": {"a": SHORT, "s": {**SHORT, "Shared": True}}},
            "updating secrets: generating secrets from manifest: invalid secret size: s",
        ),
        (
            {"secrets": {"a": PATH, "s": {**PATH, "Shared": True}}},
            f"updating secrets: generating secrets from manifest: {ONLY_CAS}",
        ),
        ({"secrets": {"a": PATH}}, f"updating secrets: generating placeholder secrets from manifest: {ONLY_CAS}"),
        (
            {"RecoveryKeys": {"r": "x"}, "Marbles": NO_FUNCTION},
            "updating secrets: running manifest template dry run: in Marble m: env variable A: "
            'template: data:1: function "nope" not defined',
        ),
        ({"RecoveryKeys": {"r": "x"}}, BAD_KEY),
    ],
)
def test_what_cannot_be_applied_is_refused_with_its_own_beginning(more: dict[str, Any], words: str) -> None:
    made = set_up()
    with pytest.raises(ManifestError) as refused:
        made.core.updates.update("ann", manifest(**more))
    assert str(refused.value) == words


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"a": PATH}, f"generating placeholder secrets from manifest: {ONLY_CAS}"),
        ({"a": PATH, "s": {**PATH, "Shared": True}}, f"generating secrets from manifest: {ONLY_CAS}"),
    ],
)
def test_of_a_first_manifest_too_it_is_said_whose_secret_it_is(rules: dict[str, Any], words: str) -> None:
    with pytest.raises(ManifestError) as refused:
        make_coordinator().core.set_manifest(manifest(secrets=rules))
    assert str(refused.value) == words


def test_what_cannot_be_read_is_refused_before_what_is_pending() -> None:
    made = make_coordinator()
    made.core.set_manifest(manifest(users=("ann", "ben")))
    made.core.updates.update("ann", manifest(users=("ann", "ben")))
    with pytest.raises(ManifestError, match="unmarshaling update manifest: unexpected end of JSON input"):
        made.core.updates.update("ben", b"{")
    with pytest.raises(UpdateError, match="update already in progress"):
        made.core.updates.update("ben", b"{}")


@pytest.mark.parametrize("raw", [b"{}", b'{"Packages": {}}', b'{"Config": {"UpdateThreshold": 1}}'])
def test_who_may_raise_no_version_may_not_raise_none(raw: bytes) -> None:
    made = make_coordinator()
    secrets = {"ResourceType": "Secrets", "ResourceNames": ["given"], "Actions": ["WriteSecret"]}
    roles = {"svn": {"ResourceType": "Packages", "ResourceNames": [], "Actions": ["UpdateSecurityVersion"]}}
    made.core.set_manifest(manifest(Roles={"up": secrets, "w": secrets, **roles}))
    with pytest.raises(ManifestError, match="checking update manifest: no packages defined"):
        made.core.updates.update("ann", raw)
    made = make_coordinator()
    made.core.set_manifest(manifest(Roles={"up": secrets, "w": secrets, "svn": secrets}))
    with pytest.raises(ForbiddenError, match=r"user ann is not allowed to update one or more packages of \[\]"):
        made.core.updates.update("ann", raw)


# ---- over restarts


def restart(folder: Path, store: SealedFolder) -> tuple[Made, SealedFolder]:
    store.close()
    opened = SealedFolder(folder, None)
    return make_coordinator(store=opened, contents=opened.load()), opened


def test_a_pending_update_and_raised_versions_outlive_a_restart(tmp_path: Path) -> None:
    store = SealedFolder(tmp_path, None)
    made = make_coordinator(store=store)
    made.core.set_manifest(manifest(users=("ann", "ben")))
    made.core.updates.update("ann", encode({"Packages": {"p": {"SecurityVersion": 5}}}))
    raw = manifest(users=("ann", "ben"), secrets={"other": None})
    assert made.core.updates.update("ann", raw).missing == ("ben",)
    made, store = restart(tmp_path, store)
    held = made.core.holdings.manifest
    assert held is not None
    assert held.packages["p"].security_version == 5
    with pytest.raises(UpdateError, match="does not match"):
        made.core.updates.acknowledge("ben", raw + b" ")
    assert made.core.updates.acknowledge("ben", raw).needed == 0
    expected = encode_snapshot(made.core.holdings)
    made, store = restart(tmp_path, store)
    assert encode_snapshot(made.core.holdings) == expected
    store.close()


def test_an_answer_tells_recovery_keys_that_go_from_ones_that_stay() -> None:
    made = make_coordinator()
    made.core.set_manifest(manifest(RecoveryKeys={"r": PEM}))
    stays = update_answer(made.core.updates.update("ann", manifest(RecoveryKeys={"r": PEM})))
    assert msgspec.json.encode(stays) == b'{"missingAcknowledgments":0,"missingUsers":null}'
    goes = update_answer(made.core.updates.update("ann", manifest()))
    assert msgspec.json.encode(goes) == b'{"missingAcknowledgments":0,"missingUsers":null,"recoverySecrets":{}}'


def test_another_recovery_key_brings_another_sealing_key(tmp_path: Path) -> None:
    store = SealedFolder(tmp_path, None)
    made = make_coordinator(store=store)
    made.core.set_manifest(manifest())
    first = (tmp_path / KEY_NAME).read_bytes()
    outcome = made.core.updates.update("ann", manifest(RecoveryKeys={"r": PEM}))
    assert outcome.recovery_secrets is not None
    key = RECOVERY.decrypt(outcome.recovery_secrets["r"], padding.OAEP(padding.MGF1(SHA256()), SHA256(), None))
    assert (tmp_path / KEY_NAME).read_bytes() == key != first
    assert not made.core.updates.update("ann", manifest(RecoveryKeys={"r": PEM})).recovery_secrets
    expected = encode_snapshot(made.core.holdings), made.core.status().position
    made, store = restart(tmp_path, store)
    assert (encode_snapshot(made.core.holdings), made.core.status().position) == expected
    store.close()


def test_a_change_of_keys_that_a_crash_cut_short_loses_nothing(tmp_path: Path) -> None:
    store = SealedFolder(tmp_path, None)
    made = make_coordinator(store=store)
    made.core.set_manifest(manifest())
    before = made.core.holdings
    data = (tmp_path / DATA_NAME).read_bytes()
    made.core.updates.update("ann", manifest(RecoveryKeys={"r": PEM}))
    (tmp_path / DATA_NAME).write_bytes(data)  # as if the new file had never got its name
    for _ in range(2):
        made, store = restart(tmp_path, store)
        assert encode_snapshot(made.core.holdings) == encode_snapshot(before)
    made.core.updates.update("ann", manifest(RecoveryKeys={"r": PEM}))
    expected = encode_snapshot(made.core.holdings)
    made, store = restart(tmp_path, store)
    assert encode_snapshot(made.core.holdings) == expected
    store.close()


def test_a_new_key_that_cannot_be_written_leaves_the_old_state_whole(tmp_path: Path) -> None:
    store = SealedFolder(tmp_path, None)
    made = make_coordinator(store=store)
    made.core.set_manifest(manifest())
    before = made.core.holdings
    (tmp_path / f"{DATA_NAME}.tmp").mkdir()
    for _ in range(2):
        with pytest.raises(StateError):
            made.core.updates.update("ann", manifest(RecoveryKeys={"r": PEM}))
    assert made.core.holdings is before
    (tmp_path / f"{DATA_NAME}.tmp").rmdir()
    made, store = restart(tmp_path, store)
    assert encode_snapshot(made.core.holdings) == encode_snapshot(before)
    store.close()
