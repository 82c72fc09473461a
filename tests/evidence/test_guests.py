"""Confidential virtual machines: the kernel's reports and its older devices, their rules kept and their faults refused."""

import errno
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from fakes.machine import SNP_DEVICE, TDX_DEVICE, TSM, FakeMachine, FakeSnpDevice, FakeTdxDevice, FakeTsm
from fakes.tee_kinds import snp_report, td_quote
from tacit.errors import InputError, TeeError
from tacit.evidence import Role, Tee, report_data
from tacit.evidence.issue import find_tee, load_tee
from tacit.evidence.issue.guests import SnpGuest, TdxGuest
from tacit.evidence.issue.tsm import fetch_report

BOUND = report_data(role=Role.COORDINATOR, key=b"a certificate", nonce=b"n")
TABLE = b"certificates of the host"
ENTRY = TSM / "tacit-0"


def names() -> Callable[[], str]:
    numbers = count()
    return lambda: f"tacit-{next(numbers)}"


def quote(data: bytes) -> bytes:
    return td_quote(data=data)


def report(data: bytes) -> bytes:
    return snp_report(data=data)


def td_tsm() -> FakeTsm:
    return FakeTsm("tdx_guest", quote)


def snp_tsm(floor: int = 0) -> FakeTsm:
    return FakeTsm("sev_guest", report, floor=floor, certificates=TABLE)


def refuse_to_wait(seconds: float) -> None:
    raise AssertionError(f"waited {seconds} s")


MACHINES: dict[str, tuple[Callable[[], FakeMachine], Tee, Callable[[bytes], bytes]]] = {
    "TDX by the kernel's reports": (td_tsm, Tee.TDX, quote),
    "TDX by its device": (lambda: FakeTdxDevice(quote), Tee.TDX, quote),
    "TDX with ids before the quote": (lambda: FakeTdxDevice(quote, extra=b"an id of 16 byt"), Tee.TDX, quote),
    "SNP by the kernel's reports": (snp_tsm, Tee.SNP, report),
    "SNP by its device": (lambda: FakeSnpDevice(report, certificates=TABLE), Tee.SNP, report),
}


@pytest.mark.parametrize("name", list(MACHINES))
def test_evidence_is_what_the_kernel_gives_for_this_report_data(name: str) -> None:
    make, tee, made_by = MACHINES[name]
    machine = make()
    assert find_tee(machine, names()) is tee
    issuer = load_tee(machine, names(), tee=tee)
    assert issuer.tee is tee
    evidence = issuer.issue_evidence(BOUND)
    assert BOUND in evidence
    assert len(evidence) == len(made_by(BOUND))
    assert issuer.issue_evidence(bytes(64)) != evidence


@pytest.mark.parametrize("name", list(MACHINES))
@pytest.mark.parametrize("size", [0, 63, 65])
def test_t04_report_data_of_another_size_never_reaches_the_kernel(name: str, size: int) -> None:
    make, tee, _ = MACHINES[name]
    machine = make()
    with pytest.raises(InputError, match="64 bytes"):
        load_tee(machine, names(), tee=tee).issue_evidence(bytes(size))
    assert not machine.calls


@pytest.mark.parametrize("name", list(MACHINES))
def test_t04_evidence_over_other_report_data_is_not_used(name: str) -> None:
    make, tee, made_by = MACHINES[name]
    machine = make()
    other = "quote" if isinstance(machine, FakeTdxDevice) else "report"
    setattr(machine, other, lambda _: made_by(bytes(64)))
    with pytest.raises(TeeError, match="other report data"):
        load_tee(machine, names(), tee=tee).issue_evidence(BOUND)


@pytest.mark.parametrize("name", list(MACHINES))
@pytest.mark.parametrize("content", [b"", b"nonsense", bytes(1184)], ids=["empty", "nonsense", "zeros"])
def test_t13_what_is_no_evidence_is_not_sent(name: str, content: bytes) -> None:
    make, tee, _ = MACHINES[name]
    machine = make()
    setattr(machine, "quote" if isinstance(machine, FakeTdxDevice) else "report", lambda _: content)
    with pytest.raises(TeeError):
        load_tee(machine, names(), tee=tee).issue_evidence(BOUND)


# ---- the kernel's reports


def test_each_report_is_a_request_of_its_own_and_is_taken_away() -> None:
    machine = td_tsm()
    guest = TdxGuest(machine, names())
    guest.issue_evidence(BOUND)
    guest.issue_evidence(BOUND)
    made = [path for call, path in machine.calls if call == "mkdir"]
    assert made == [str(TSM / "tacit-0"), str(TSM / "tacit-1")]
    assert not machine.entries
    order = [(call, Path(path).name) for call, path in machine.calls[: len(machine.calls) // 2]]
    assert order == [
        ("mkdir", "tacit-0"), ("read", "provider"), ("read", "generation"), ("write", "inblob"), ("read", "outblob"),
        ("read", "generation"), ("rmdir", "tacit-0"),
    ]  # fmt: skip


@pytest.mark.parametrize("floor", [0, 2])
def test_a_guest_speaks_for_its_own_level(floor: int) -> None:
    machine = snp_tsm(floor)
    SnpGuest(machine, names()).issue_evidence(BOUND)
    assert machine.levels == [floor]


def test_certificates_of_the_host_come_with_the_report() -> None:
    found = fetch_report(snp_tsm(), BOUND, name="tacit-0", sleep=refuse_to_wait)
    assert (found.provider, found.auxblob) == ("sev_guest", TABLE)
    assert fetch_report(td_tsm(), BOUND, name="tacit-0", sleep=refuse_to_wait).auxblob == b""


def test_another_writer_between_spoils_the_report() -> None:
    machine = td_tsm()
    machine.between = machine.count
    with pytest.raises(TeeError, match="written 2 times while this program wrote 1 times"):
        TdxGuest(machine, names()).issue_evidence(BOUND)
    assert not machine.entries


def test_a_value_that_the_kernel_refused_in_silence_is_noticed() -> None:
    machine = td_tsm()
    machine.ignores_inblob = True
    with pytest.raises(TeeError, match="Invalid argument"):
        TdxGuest(machine, names()).issue_evidence(BOUND)
    stale = td_tsm()

    def refuse(path: Path, content: bytes) -> None:
        stale.entries[path.parent]["inblob"] = bytes(64)  # what was there; the new value was not taken

    stale.take = refuse  # type: ignore[method-assign]
    with pytest.raises(TeeError, match="written 0 times while this program wrote 1 times"):
        TdxGuest(stale, names()).issue_evidence(BOUND)


@pytest.mark.parametrize("busy", [1, 4])
def test_a_busy_quoting_service_is_waited_for(busy: int) -> None:
    machine, waited = td_tsm(), list[float]()
    machine.busy = busy
    assert BOUND in TdxGuest(machine, names(), sleep=waited.append).issue_evidence(BOUND)
    assert waited == [0.2, 0.4, 0.8, 1.6][:busy]
    assert not machine.entries


def test_one_that_stays_busy_is_given_up() -> None:
    machine, waited = td_tsm(), list[float]()
    machine.busy = 5
    with pytest.raises(TeeError, match="Device or resource busy"):
        TdxGuest(machine, names(), sleep=waited.append).issue_evidence(BOUND)
    assert len(waited) == 4
    assert not machine.entries


@pytest.mark.parametrize(
    ("path", "number", "match"),
    [
        (ENTRY, errno.EACCES, "Permission denied; run this program as root"),
        (ENTRY, errno.ENOENT, "No such file"),
        (ENTRY / "inblob", errno.EPERM, "as root"),
        (ENTRY / "outblob", errno.EIO, "Input/output error; dmesg has the kernel's reason"),
        (ENTRY / "outblob", errno.EINVAL, "Invalid argument"),
        (ENTRY / "generation", errno.EIO, "Input/output error"),
        (ENTRY / "provider", errno.EIO, "Input/output error"),
    ],
)
def test_the_kernel_s_refusals_say_where_to_look(path: Path, number: int, match: str) -> None:
    machine = td_tsm()
    machine.faults[path] = number
    # What will not pass is not tried again.
    with pytest.raises(TeeError, match=match):
        TdxGuest(machine, names(), sleep=refuse_to_wait).issue_evidence(BOUND)


def test_a_request_that_cannot_be_taken_away_spoils_nothing() -> None:
    machine = td_tsm()
    machine.faults = {}
    remove = machine.remove_folder

    def busy(path: Path) -> None:
        remove(path)
        raise OSError(errno.EBUSY, "busy")

    machine.remove_folder = busy  # type: ignore[method-assign]
    assert BOUND in TdxGuest(machine, names()).issue_evidence(BOUND)


def test_a_write_that_was_cut_makes_no_report() -> None:
    machine = td_tsm()
    machine.short[ENTRY / "inblob"] = 32
    with pytest.raises(TeeError, match="took 32 of 64 bytes"):
        TdxGuest(machine, names()).issue_evidence(BOUND)


def test_a_generation_that_is_no_number_is_told() -> None:
    machine = snp_tsm()
    machine.floor = "zero"  # type: ignore[assignment]
    with pytest.raises(TeeError, match="'zero', expected a number"):
        SnpGuest(machine, names()).issue_evidence(BOUND)


@pytest.mark.parametrize(("provider", "guest"), [("sev_guest", TdxGuest), ("tdx_guest", SnpGuest), ("x", TdxGuest)])
def test_reports_of_another_provider_are_not_used(provider: str, guest: type[TdxGuest] | type[SnpGuest]) -> None:
    with pytest.raises(TeeError, match="reports come from"):
        guest(FakeTsm(provider, quote), names()).issue_evidence(BOUND)


# ---- which TEE


def test_the_provider_says_the_kind_where_there_is_no_device() -> None:
    assert find_tee(td_tsm(), names()) is Tee.TDX
    machine = snp_tsm()
    assert find_tee(machine, names()) is Tee.SNP
    assert not machine.entries
    assert find_tee(FakeTsm(None, quote), names()) is None


def test_t07_a_confidential_guest_of_an_unknown_kind_is_no_plain_machine() -> None:
    with pytest.raises(TeeError, match="'arm_cca_guest'"):
        find_tee(FakeTsm("arm_cca_guest", quote), names())


@pytest.mark.parametrize("path", [ENTRY, ENTRY / "provider"])
def test_t07_a_kernel_that_will_not_say_is_no_plain_machine(path: Path) -> None:
    machine = td_tsm()
    machine.faults[path] = errno.EACCES
    with pytest.raises(TeeError, match="as root"):
        find_tee(machine, names())


# ---- the older devices


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda answer: answer[:20], "20 bytes, which is no message"),
        (lambda answer: b"\2\0" + answer[2:], "of version 2"),
        (lambda answer: answer + b"\0", "answers with message"),
        (lambda answer: answer[:4] + b"\3" + answer[5:], "message 3"),
        (lambda answer: answer[:20] + b"\xff\xff\xff\xff" + answer[24:], "promises a quote"),
        (lambda answer: answer[:16] + b"\xff\xff\xff\xff" + answer[20:], "promises a quote"),
        (lambda answer: bytes(64 << 10), "does not answer"),
    ],
)
def test_t13_an_answer_of_the_host_that_does_not_fit_is_refused(change: Callable[[bytes], bytes], match: str) -> None:
    machine = FakeTdxDevice(quote)
    machine.change = change
    with pytest.raises(TeeError, match=match):
        TdxGuest(machine, names()).issue_evidence(BOUND)


def test_a_quoting_service_that_refuses_or_is_not_there_is_told() -> None:
    with pytest.raises(TeeError, match="refuses with error 0x11001"):
        TdxGuest(FakeTdxDevice(quote, error=0x11001), names()).issue_evidence(BOUND)
    machine = FakeTdxDevice(quote)
    machine.answers = False
    with pytest.raises(TeeError, match="vsock port 4050: Connection refused; is qgsd running"):
        TdxGuest(machine, names()).issue_evidence(BOUND)
    machine.faults[TDX_DEVICE] = errno.EIO
    with pytest.raises(TeeError, match="gives no report: Input/output error"):
        TdxGuest(machine, names()).issue_evidence(BOUND)


def test_a_table_of_certificates_that_does_not_fit_is_gone_without() -> None:
    machine = FakeSnpDevice(report)
    machine.needed = 0x8000
    assert BOUND in SnpGuest(machine, names()).issue_evidence(BOUND)
    assert len(machine.calls) == 2


def test_an_snp_device_that_refuses_is_told() -> None:
    machine = FakeSnpDevice(report)
    machine.errors = 0x2_0000_0001
    with pytest.raises(TeeError, match="error 0x200000001"):
        SnpGuest(machine, names()).issue_evidence(BOUND)
    machine.errors, machine.status = 0, 0x16
    with pytest.raises(TeeError, match="status 0x16"):
        SnpGuest(machine, names()).issue_evidence(BOUND)
    machine.faults[SNP_DEVICE] = errno.EACCES
    with pytest.raises(TeeError, match="as root"):
        SnpGuest(machine, names()).issue_evidence(BOUND)


# ---- sealing


def test_a_trust_domain_has_no_key_for_sealing() -> None:
    guest = TdxGuest(td_tsm(), names())
    assert guest.derive_seal_key(bound_to="signer") is None
    assert guest.derive_seal_key(bound_to="measurement") is None


def test_an_snp_guest_seals_by_the_chip_s_key_for_its_policy_and_measurement() -> None:
    machine = FakeSnpDevice(report)
    first = SnpGuest(machine, names()).derive_seal_key(bound_to="measurement")
    assert first == SnpGuest(FakeSnpDevice(report), names()).derive_seal_key(bound_to="signer")
    assert first is not None
    assert len(first) == 32
    assert machine.fields == [0b1111], "policy, image id, family id and measurement"
    assert first != SnpGuest(FakeSnpDevice(report, seal=b"other"), names()).derive_seal_key(bound_to="signer")
    assert SnpGuest(snp_tsm(), names()).derive_seal_key(bound_to="signer") is None
    machine.status = 0x16
    with pytest.raises(TeeError, match="no key: status 0x16"):
        SnpGuest(machine, names()).derive_seal_key(bound_to="signer")
