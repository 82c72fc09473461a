"""What records say: a program refuses what it does not know, whoever sealed it."""

import msgspec
import pytest

from fakes.core import PLAIN_MANIFEST, UUID, encode, make_coordinator
from fakes.tee import NOW
from tacit.coordinator.sealed.changes import encode_change, encode_snapshot, replay
from tacit.coordinator.secrets import Marble, derive_for_marble
from tacit.coordinator.state import Activated
from tacit.errors import SealedStateError
from tacit.manifest.model import CertificateTemplate, SecretRule


def snapshot() -> bytes:
    core = make_coordinator().core
    core.set_manifest(encode(PLAIN_MANIFEST))
    return encode_snapshot(core.holdings)


def test_a_change_counts_on_what_the_snapshot_said() -> None:
    once = encode_change(Activated("m", "u"))
    assert replay([snapshot(), once, once]).holdings.activations == {"m": 2}


def test_nothing_is_sealed_before_a_manifest_is_set() -> None:
    with pytest.raises(SealedStateError, match="before a manifest"):
        encode_snapshot(make_coordinator().core.holdings)


@pytest.mark.parametrize(
    "later",
    [b"?" + msgspec.msgpack.encode({}), b"a\xc1", b"a" + msgspec.msgpack.encode({"marble_type": "m"}), b""],
    ids=["kind", "no MessagePack", "field", "nothing"],
)
def test_a_record_of_a_newer_program_is_named(later: bytes) -> None:
    with pytest.raises(SealedStateError, match="newer program"):
        replay([snapshot(), later])


@pytest.mark.parametrize(
    "field",
    [
        {"URIs": ["spiffe://mesh/server"]},
        {"SubjectKeyId": "not base64"},
        {"OCSPServer": "http://o"},
        {"PermittedIPRanges": 5},
        {"UnknownExtKeyUsage": [[9]]},
        {"PermittedDNSDomains": ["ü"]},
        {"MaxPathLen": 3},
    ],
)
def test_a_state_whose_manifest_was_taken_when_less_was_obeyed_goes_on(field: dict[str, object]) -> None:
    raw = snapshot()
    said = msgspec.msgpack.decode(raw[1:])
    rule = {"Type": "cert-ecdsa", "Size": 256, "Cert": {"DNSNames": ["a.example"], **field}}
    parameters = {"Files": {"/crt": "{{ pem .Secrets.own.Cert }}"}}
    marbles = {"m": {"Package": "p", "Parameters": parameters}}
    said["manifest"] = encode({**PLAIN_MANIFEST, "Secrets": {"own": rule}, "Marbles": marbles})
    holdings = replay([raw[:1] + msgspec.msgpack.encode(said)]).holdings
    assert holdings.manifest is not None
    own = holdings.manifest.secrets["own"]
    assert own == SecretRule("cert-ecdsa", 256, certificate=CertificateTemplate(dns_names=("a.example",)))
    made = derive_for_marble(
        holdings.manifest,
        Marble("m", UUID),
        root_secret=holdings.root_secret,
        issuer=holdings.identity.marble_root,
        now=NOW,
        names=["own"],
    )
    assert b"a.example" in made["own"].certificate


@pytest.mark.parametrize("field", [{"Cert": "AAAA"}, {"Private": "!"}, {"Public": 5}])
def test_a_state_whose_manifest_has_values_that_nobody_reads_goes_on(field: dict[str, object]) -> None:
    raw = snapshot()
    said = msgspec.msgpack.decode(raw[1:])
    said["manifest"] = encode({**PLAIN_MANIFEST, "Secrets": {"k": {"Type": "symmetric-key", "Size": 128, **field}}})
    holdings = replay([raw[:1] + msgspec.msgpack.encode(said)]).holdings
    assert holdings.manifest is not None
    assert holdings.manifest.secrets["k"] == SecretRule("symmetric-key", 128)


def test_a_state_keeps_the_fields_that_are_obeyed() -> None:
    cert = {"URIs": [{"Scheme": "spiffe", "Host": "mesh"}], "IsCA": True, "MaxPathLen": 3, "KeyUsage": 512}
    core = make_coordinator().core
    rule = {"Type": "cert-ecdsa", "Size": 256, "Shared": True, "Cert": cert}
    core.set_manifest(encode({**PLAIN_MANIFEST, "Secrets": {"c": rule}}))
    assert replay([encode_snapshot(core.holdings)]).holdings.manifest == core.holdings.manifest


@pytest.mark.parametrize("part", ["manifest", "certificate", "key"])
def test_a_snapshot_with_a_part_that_cannot_be_read_is_refused_and_no_fault(part: str) -> None:
    raw = snapshot()
    said = msgspec.msgpack.decode(raw[1:])
    (said if part == "manifest" else said["root"])[part] = b"nonsense"
    with pytest.raises(SealedStateError, match="newer program"):
        replay([raw[:1] + msgspec.msgpack.encode(said)])


def test_a_file_begins_with_a_snapshot() -> None:
    with pytest.raises(SealedStateError, match="newer program"):
        replay([encode_change(Activated("m", "u"))])
    with pytest.raises(SealedStateError, match="holds nothing"):
        replay([])
