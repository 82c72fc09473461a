"""Certificates and lists that only our own evaluator sees, and what an installation without programs measures."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from fakes.ratls import NAMES, UNREADABLE_NAMES, certificate, new_key
from fakes.tee import shared_platform
from tacit.errors import CollateralError, EvidenceFormatError, PlatformError, UntrustedRootError
from tacit.evidence.anchor.certificates import parse_chain
from tacit.evidence.intel.evaluator import _check_revocation, _verify_chain
from tacit.evidence.issue import program as issuing
from tacit.evidence.simulated.authority import Signer
from tacit.evidence.simulated.platform import SimulatedPlatform


@pytest.fixture
def platform() -> SimulatedPlatform:
    return shared_platform()


def bare(platform: SimulatedPlatform, issuer: x509.Name) -> x509.Certificate:
    """A certificate with the root's name and key, without any extension, in the name of `issuer`."""
    root = platform.root
    builder = x509.CertificateBuilder().subject_name(root.subject).issuer_name(issuer).serial_number(1)
    dated = builder.not_valid_before(root.not_valid_before_utc).not_valid_after(root.not_valid_after_utc)
    assert platform.keys is not None
    return dated.public_key(root.public_key()).sign(platform.keys.root, SHA256())


def test_a_root_that_does_not_say_it_is_a_ca_vouches_for_nobody(platform: SimulatedPlatform) -> None:
    with pytest.raises(UntrustedRootError, match="is no CA"):
        _verify_chain((platform.tcb_signer, platform.root), bare(platform, platform.root.subject), "TCB info's")


def test_a_certificate_whose_issuer_has_no_list_is_refused(platform: SimulatedPlatform) -> None:
    nobody = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Nobody")])
    chain = (bare(platform, nobody), *platform.pck_chain[1:])
    with pytest.raises(CollateralError, match="revocation cannot be checked"):
        _check_revocation(chain, platform.collateral, platform.root)


def test_t24_a_signer_shows_its_name_and_never_its_key(platform: SimulatedPlatform) -> None:
    assert platform.keys is not None
    assert repr(Signer(platform.root, platform.keys.root)) == f"Signer({platform.root.subject.rfc4514_string()})"


def test_a_program_that_is_not_installed_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuing, "_find_module", lambda _name: None)
    with pytest.raises(PlatformError, match="not installed"):
        issuing.load_inventory("coordinator")


def test_a_chain_is_the_tuple_of_its_certificates(platform: SimulatedPlatform) -> None:
    pem = b"".join(one.public_bytes(Encoding.PEM) for one in platform.pck_chain)
    chain = parse_chain(pem)
    assert chain == platform.pck_chain
    assert hash(chain) == hash(tuple(platform.pck_chain)) == hash(chain)
    assert {chain: 1}[platform.pck_chain] == 1
    assert chain != parse_chain(pem + platform.root.public_bytes(Encoding.PEM))


def test_t13_a_chain_with_names_that_the_library_does_not_read_is_refused() -> None:
    der = certificate(new_key(), {NAMES: UNREADABLE_NAMES})
    pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
    with pytest.raises(EvidenceFormatError, match="does not parse: x400Address/EDIPartyName"):
        parse_chain(pem)
