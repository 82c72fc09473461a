"""AMD's certificates, read by our own walk: each thing that is looked at, and what happens where it is another."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fakes.tee_kinds import shared_chip
from tacit.errors import CollateralError, UntrustedRootError
from tacit.evidence.anchor.der import BIT_STRING, SEQUENCE, parse_one
from tacit.evidence.snp.certificates import parse_amd_certificate, parse_identity, verify_issued
from tacit.evidence.snp.collateral import parse_amd_collateral, pem, read_chain, render_amd_collateral

CHIP = shared_chip()
KEY = ec.generate_private_key(ec.SECP384R1())
NOW = datetime(2026, 11, 24, tzinfo=UTC)
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ARK-Milan")])


def made(*, ca: bool | None = None, signs: bool | None = None, more: x509.ExtensionType | None = None) -> bytes:
    """A certificate whose extensions are as told; None leaves one out."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(datetime(2060, 1, 2, 3, 4, 5, tzinfo=UTC))
        .add_extension(x509.SubjectKeyIdentifier(b"x"), critical=False)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    if signs is not None:
        others = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
             "decipher_only"), False,
        )  # fmt: skip
        usage = x509.KeyUsage(digital_signature=not signs, key_cert_sign=signs, crl_sign=False, **others)
        builder = builder.add_extension(usage, critical=True)
    if more is not None:
        builder = builder.add_extension(more, critical=True)
    return builder.sign(KEY, SHA384()).public_bytes(Encoding.DER)


@pytest.mark.parametrize("ca", [True, False, None])
@pytest.mark.parametrize("signs", [True, False, None])
def test_a_ca_says_so_in_both_extensions(ca: bool | None, signs: bool | None) -> None:
    assert parse_amd_certificate(made(ca=ca, signs=signs)).is_ca is (ca is True and signs is True)


def test_times_are_read_in_both_forms() -> None:
    found = parse_amd_certificate(made())
    assert (found.begin, found.end) == (NOW, datetime(2060, 1, 2, 3, 4, 5, tzinfo=UTC))
    other = made().replace(b"\x18\x0f20600102030405Z", b"\x16\x0f20600102030405Z")
    with pytest.raises(CollateralError, match="a time of another form"):
        parse_amd_certificate(other)


def test_a_certificate_is_x_509_version_3() -> None:
    for version in (b"\xa0\x03\x02\x01\x01", b"\xa1\x03\x02\x01\x02"):
        with pytest.raises(CollateralError, match="not an X.509 certificate of version 3"):
            parse_amd_certificate(made().replace(b"\xa0\x03\x02\x01\x02", version, 1))


def test_both_of_its_signature_algorithms_are_one() -> None:
    algorithm = bytes.fromhex("06082a8648ce3d040303")  # ECDSA with SHA-384, inside and outside what is signed
    whole = made()
    assert whole.count(algorithm) == 2
    with pytest.raises(CollateralError, match="two signature algorithms"):
        parse_amd_certificate(whole.replace(algorithm, algorithm[:-1] + b"\x02", 1))


def test_a_certificate_has_8_kib_at_most() -> None:
    with pytest.raises(CollateralError, match="8193 bytes; at most 8192 are read"):
        parse_amd_certificate(bytes(8193))
    with pytest.raises(CollateralError) as refused:
        parse_amd_certificate(bytes(8192))
    assert "are read" not in str(refused.value)


def test_a_critical_extension_that_is_not_known_is_refused() -> None:
    with pytest.raises(CollateralError, match="a critical extension that is not known here"):
        parse_amd_certificate(made(more=x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH])))


def test_an_extension_stands_once() -> None:
    key_id, other = bytes.fromhex("0603551d0e"), bytes.fromhex("0603551d0f")
    whole = made(signs=True)
    with pytest.raises(CollateralError, match="an extension that stands twice"):
        parse_amd_certificate(whole.replace(key_id, other, 1))


def tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    head = bytes((size,)) if size < 128 else bytes((0x82, size >> 8, size & 0xFF))
    return bytes((tag,)) + head + content


def test_a_signature_is_whole_bytes() -> None:
    signed, algorithm, signature = parse_one(made()).elements()
    bent = tlv(SEQUENCE, signed.raw + algorithm.raw + tlv(BIT_STRING, b"\x01" + signature.content[1:]))
    with pytest.raises(CollateralError, match="a signature that is not whole bytes"):
        parse_amd_certificate(bent)


def with_fields(change: Callable[[list[bytes]], list[bytes]], whole: bytes | None = None) -> bytes:
    """A certificate whose fields behind the key (unique ids, extensions) are others."""
    tbs, *rest = parse_one(made() if whole is None else whole).elements()
    fields = [one.raw for one in tbs.elements()]
    inner = tlv(SEQUENCE, b"".join([*fields[:7], *change(fields[7:])]))
    return tlv(SEQUENCE, inner + b"".join(one.raw for one in rest))


def test_extensions_are_one_field_and_are_there() -> None:
    whole = parse_amd_certificate(with_fields(lambda fields: fields))
    assert whole.extensions == parse_amd_certificate(made()).extensions
    unique_id = tlv(0xA1, b"\x03\x02\x00\x01")
    assert parse_amd_certificate(with_fields(lambda fields: [unique_id, *fields])).extensions == whole.extensions
    for change in (lambda fields: [], lambda fields: fields * 2, lambda fields: [unique_id]):
        with pytest.raises(CollateralError, match="no extensions"):
            parse_amd_certificate(with_fields(change))


def test_an_unknown_extension_that_says_that_it_is_not_critical_is_taken() -> None:
    whole = made(more=x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]))
    oid = bytes.fromhex("0603551d25")
    assert parse_amd_certificate(whole.replace(oid + b"\1\1\xff", oid + b"\1\1\0", 1)).extension(oid[2:])


def test_a_serial_number_is_read_with_its_sign() -> None:
    serial = b"\xa0\x03\x02\x01\x02\x02\x01"
    for byte, number in ((b"\x01", 1), (b"\x00", 0), (b"\x7f", 127), (b"\xff", -1)):
        assert parse_amd_certificate(made().replace(serial + b"\x01", serial + byte, 1)).serial == number


def test_a_key_that_may_only_encipher_signs_no_certificates() -> None:
    usage, only_enciphers = bytes.fromhex("040403020780"), bytes.fromhex("040403020001")
    whole = made(ca=True, signs=False)
    assert whole.count(usage) == 1
    assert not parse_amd_certificate(whole.replace(usage, only_enciphers)).is_ca


def test_what_is_no_chips_certificate_says_why() -> None:
    for der, message in ((made(ca=True, signs=True), "it is a CA"), (made(), "it names no product")):
        with pytest.raises(CollateralError, match=message):
            parse_identity(parse_amd_certificate(der))


def test_pem_is_as_the_certificate_library_writes_it() -> None:
    whole = made()
    assert pem(whole).encode() == x509.load_der_x509_certificate(whole).public_bytes(Encoding.PEM)


ARK, ASK, VCEK = (parse_amd_certificate(one) for one in (CHIP.ark, CHIP.ask, CHIP.vcek))


def test_a_certificate_is_issued_by_name_by_a_ca_and_by_signature() -> None:
    for one, issuer in ((ARK, ARK), (ASK, ARK), (VCEK, ASK)):
        verify_issued(one, issuer)
    with pytest.raises(UntrustedRootError, match="its issuer is not 'ARK-Milan'"):
        verify_issued(VCEK, ARK)
    with pytest.raises(UntrustedRootError, match="its issuer is not"):
        verify_issued(ARK, ASK)


def test_an_issuer_that_is_no_ca_or_signs_otherwise_is_refused() -> None:
    plain = parse_amd_certificate(made(ca=False, signs=False))
    with pytest.raises(UntrustedRootError, match="'ARK-Milan' is no CA"):
        verify_issued(plain, plain)
    elliptic = parse_amd_certificate(made(ca=True, signs=True))
    with pytest.raises(UntrustedRootError, match="not signed with RSA-PSS by a key of 4096 bits"):
        verify_issued(elliptic, elliptic)
    short = rsa.generate_private_key(65537, 2048).public_key()
    spki = short.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for one, issuer in (
        (ASK, replace(ARK, key_der=spki)),
        (ASK, replace(ARK, key_der=elliptic.key_der)),
        (replace(ASK, algorithm=bytes.fromhex("2a864886f70d01010c")), ARK),
    ):
        with pytest.raises(UntrustedRootError, match="not signed with RSA-PSS by a key of 4096 bits"):
            verify_issued(one, issuer)
    with pytest.raises(CollateralError, match="has a key that cannot be used"):
        verify_issued(ASK, replace(ARK, key_der=b"no key"))


# ---- the file that they come in


def in_file(**changes: object) -> dict[str, object]:
    return json.loads(render_amd_collateral(CHIP.collateral)) | changes  # type: ignore[no-any-return]


def test_a_collateral_file_of_amds_is_read_as_it_was_written() -> None:
    assert parse_amd_collateral(in_file()) == CHIP.collateral
    assert render_amd_collateral(CHIP.collateral).startswith(b'{\n "leaf"')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"more": ""}, "the fields more are missing or unknown"),
        ({"crl": 7}, "leaf, issuer_chain, crl are strings"),
        ({"leaf": "0g"}, "leaf and crl are hex"),
        ({"crl": "00" * (512 * 1024 + 1)}, "a crl of 524289 bytes; at most 524288 are read"),
    ],
)
def test_a_collateral_file_of_another_form_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(CollateralError, match=message):
        parse_amd_collateral(in_file(**change))


def test_a_list_of_512_kib_is_read() -> None:
    assert len(parse_amd_collateral(in_file(crl="00" * 512 * 1024)).crl) == 512 * 1024


def test_a_chain_is_two_blocks_of_pem_whose_lines_may_end_as_they_like() -> None:
    chain = CHIP.collateral.issuer_chain
    leaf, intermediate, root = read_chain(replace(CHIP.collateral, issuer_chain=chain.replace("\n", "\r\n")))
    assert (leaf.raw, intermediate.raw, root.raw) == (CHIP.vcek, CHIP.ask, CHIP.ark)
    for bad in (chain + chain, chain[: len(chain) // 2], "x" + chain, chain + "x"):
        with pytest.raises(CollateralError, match="two PEM certificates and nothing else"):
            read_chain(replace(CHIP.collateral, issuer_chain=bad))
    begin = "-----BEGIN CERTIFICATE-----\n"
    for cut in ("=", "A==="):
        with pytest.raises(CollateralError, match="AMD's chain is not PEM"):
            read_chain(replace(CHIP.collateral, issuer_chain=chain.replace(begin, begin + cut, 1)))
