"""What a coordinator decides: manifests, secrets, activations, and nothing lost or given twice."""

import base64
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fakes.core import PLAIN_MANIFEST, UUID, encode, make_coordinator, make_order, make_verifier, make_world
from fakes.tee import NOW, FakeTee, make_platform
from tacit.coordinator.activate import Order, parse_uuid, release
from tacit.coordinator.core import Coordinator, Settings, World
from tacit.coordinator.secrets import Marble, NewValue, derive_symmetric
from tacit.coordinator.state import NEXT, Event, State, advance
from tacit.coordinator.store import MemoryStore
from tacit.errors import (
    ActivationError,
    BindingError,
    EvidenceFormatError,
    ForbiddenError,
    IllegalTransitionError,
    InputError,
    ManifestError,
    MeasurementError,
    NotSetError,
    PkiError,
    SecretError,
    StateError,
    TemplateError,
    UnauthorizedError,
    WrongTeeError,
)
from tacit.evidence import Role, verify_binding, verify_evidence
from tacit.manifest import Unattested
from tacit.manifest.access import named_secrets
from tacit.manifest.model import Content
from tacit.pki import issue_self_signed

OWNER = issue_self_signed(["owner"], common_name="owner", now=NOW)
READER = issue_self_signed(["reader"], common_name="reader", now=NOW)


def secret_manifest(**marble: Any) -> dict[str, Any]:
    return {
        "Packages": {"p": {"Debug": True}},
        "Marbles": {"m": {"Package": "p", **marble}},
        "Secrets": {
            "key": {"Type": "symmetric-key", "Size": 256, "UserDefined": True},
            "word": {"Type": "plain", "UserDefined": True},
            "shared": {"Type": "symmetric-key", "Size": 128, "Shared": True},
            "own": {"Type": "symmetric-key", "Size": 128},
        },
        "Users": {
            "owner": {"Certificate": OWNER.certificate_pem.decode(), "Roles": ["write", "read"]},
            "reader": {"Certificate": READER.certificate_pem.decode(), "Roles": ["read-shared"]},
        },
        "Roles": {
            "write": {"ResourceType": "Secrets", "ResourceNames": ["key", "word"], "Actions": ["WriteSecret"]},
            "read": {"ResourceType": "Secrets", "ResourceNames": ["key", "word", "shared"], "Actions": ["readsecret"]},
            "read-shared": {"ResourceType": "Secrets", "ResourceNames": ["shared"], "Actions": ["ReadSecret"]},
        },
    }


def attested_manifest(tee: FakeTee, **marble: Any) -> bytes:
    package = {"TEE": "simulated", "UniqueID": tee.package_info.unique_id.hex()}
    return encode({"Packages": {"p": package}, "Marbles": {"m": {"Package": "p", **marble}}})


# ---- the state machine


def test_every_move_that_is_not_in_the_table_is_refused_and_says_what_is_possible() -> None:
    for state in State:
        for event in Event:
            if (state, event) in NEXT:
                assert advance(state, event) is NEXT[state, event]
            else:
                with pytest.raises(IllegalTransitionError, match=r"possible now: (set a manifest|activate|fetch)"):
                    advance(state, event)


def test_a_manifest_is_set_once() -> None:
    core = make_coordinator().core
    core.set_manifest(encode(PLAIN_MANIFEST))
    with pytest.raises(IllegalTransitionError):
        core.set_manifest(encode(PLAIN_MANIFEST))


def test_of_many_manifests_at_once_one_is_set() -> None:
    core = make_coordinator().core

    def attempt(number: int) -> int:
        try:
            core.set_manifest(encode({**PLAIN_MANIFEST, "Marbles": {f"m{number}": {"Package": "p"}}}))
        except IllegalTransitionError:
            return -1
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(attempt, range(16)) if number >= 0]
    assert len(winners) == 1
    assert f"m{winners[0]}".encode() in core.manifest()[0]


def test_before_a_manifest_nothing_is_activated_read_or_listed() -> None:
    core = make_coordinator().core
    with pytest.raises(IllegalTransitionError):
        core.activate(make_order())
    with pytest.raises(IllegalTransitionError):
        core.update_log()
    with pytest.raises(NotSetError):
        core.manifest()
    with pytest.raises(UnauthorizedError):
        core.authenticate(OWNER.certificate_der)


# ---- manifest


def test_the_manifest_is_given_back_as_it_came_with_the_roots_signature() -> None:
    core = make_coordinator().core
    raw = b" " + encode(PLAIN_MANIFEST) + b"\n"
    core.set_manifest(raw)
    given, signature = core.manifest()
    assert given == raw
    key: Any = core.holdings.identity.root.certificate.public_key()
    key.verify(signature, raw, ECDSA(SHA256()))


def test_a_refused_manifest_changes_nothing() -> None:
    made = make_coordinator()
    before = made.core.holdings
    with pytest.raises(ManifestError, match="checking manifest: no allowed marbles defined"):
        made.core.set_manifest(encode({"Packages": {"p": {"Debug": True}}}))
    assert made.core.holdings is before
    made.core.set_manifest(encode(PLAIN_MANIFEST))


def test_a_template_that_cannot_be_filled_in_is_refused_before_anything_is_stored() -> None:
    made = make_coordinator()
    bad = {
        **PLAIN_MANIFEST,
        "Marbles": {"m": {"Package": "p", "Parameters": {"Env": {"X": "{{ hex .Secrets.nope }}"}}}},
    }
    with pytest.raises(TemplateError, match="running manifest template dry run: in Marble m: env variable X: "):
        made.core.set_manifest(encode(bad))
    assert made.core.status().state is State.ACCEPTING_MANIFEST


def test_what_was_read_leniently_is_logged_with_its_path() -> None:
    made = make_coordinator()
    made.core.set_manifest(b'{"packages":{"p":{"debug":true}},"Marbles":{"m":{"Package":"p","Bogus":1}}}')
    notes = [line["at"] for line in made.lines() if line["msg"] == "manifest read leniently"]
    assert any("debug" in note for note in notes)
    assert any("Bogus" in note for note in notes)


def test_the_sealing_key_is_given_encrypted_to_the_recovery_key() -> None:
    recovery = rsa.generate_private_key(65537, 2048)
    pem = recovery.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    core = make_coordinator().core
    given = core.set_manifest(encode({**PLAIN_MANIFEST, "RecoveryKeys": {"rec": pem}}))
    assert list(given) == ["rec"]
    assert len(recovery.decrypt(given["rec"], padding.OAEP(padding.MGF1(SHA256()), SHA256(), None))) == 32


# ---- status and quote


def test_the_status_names_epoch_and_head_and_the_root_signs_them() -> None:
    core = make_coordinator().core
    assert core.status().position.epoch == 0
    core.set_manifest(encode(PLAIN_MANIFEST))
    status = core.status()
    assert status.position.epoch == 1
    key: Any = core.holdings.identity.root.certificate.public_key()
    signed = b"tacit state head v1\0" + (1).to_bytes(8, "big") + status.position.head
    key.verify(status.signature, signed, ECDSA(SHA384()))


def test_evidence_binds_the_root_certificate_and_the_nonce() -> None:
    tee = FakeTee()
    core = make_coordinator(tee=tee).core
    root = core.holdings.identity.root.certificate_der
    for nonce in (b"", b"fresh"):
        answer = core.quote(nonce)
        assert answer.evidence is not None
        claims = verify_evidence(answer.evidence, tee.collateral, tee.anchor, now=NOW)
        verify_binding(claims, role=Role.COORDINATOR, key=root, nonce=nonce)
        assert claims.report_data[:32] == sha256(root + nonce).digest()


def test_evidence_without_a_nonce_is_made_once() -> None:
    core = make_coordinator(tee=FakeTee()).core
    assert core.quote() == core.quote()
    assert core.quote(b"a") != core.quote()


def test_without_a_tee_there_is_no_evidence_and_certificates_say_so() -> None:
    core = make_coordinator().core
    assert core.quote(b"nonce").evidence is None
    for pair in (core.holdings.identity.root, core.holdings.identity.intermediate):
        assert "UNATTESTED" in pair.certificate.subject.rfc4514_string()


def test_certificates_of_a_simulated_coordinator_say_so() -> None:
    core = make_coordinator(tee=FakeTee()).core
    assert "SIMULATED" in core.holdings.identity.root.certificate.subject.rfc4514_string()


# ---- who may do what


def test_t25_a_user_is_the_exact_certificate() -> None:
    core = make_coordinator().core
    core.set_manifest(encode(secret_manifest()))
    assert core.authenticate(OWNER.certificate_der) == "owner"
    twin = issue_self_signed(["owner"], common_name="owner", now=NOW).certificate_der
    for certificate in (twin, b"", None, OWNER.certificate_der + b"\0"):
        with pytest.raises(UnauthorizedError):
            core.authenticate(certificate)


def test_a_user_whose_name_is_empty_is_a_user() -> None:
    """As at MarbleRun, whose manifests need no name there."""
    manifest = secret_manifest()
    manifest["Users"][""] = manifest["Users"].pop("owner")
    core = make_coordinator().core
    core.set_manifest(encode(manifest))
    assert core.authenticate(OWNER.certificate_der) == ""


@pytest.mark.parametrize(
    "names", [["key"], ["shared", "key"], ["own"], ["nope"], ["shared\0"], ["SHARED"], ["%73hared"], ["shared/../key"]]
)
def test_t25_one_name_that_is_not_allowed_refuses_all(names: list[str]) -> None:
    core = make_coordinator().core
    core.set_manifest(encode(secret_manifest()))
    with pytest.raises(ForbiddenError, match="user reader is not allowed to read one or more secrets of: "):
        core.read_secrets("reader", names)


@pytest.mark.parametrize("user", ["owner", "reader"])
@pytest.mark.parametrize("name", ["key", "word", "shared", "own"])
def test_t60_every_user_reads_and_sets_what_their_roles_name_and_no_more(user: str, name: str) -> None:
    core = make_coordinator().core
    core.set_manifest(encode(secret_manifest()))
    may_read = {"owner": {"key", "word", "shared"}, "reader": {"shared"}}[user]
    may_write = {"owner": {"key", "word"}, "reader": set()}[user]
    if name in may_read:
        assert list(core.read_secrets(user, [name])) == [name]
    else:
        with pytest.raises(ForbiddenError):
            core.read_secrets(user, [name])
    if name in may_write:
        core.write_secrets(user, {name: NewValue(key=b"x" * 32)})
    else:
        with pytest.raises((ForbiddenError, SecretError)):
            core.write_secrets(user, {name: NewValue(key=b"x" * 32)})


# ---- setting secrets


def test_secrets_are_set_all_or_none() -> None:
    core = make_coordinator().core
    core.set_manifest(encode(secret_manifest()))
    before = core.holdings
    with pytest.raises(SecretError, match="parsing new secrets: declared size and actual size don't match: key"):
        core.write_secrets("owner", {"key": NewValue(key=b"short"), "word": NewValue(key=b"fine")})
    assert core.holdings is before


@pytest.mark.parametrize("size", [2**63, 2**64 - 8])
def test_a_declared_size_that_no_key_has_is_kept_and_compared_and_nothing_is_made_of_it(size: int) -> None:
    core = make_coordinator().core
    manifest = secret_manifest()
    manifest["Secrets"]["key"]["Size"] = size
    core.set_manifest(encode(manifest))
    assert core.read_secrets("owner", ["key"])["key"].size == size
    with pytest.raises(SecretError, match="declared size and actual size don't match: key"):
        core.write_secrets("owner", {"key": NewValue(key=b"k" * 32)})
    assert core.read_secrets("owner", ["key"])["key"].private == b""


@pytest.mark.parametrize("shared", [True, False])
def test_a_key_of_2_to_the_63_bits_is_never_made(shared: bool) -> None:
    core = make_coordinator().core
    manifest = secret_manifest()
    manifest["Secrets"]["huge"] = {"Type": "symmetric-key", "Size": 2**63, "Shared": shared}
    with pytest.raises(ManifestError, match="invalid secret size: huge"):
        core.set_manifest(encode(manifest))


def test_a_set_secret_is_read_back_and_stands_in_the_update_log() -> None:
    core = make_coordinator().core
    core.set_manifest(encode(secret_manifest()))
    core.write_secrets("owner", {"key": NewValue(key=b"k" * 32)})
    assert core.read_secrets("owner", ["key"])["key"].private == b"k" * 32
    first, second = (json.loads(line) for line in core.update_log())
    assert first == {"time": "2026-11-24T12:00:00.000Z", "update": "Initial manifest set"}
    assert list(second) == ["time", "update", "user", "secret", "type"]
    assert second["user"] == "owner"


def test_t21_a_secret_that_looks_like_a_template_is_not_read_as_one() -> None:
    core = make_coordinator().core
    env = {"A": "{{ string .Secrets.word }}", "B": "x{{ hex .Secrets.shared }}"}
    core.set_manifest(encode(secret_manifest(Parameters={"Env": env, "Files": {"/f": "{{ raw .Secrets.word }}"}})))
    hostile = b"{{ hex .Secrets.shared }}\n$(id) {{"
    core.write_secrets("owner", {"word": NewValue(key=hostile)})
    released = core.activate(make_order())
    assert released.env["A"] == hostile
    assert released.files["/f"] == hostile
    assert released.env["B"] == b"x" + core.holdings.secrets["shared"].private.hex().encode()


def test_t21_a_value_that_breaks_a_template_is_refused_before_it_is_stored() -> None:
    core = make_coordinator().core
    core.set_manifest(encode(secret_manifest(Parameters={"Env": {"A": "{{ string .Secrets.word }}"}})))
    before = core.holdings
    with pytest.raises(TemplateError, match="dry run: in Marble m: env variable A"):
        core.write_secrets("owner", {"word": NewValue(key=b"a\0b")})
    assert core.holdings is before


# ---- activation


def test_a_marble_gets_what_the_manifest_says_and_the_reserved_names_above_all() -> None:
    core = make_coordinator().core
    env = {"X": "1", "MARBLE_PREDEFINED_ROOT_CA": "mine"}
    files = {"/k": "{{ raw .Secrets.shared }}"}
    core.set_manifest(encode(secret_manifest(Parameters={"Env": env, "Files": files, "Argv": ["./a", "-b"]})))
    released = core.activate(make_order())
    identity = core.holdings.identity
    assert released.env["X"] == b"1"
    assert released.env["MARBLE_PREDEFINED_ROOT_CA"] == identity.marble_root.certificate_pem
    assert released.env["MARBLE_PREDEFINED_COORDINATOR_ROOT_CA"] == identity.root.certificate_pem
    assert released.files == {"/k": core.holdings.secrets["shared"].private}
    assert released.argv == ("./a", "-b")
    chain = x509.load_pem_x509_certificates(released.env["MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN"])
    chain[0].verify_directly_issued_by(chain[1])
    chain[1].verify_directly_issued_by(identity.root.certificate)


def test_a_marbles_own_key_is_the_same_each_time_and_differs_by_marble() -> None:
    core = make_coordinator().core
    manifest = secret_manifest(Parameters={"Files": {"/k": "{{ raw .Secrets.own }}{{ raw .Previous.Secrets.own }}"}})
    manifest["Marbles"]["other"] = manifest["Marbles"]["m"]
    core.set_manifest(encode(manifest))
    first = core.activate(make_order()).files["/k"]
    assert first[:16] == first[16:]
    assert core.activate(make_order(uuid=UUID.upper())).files["/k"] == first
    assert core.activate(make_order("other")).files["/k"] != first
    assert core.activate(make_order(uuid="752ab710-8942-4a25-aa77-fc153329f013")).files["/k"] != first


def test_t26_no_two_marbles_or_names_derive_the_same_key() -> None:
    root = bytes(32)
    uuids = [UUID, "752ab710-8942-4a25-aa77-fc153329f013"]
    keys = {
        derive_symmetric(root, name, Marble(kind, uuid), size=256)
        for name in ("a", "ab", "b")
        for kind in ("m", "ma", "a", "")
        for uuid in uuids
    }
    assert len(keys) == 3 * 4 * 2


def test_keys_are_derived_as_recorded(shared_vectors: Path) -> None:
    recorded = json.loads((shared_vectors / "marblerun/seal/unshared-secret-derivation.json").read_text())
    root = bytes.fromhex(recorded["rootSecret_hex"])
    for vector in recorded["vectors"]:
        marble = Marble(vector["marble"], vector["uuid"], disable_binding=not vector["info"])
        derived = derive_symmetric(root, vector["secret"], marble, size=8 * vector["size_bytes"])
        assert derived.hex() == vector["okm_hex"]


def test_a_secret_that_its_owner_has_not_set_stops_the_types_that_use_it() -> None:
    core = make_coordinator().core
    manifest = secret_manifest(Parameters={"Files": {"/k": "{{ raw .Secrets.key }}"}})
    manifest["Marbles"]["bare"] = {"Package": "p"}
    core.set_manifest(encode(manifest))
    with pytest.raises(TemplateError, match='customizing marble parameters: parsing secrets for file "/k": template: '):
        core.activate(make_order())
    core.activate(make_order("bare"))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (UUID, UUID),
        (UUID.upper(), UUID),
        ("{" + UUID + "}", UUID),
        ("urn:uuid:" + UUID, UUID),
        (UUID.replace("-", ""), UUID),
    ],
)
def test_a_uuid_is_accepted_in_each_form(text: str, canonical: str) -> None:
    assert parse_uuid(text) == canonical


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not-a-uuid", "invalid UUID length: 10"),
        ("", "invalid UUID length: 0"),
        (UUID + "\n", "invalid UUID length: 37"),
        ("urn:xxxx:" + UUID, 'invalid urn prefix: "urn:xxxx:"'),
        ("x" * 36, "invalid UUID format"),
        ("g" * 32, "invalid UUID format"),
    ],
)
def test_what_is_no_uuid_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_uuid(text)
    assert str(caught.value) == f"invalid UUID: {said}"


def test_t38_the_certificates_names_are_those_that_the_manifest_allows() -> None:
    core = make_coordinator().core
    core.set_manifest(encode(secret_manifest(AllowedNames=["server.example"])))
    core.activate(make_order(names=("server.example",)))
    with pytest.raises(PkiError, match="generating marble authentication secrets: "):
        core.activate(make_order(names=("coordinator.example",)))


def test_a_broken_signing_request_is_refused() -> None:
    core = make_coordinator().core
    core.set_manifest(encode(PLAIN_MANIFEST))
    with pytest.raises(PkiError, match=r"^generating marble authentication secrets: parsing CSR: asn1: "):
        core.activate(Order("m", UUID, b"junk", b"", b""))


def test_models_go_to_the_types_that_name_them_with_their_keys() -> None:
    core = make_coordinator().core
    manifest = secret_manifest(Models=["digits"])
    manifest["Marbles"]["bare"] = {"Package": "p"}
    manifest["Models"] = {"digits": {"Format": "capsule", "ID": "ab" * 32, "MinVersion": 3, "Key": "key"}}
    core.set_manifest(encode(manifest))
    with pytest.raises(TemplateError, match='model "digits": its key, secret "key", was not set yet'):
        core.activate(make_order())
    core.write_secrets("owner", {"key": NewValue(key=b"k" * 32)})
    released = core.activate(make_order())
    assert json.loads(released.env["TACIT_MODELS"]) == {
        "digits": {"format": "capsule", "id": "ab" * 32, "minVersion": 3, "key": "key"}
    }
    assert released.files == {"/tacit/keys/digits": b"k" * 32}
    assert released.secret_names == ("key",)
    bare = core.activate(make_order("bare"))
    assert "TACIT_MODELS" not in bare.env
    assert not bare.files


def test_t47_who_may_call_and_manage_goes_to_every_server() -> None:
    core = make_coordinator().core
    manifest = secret_manifest()
    pem = OWNER.certificate_pem.decode()
    manifest["Models"] = {"digits": {"Format": "plain"}}
    manifest["Clients"] = {
        "ann": {"TokenHash": "ab" * 32, "Models": ["digits"]},
        "bob": {"Certificate": pem, "Management": True},
    }
    manifest["Marbles"]["bare"] = {"Package": "p"}
    core.set_manifest(encode(manifest))
    for name in ("m", "bare"):
        assert json.loads(core.activate(make_order(name)).env["TACIT_CLIENTS"]) == {
            "ann": {"certificate": "", "token": "ab" * 32, "models": ["digits"], "management": False},
            "bob": {
                "certificate": hashlib.sha256(OWNER.certificate_der).hexdigest(),
                "token": "",
                "models": [],
                "management": True,
            },
        }


def test_a_models_key_may_be_base64_in_a_plain_secret() -> None:
    core = make_coordinator().core
    manifest = secret_manifest(Models=["digits"])
    manifest["Models"] = {"digits": {"Format": "ctr", "Key": "word"}}
    core.set_manifest(encode(manifest))
    core.write_secrets("owner", {"word": NewValue(key=base64.b64encode(b"k" * 32))})
    assert core.activate(make_order()).files == {"/tacit/keys/digits": b"k" * 32}
    core.write_secrets("owner", {"word": NewValue(key=b"too short")})
    with pytest.raises(TemplateError, match="neither 32 bytes nor base64"):
        core.activate(make_order())


# ---- evidence


def test_evidence_of_the_allowed_package_is_released_to() -> None:
    tee = FakeTee()
    made = make_coordinator(tee=tee)
    made.core.set_manifest(attested_manifest(tee))
    made.core.activate(make_order(tee=tee))
    line = next(line for line in made.lines() if line["msg"] == "marble activated")
    assert line["tee"] == "simulated"
    assert line["measurement"] == tee.package_info.unique_id.hex()


def refusal(tee: FakeTee, order: Order, manifest: bytes | None = None) -> BaseException | None:
    core = make_coordinator(tee=tee).core
    core.set_manifest(manifest or attested_manifest(tee))
    with pytest.raises(ActivationError, match=r"^marble verification failed: invalid quote: ") as caught:
        core.activate(order)
    return caught.value.__cause__


def test_t13_a_changed_measurement_gets_nothing() -> None:
    tee = FakeTee()
    other = FakeTee(platform=tee.platform, measurement=b"\x22" * 32)
    assert isinstance(refusal(tee, make_order(tee=other)), MeasurementError)


def test_evidence_of_another_connection_gets_nothing() -> None:
    tee = FakeTee()
    stolen = make_order(tee=tee, certificate=OWNER.certificate_der)
    assert isinstance(refusal(tee, stolen), BindingError)


def test_no_evidence_gets_nothing_from_an_attested_coordinator() -> None:
    assert isinstance(refusal(FakeTee(), make_order()), EvidenceFormatError)


def test_a_package_that_names_no_tee_is_not_open_to_a_simulated_one() -> None:
    tee = FakeTee()
    info = tee.package_info
    sgx = {"Packages": {"p": {"UniqueID": info.unique_id.hex()}}, "Marbles": {"m": {"Package": "p"}}}
    assert isinstance(refusal(tee, make_order(tee=tee), encode(sgx)), WrongTeeError)


def test_t27_a_package_gets_the_secrets_of_its_own_types_alone() -> None:
    tee = FakeTee()
    second = FakeTee(platform=tee.platform, measurement=b"\x33" * 32)
    package = {"TEE": "simulated"}
    manifest = {
        "Packages": {
            "one": {**package, "UniqueID": tee.package_info.unique_id.hex()},
            "two": {**package, "UniqueID": second.package_info.unique_id.hex()},
        },
        "Marbles": {
            "a": {"Package": "one", "Parameters": {"Files": {"/k": "{{ raw .Secrets.a }}"}}},
            "b": {"Package": "two", "Parameters": {"Files": {"/k": "{{ raw .Secrets.b }}"}}},
        },
        "Secrets": {name: {"Type": "symmetric-key", "Size": 128, "Shared": True} for name in "ab"},
    }
    core = make_coordinator(tee=tee).core
    core.set_manifest(encode(manifest))
    for kind, allowed, foreign in (("a", tee, second), ("b", second, tee)):
        released = core.activate(make_order(kind, tee=allowed))
        assert released.files == {"/k": core.holdings.secrets[kind].private}
        assert released.secret_names == (kind,)
        with pytest.raises(ActivationError):
            core.activate(make_order(kind, tee=foreign))


def test_evidence_of_another_platform_gets_nothing() -> None:
    tee = FakeTee()
    from tacit.errors import EvidenceError

    other = FakeTee(platform=make_platform(), measurement=tee.package_info.unique_id)
    assert isinstance(refusal(tee, make_order(tee=other)), EvidenceError)


def test_nothing_is_released_without_an_appraisal() -> None:
    core = make_coordinator().core
    core.set_manifest(encode(PLAIN_MANIFEST))
    manifest = core.holdings.manifest
    assert manifest is not None
    arguments: dict[str, Any] = {"uuid": UUID, "now": NOW, "mark": None}
    release(Unattested("a test"), core.holdings, manifest, make_order(), **arguments)
    for forged in (None, True, object()):
        with pytest.raises(ActivationError):
            release(forged, core.holdings, manifest, make_order(), **arguments)  # type: ignore[arg-type]


def test_a_tee_without_a_verifier_is_refused_at_the_start() -> None:
    world, _ = make_world(tee=FakeTee())
    half = World(world.issuer, None, world.clock, world.random, world.log)
    with pytest.raises(StateError):
        Coordinator(MemoryStore(), Settings(), half)
    other_half = World(None, make_verifier(FakeTee()), world.clock, world.random, world.log)
    with pytest.raises(StateError):
        Coordinator(MemoryStore(), Settings(), other_half)


# ---- budgets


def test_t70_a_budget_cannot_be_overdrawn_by_a_hundred_at_once() -> None:
    core = make_coordinator().core
    core.set_manifest(encode(secret_manifest(MaxActivations=7)))
    orders = [make_order() for _ in range(4)]

    def attempt(number: int) -> str:
        try:
            core.activate(orders[number % 4])
        except ActivationError as exc:
            return str(exc)
        return "activated"

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(attempt, range(100)))
    assert outcomes.count("activated") == 7
    refused = 'marble verification failed: reached max activations count (7) for marble type "m"'
    assert outcomes.count(refused) == 93
    assert core.holdings.activations == {"m": 7}


def test_only_a_success_counts() -> None:
    core = make_coordinator().core
    core.set_manifest(encode(secret_manifest(MaxActivations=1)))
    with pytest.raises(InputError):
        core.activate(make_order(uuid="nonsense"))
    core.activate(make_order())
    with pytest.raises(ActivationError):
        core.activate(make_order())


def test_a_release_without_a_budget_is_written_down_too() -> None:
    made = make_coordinator()
    made.core.set_manifest(encode(PLAIN_MANIFEST))
    made.core.activate(make_order())
    assert made.core.status().position.epoch == 2
    assert made.core.holdings.activations == {}


class FailingStore(MemoryStore):
    """A disk that is full."""

    def append(self, payload: bytes) -> None:
        raise StateError("cannot write: No space left on device; nothing was changed")


def test_what_cannot_be_stored_is_not_released_and_not_counted() -> None:
    core = make_coordinator(store=FailingStore()).core
    core.set_manifest(encode(secret_manifest(MaxActivations=1)))
    before = core.holdings
    with pytest.raises(StateError):
        core.activate(make_order())
    with pytest.raises(StateError):
        core.write_secrets("owner", {"key": NewValue(key=b"k" * 32)})
    assert core.holdings is before


# ---- logs


def test_t24_no_secret_value_stands_in_the_log() -> None:
    made = make_coordinator()
    env = {"A": "{{ string .Secrets.word }}", "B": "{{ hex .Secrets.shared }}", "C": "{{ hex .Secrets.own }}"}
    made.core.set_manifest(encode(secret_manifest(MaxActivations=1, Parameters={"Env": env})))
    canary = b"canary-7f3a91"
    made.core.write_secrets(
        "owner", {"word": NewValue(key=canary), "key": NewValue(key=b"canary-key-".ljust(32, b"#"))}
    )
    made.core.read_secrets("owner", ["word", "key"])
    released = made.core.activate(make_order())
    for refused in (make_order(), make_order(uuid="x"), Order("m", UUID, b"junk", b"", b"")):
        with pytest.raises(Exception):  # noqa: B017, PT011 -- whatever it is, the log is what counts
            made.core.activate(refused)
    with pytest.raises(SecretError):
        made.core.write_secrets("owner", {"key": NewValue(key=canary)})
    text = made.log.getvalue() + repr(released) + repr(made.core.holdings.secrets) + repr(NewValue(key=canary))
    held = made.core.holdings
    values = [canary, b"canary-key", held.root_secret, *(secret.private for secret in held.secrets.values())]
    values += [released.env["MARBLE_PREDEFINED_PRIVATE_KEY"].splitlines()[1], *(released.env[name] for name in "ABC")]
    for value in values:
        for shown in (value.hex(), base64.b64encode(value).decode(), value.decode("latin-1")):
            assert shown not in text
    names = next(line["secrets"] for line in made.lines() if line["msg"] == "marble activated")
    assert {"word", "shared", "own"} <= set(names)


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("plain text with .Secrets in it.", set()),
        ("{{ raw .Secrets.a }} and {{pem .Secrets.b.Cert}}", {"a", "b"}),
        ('{{ hex (index .Secrets "a-b") }}', {"a-b"}),
        ("{{ hex .Previous.Secrets.a }}. The end.", {"a"}),
        ("{{ $s := .Secrets }}{{ hex $s.a }}", None),
        ("{{ range .Secrets }}{{ end }}", None),
        ("{{ . }}", None),
        ("{{ with .Secrets.a }}{{ hex . }}{{ end }}", None),
    ],
)
def test_the_secrets_that_a_template_may_reach_are_known(template: str, named: set[str] | None) -> None:
    assert named_secrets(Content(template.encode())) == named
