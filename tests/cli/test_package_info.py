"""`tacit package-info PATH`: what the signer of an SGX enclave says of it, from a SIGSTRUCT."""

import hashlib
import json
from pathlib import Path

import pytest

from fakes.command_line import run_main
from fakes.sigstruct import HEADER, Signer
from tacit.errors import EvidenceFormatError, EvidenceSignatureError
from tacit.evidence.sgx.sigstruct import SIZE, find_sigstruct, parse_sigstruct


def test_a_sigstruct_says_what_a_manifest_needs() -> None:
    info = parse_sigstruct(Signer().sign())
    assert (info.unique_id, info.product_id, info.security_version, info.debug) == (b"\xab" * 32, 7, 3, False)
    assert info.signer_id == hashlib.sha256(Signer().modulus).digest()


@pytest.mark.parametrize(
    ("flags", "mask", "debug"), [(4, 2**64 - 1, False), (6, 2**64 - 1, True), (4, 2**64 - 3, True)]
)
def test_debug_is_what_the_signature_allows(flags: int, mask: int, debug: bool) -> None:
    assert parse_sigstruct(Signer(flags=flags, mask=mask).sign()).debug is debug


@pytest.mark.parametrize("at", [16, 40, 130, 520, 905, 928, 944, 960, 1008, 1024, 1026])
def test_one_flipped_bit_is_refused(at: int) -> None:
    raw = bytearray(Signer().sign())
    raw[at] ^= 1
    with pytest.raises((EvidenceSignatureError, EvidenceFormatError)):
        parse_sigstruct(bytes(raw))


@pytest.mark.parametrize("at", [0, 24, 512])
def test_other_headers_and_exponents_are_no_sigstruct(at: int) -> None:
    raw = bytearray(Signer().sign())
    raw[at] ^= 1
    with pytest.raises(EvidenceFormatError):
        parse_sigstruct(bytes(raw))


@pytest.mark.parametrize("size", [0, 1, SIZE - 1, SIZE + 1])
def test_another_size_is_no_sigstruct(size: int) -> None:
    with pytest.raises(EvidenceFormatError, match=f"{size} bytes"):
        parse_sigstruct((Signer().sign() + b"x")[:size])


def test_one_that_is_cut_at_the_end_of_a_file_is_none() -> None:
    for cut in (1, SIZE - 100):
        with pytest.raises(EvidenceFormatError, match="no SIGSTRUCT in it"):
            find_sigstruct(b"before it" * 300 + Signer().sign()[:-cut])


def test_what_nobody_signed_says_nothing() -> None:
    raw = bytearray(Signer(product_id=7, security_version=3).sign())
    raw[1028] = 1
    info = parse_sigstruct(bytes(raw))
    assert (info.product_id, info.security_version) == (7, 3)


def test_it_is_found_inside_an_enclave_behind_what_only_looks_like_one() -> None:
    enclave = b"\x7fELF" + HEADER + bytes(100) + Signer().sign() + bytes(100)
    assert find_sigstruct(enclave).product_id == 7


def test_the_command_prints_the_lines_of_a_package(tmp_path: Path) -> None:
    path = tmp_path / "server.sig"
    path.write_bytes(Signer().sign())
    done = run_main("package-info", path)
    assert done.lines == [
        "TEE:             sgx",
        f"UniqueID:        {'ab' * 32}",
        f"SignerID:        {hashlib.sha256(Signer().modulus).hexdigest()}",
        "ProductID:       7",
        "SecurityVersion: 3",
    ]
    path.write_bytes(Signer(flags=6).sign())
    found = json.loads(run_main("package-info", path, "--output", "json").out)
    assert found["Debug"] is True


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no SIGSTRUCT in it"),
        (b"\x7fELF" + bytes(5000), "no SIGSTRUCT in it"),
        (None, "neither a file nor a program"),
    ],
)
def test_what_has_none_is_refused_in_one_line(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "x.sig"
    if content is not None:
        path.write_bytes(content)
    done = run_main("package-info", path)
    assert done.code == 1
    assert reason in done.err
    assert str(path) in done.err


def test_a_signature_that_does_not_hold_is_refused(tmp_path: Path) -> None:
    raw = bytearray(Signer().sign())
    raw[960] ^= 1
    path = tmp_path / "x.sig"
    path.write_bytes(raw)
    assert "is not signed by the key in it" in run_main("package-info", path).err


def test_the_files_of_a_real_signing_tool_are_read(shared_vectors: Path) -> None:
    folder = shared_vectors / "sigstruct"
    expected = json.loads((folder / "expected.json").read_text())["expected"]
    signed = {name: fields for name, fields in expected.items() if fields["kind"] == "sigstruct"}
    assert len(signed) == 2
    for name, fields in signed.items():
        found = json.loads(run_main("package-info", folder / name, "--output", "json").out)
        assert {
            key: fields[key] for key in ("UniqueID", "SignerID", "ProductID", "SecurityVersion")
        }.items() <= found.items()
        assert found.get("Debug", False) is fields["Debug"]
