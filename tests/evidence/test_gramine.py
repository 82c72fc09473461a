"""An enclave in Gramine: what is read and written in `/dev/attestation`, in which order, and what is never believed."""

import errno
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from fakes.machine import ATTESTATION, DATA, QUOTE, FakeGramine
from fakes.makers import Maker, shared_maker
from fakes.tee import NOW
from fakes.tee_kinds import td_quote
from tacit.errors import InputError, TeeError, UntrustedRootError
from tacit.evidence import Role, Tee, TrustAnchor, report_data, verify_binding, verify_evidence
from tacit.evidence.anchor import INTEL
from tacit.evidence.issue.gramine import GramineEnclave, require_quotes
from tacit.evidence.simulated.quote import Enclave, issue_quote
from tacit.evidence.verify.envelope import unwrap

ENCLAVE = Enclave(b"\x11" * 32, b"\x22" * 32, 7, 3)
BOUND = report_data(role=Role.MARBLE, key=b"a certificate")


@pytest.fixture
def maker() -> Maker:
    return shared_maker()


@pytest.fixture
def gramine(maker: Maker) -> FakeGramine:
    return FakeGramine(lambda data: issue_quote(ENCLAVE, data, keys=maker.quoting_keys))


def test_evidence_is_a_quote_over_the_report_data_in_open_enclave_s_envelope(
    gramine: FakeGramine, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tee = GramineEnclave(gramine)
    evidence = tee.issue_evidence(BOUND)
    assert unwrap(evidence) != evidence
    maker.pin(monkeypatch)
    anchor = TrustAnchor(Tee.SGX, "a test's Intel", maker.root_der)
    claims = verify_binding(
        verify_evidence(evidence, maker.collateral(now=NOW), anchor, now=NOW), role=Role.MARBLE, key=b"a certificate"
    )
    assert (claims.tee, claims.measurement, claims.signer) == (tee.tee, ENCLAVE.measurement, ENCLAVE.signer)
    assert (claims.product_id, claims.security_version, claims.debug) == (7, 3, False)


def test_t07_a_quote_of_another_intel_proves_nothing_to_intel_s_root(gramine: FakeGramine, maker: Maker) -> None:
    evidence = GramineEnclave(gramine).issue_evidence(BOUND)
    with pytest.raises(UntrustedRootError):
        verify_evidence(evidence, maker.collateral(now=NOW), INTEL, now=NOW)


def test_report_data_is_one_write_and_the_quote_is_read_after_it(gramine: FakeGramine) -> None:
    GramineEnclave(gramine).issue_evidence(BOUND)
    assert gramine.calls == [("write", str(DATA)), ("read", str(QUOTE))]


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_t04_report_data_of_another_size_never_reaches_gramine(gramine: FakeGramine, size: int) -> None:
    with pytest.raises(InputError, match="64 bytes"):
        GramineEnclave(gramine).issue_evidence(bytes(size))
    assert not gramine.calls


def test_a_write_that_was_cut_makes_no_evidence(gramine: FakeGramine) -> None:
    gramine.short[DATA] = 32
    with pytest.raises(TeeError, match="took 32 of 64 bytes"):
        GramineEnclave(gramine).issue_evidence(BOUND)
    assert ("read", str(QUOTE)) not in gramine.calls


def test_t04_a_quote_over_what_somebody_else_wrote_is_not_used(gramine: FakeGramine) -> None:
    def other() -> None:
        gramine.report_data = bytes(64)

    gramine.between = other
    with pytest.raises(TeeError, match="other report data"):
        GramineEnclave(gramine).issue_evidence(BOUND)


def test_two_threads_get_each_their_own_quote(gramine: FakeGramine) -> None:
    tee, wrong = GramineEnclave(gramine), []
    other = GramineEnclave(gramine)  # one lock for the process: the buffers are the process's

    def ask(number: int) -> None:
        data = bytes((number,)) * 64
        for one in (tee, other):
            if data not in one.issue_evidence(data):
                wrong.append(number)

    threads = [Thread(target=ask, args=(number,)) for number in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong
    assert [call for call, _ in gramine.calls] == ["write", "read"] * 16


@pytest.mark.parametrize(
    ("path", "number", "match"),
    [
        (DATA, errno.EACCES, "no quote from /dev/attestation/user_report_data: Permission denied"),
        (QUOTE, errno.ENOENT, "no quote from /dev/attestation/quote: No such file"),
        (QUOTE, errno.EACCES, "Is aesmd running"),
    ],
)
def test_gramine_s_refusals_say_where_to_look(gramine: FakeGramine, path: Path, number: int, match: str) -> None:
    gramine.faults[path] = number
    with pytest.raises(TeeError, match=match):
        GramineEnclave(gramine).issue_evidence(BOUND)


@pytest.mark.parametrize(
    "quote",
    [lambda _: b"", lambda _: b"\3\0\2\0" + bytes(900), lambda _: bytes(64 << 10), lambda data: td_quote(data=data)],
    ids=["empty", "nonsense", "too large", "of a TD"],
)
def test_t13_what_is_no_quote_of_an_enclave_is_not_sent(quote: Callable[[bytes], bytes]) -> None:
    with pytest.raises(TeeError):
        GramineEnclave(FakeGramine(quote)).issue_evidence(BOUND)


def test_an_enclave_without_quotes_is_told_what_its_manifest_lacks(gramine: FakeGramine) -> None:
    require_quotes(gramine)
    gramine.kind = "none"
    with pytest.raises(TeeError, match='sgx.remote_attestation = "dcap"'):
        require_quotes(gramine)
    gramine.faults[ATTESTATION / "attestation_type"] = errno.EACCES
    with pytest.raises(TeeError, match="cannot be read"):
        require_quotes(gramine)


# ---- sealing


def seal_keys(gramine: FakeGramine) -> set[bytes]:
    tee = GramineEnclave(gramine)
    return {tee.derive_seal_key(bound_to="signer"), tee.derive_seal_key(bound_to="measurement")}


def test_seal_keys_come_from_the_cpu_and_are_the_same_at_every_start(maker: Maker) -> None:
    first, second = (FakeGramine(lambda data: data) for _ in range(2))
    assert seal_keys(first) == seal_keys(second)
    assert {len(key) for key in seal_keys(first)} == {32}
    assert not any(raw in key for key in seal_keys(first) for raw in first.keys.values())


def test_t26_another_program_or_cpu_gets_other_seal_keys() -> None:
    own = GramineEnclave(FakeGramine(lambda data: data))
    changed = GramineEnclave(FakeGramine(lambda data: data, measurement=b"\x99" * 32))
    assert own.derive_seal_key(bound_to="signer") == changed.derive_seal_key(bound_to="signer")
    assert own.derive_seal_key(bound_to="measurement") != changed.derive_seal_key(bound_to="measurement")
    assert not seal_keys(FakeGramine(lambda data: data)) & seal_keys(FakeGramine(lambda data: data, seal=b"other"))


@pytest.mark.parametrize("content", [b"", bytes(15), bytes(16), bytes(17)], ids=["empty", "short", "zeros", "long"])
def test_a_seal_key_that_is_none_seals_nothing(content: bytes) -> None:
    gramine = FakeGramine(lambda data: data)
    gramine.keys = dict.fromkeys(gramine.keys, content)
    with pytest.raises(TeeError, match="no sealing key"):
        GramineEnclave(gramine).derive_seal_key(bound_to="signer")


def test_gramine_outside_sgx_has_no_seal_key() -> None:
    gramine = FakeGramine(lambda data: data)
    gramine.keys = {}
    with pytest.raises(TeeError, match="needs Gramine in SGX"):
        GramineEnclave(gramine).derive_seal_key(bound_to="measurement")
