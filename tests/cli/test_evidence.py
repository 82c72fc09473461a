"""`tacit evidence` and `tacit package-info` on recorded evidence, on simulated coordinators, and on nonsense."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fakes.command_line import run_main
from fakes.coordinator import FakeCoordinator
from fakes.evidence_vectors import OWN, own
from fakes.pccs import pccs
from fakes.tee import FakeTee
from fakes.tls_server import Server, running, server_leaf
from tacit.edge import HttpRequest, HttpResponse
from tacit.evidence import Role, report_data
from tacit.evidence.fetch.keep import parse_bundle
from tacit.evidence.simulated.platform import render_platform
from tacit.evidence.verify.binding import CHANNEL_BINDING
from tacit.manifest.codec import parse_package
from tacit.programs.model_server.evidence import AttestedRest
from tacit.wire.evidence import EVIDENCE_PATH, ServerEvidence

FOLDERS = sorted(folder for folder in OWN.iterdir() if folder.is_dir())
GCE = OWN / "v4-gce-cos113-uptodate"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TACIT_PLATFORM", str(tmp_path / "platform"))
    return tmp_path


@pytest.fixture
def coordinator(home: Path) -> Iterator[FakeCoordinator]:
    tee = FakeTee()
    (home / "platform").mkdir()
    (home / "platform" / "platform.json").write_bytes(render_platform(tee.platform.public()))
    with FakeCoordinator(tee=tee) as one:
        yield one


def file_of(folder: Path) -> Path:
    return next(folder / name for name in ("quote.bin", "report.bin") if (folder / name).exists())


def recorded(folder: Path, *words: object) -> list[object]:
    moment = json.loads((folder / "expect.json").read_text())["verify_at"]
    return [file_of(folder), "--at", moment, "--collateral", folder / "collateral.json", *words]


def read(*words: object) -> Any:
    done = run_main("evidence", *words, "--output", "json")
    assert done.code == 0, done.err
    return json.loads(done.out)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_recorded_evidence_is_shown_and_never_called_verified(folder: Path) -> None:
    expect = json.loads((folder / "expect.json").read_text())
    found = read("show", file_of(folder))
    assert found["Verified"] is False
    assert expect["measurement"] in found.values()
    assert (found["Debug"], found["Layout"].split()[0]) == (expect["debug"], expect["tee"])
    out = run_main("evidence", "show", file_of(folder)).out
    assert "Nothing was verified" in out
    assert "SIMULATED" not in out


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_recorded_evidence_is_verified_with_every_check_listed(folder: Path) -> None:
    expect = json.loads((folder / "expect.json").read_text())
    found = read("verify", *recorded(folder))
    claims = found["Claims"]
    assert claims["TCBStatus"] == expect.get("tcb_status", "NotRated")
    assert claims["HardwareID"] == expect["hardware_id"]
    open_ones = [one["Number"] for one in found["Checks"] if not one["Made"]]
    assert open_ones == (["A6", "B1", "B2"] if expect["tee"] == "snp" else ["B1", "B2"])
    assert all(bool(one["InputSHA256"]) is one["Made"] for one in found["Checks"])


def test_t63_a_check_that_was_not_made_is_said_so() -> None:
    out = run_main("evidence", "verify", *recorded(GCE)).out
    assert "NOT MADE  B1" in out
    assert "NOT MADE  B2" in out
    assert "not checked in full" in out
    assert out.count("made      I") == 13


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_what_would_allow_it_reads_as_a_package_that_does(folder: Path, tmp_path: Path) -> None:
    found = read("explain", *recorded(folder))
    (tmp_path / "package.json").write_text(json.dumps(found["Package"]))
    assert parse_package((tmp_path / "package.json").read_bytes()).tee == found["Package"]["TEE"]
    rules = read("explain", *recorded(folder), "--package", tmp_path / "package.json")["Packages"]
    refused = {one["Rule"] for (only,) in [rules.values()] for one in only if one["Refusal"]}
    # A file's evidence is bound to nothing that is known here, and no line of a package makes up for that.
    assert refused == {2}


def test_t08_a_debug_enclave_is_explained_by_the_line_that_allows_it(tmp_path: Path) -> None:
    folder = OWN / "v3-occlum-debug"
    manifest = {"Packages": {"mine": {"UniqueID": "ab" * 32}}, "Marbles": {"m": {"Package": "mine"}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    out = run_main("evidence", "explain", *recorded(folder, "--manifest", tmp_path / "manifest.json")).out
    assert "Package mine: refuses" in out
    assert '"Debug": true' in out
    assert "this is a debug enclave" in out


def test_a_running_coordinator_is_asked_with_a_fresh_nonce(coordinator: FakeCoordinator) -> None:
    found = read("verify", coordinator.host, "--tee", "simulated")
    assert all(one["Made"] for one in found["Checks"])
    assert len(coordinator.requests[0][1]) > len("/api/v2/quote?nonce=") + 40
    out = run_main("evidence", "verify", coordinator.host, "--tee", "simulated").out
    assert "SIMULATED: this proves nothing" in out
    shown = read("show", coordinator.host)
    assert (shown["Verified"], shown["Simulated"]) == (False, True)
    assert "SIMULATED, as its certificates say" in run_main("evidence", "show", coordinator.host).out
    rules = read("explain", coordinator.host, "--tee", "simulated")
    assert rules["Package"]["UniqueID"] == FakeTee().enclave.measurement.hex()


def test_a_running_model_server_is_asked_on_its_rest_port(coordinator: FakeCoordinator) -> None:
    assert coordinator.intermediate is not None
    tee = FakeTee(measurement=b"\x22" * 32, product_id=2)
    with running(Server(server_leaf(coordinator.intermediate))) as server:

        async def models(request: HttpRequest) -> HttpResponse:
            return HttpResponse(404, b'{"error": "no such path"}')

        server.http = AttestedRest(models, tee, lambda: server.shown.certificate_der).handle  # type: ignore[method-assign]
        found = read("verify", server.address, "--tee", "simulated")
        assert {one["Number"] for one in found["Checks"] if one["Made"]} >= {"B1", "B2"}
        said = run_main("evidence", "verify", server.address, "--tee", "simulated").out
        assert f"Bound to the certificate of {server.address}, and to the connection" in said
        package = json.loads(run_main("package-info", server.address, "--output", "json").out)
        assert (package["UniqueID"], package["ProductID"]) == ("22" * 32, 2)
        server.http = models  # type: ignore[method-assign]
        done = run_main("package-info", server.address)
        assert (done.code, "--attest_connections" in done.err) == (1, True)


def test_t02_evidence_passed_on_from_another_connection_is_refused(coordinator: FakeCoordinator) -> None:
    assert coordinator.intermediate is not None
    tee = FakeTee()
    with running(Server(server_leaf(coordinator.intermediate))) as server:

        async def passed_on(request: HttpRequest) -> HttpResponse:
            if request.path != EVIDENCE_PATH:
                return HttpResponse(404, b'{"error": "no such path"}')
            nonce = bytes.fromhex(request.query.removeprefix("nonce="))
            data = report_data(role=Role.MARBLE, key=server.shown.certificate_der, nonce=nonce, channel=bytes(32))
            return HttpResponse(200, msgspec.json.encode(ServerEvidence(tee.issue_evidence(data), CHANNEL_BINDING)))

        server.http = passed_on  # type: ignore[method-assign]
        done = run_main("evidence", "verify", server.address, "--tee", "simulated")
        assert (done.code, "(step B2" in done.err) == (1, True)


def test_a_coordinator_that_binds_no_connection_shows_that_check_as_not_made(coordinator: FakeCoordinator) -> None:
    coordinator.only_key_bound = True
    found = read("verify", coordinator.host, "--tee", "simulated")
    assert [one["Number"] for one in found["Checks"] if not one["Made"]] == ["B2"]
    assert "NOT MADE  B2" in run_main("evidence", "verify", coordinator.host, "--tee", "simulated").out


def test_t07_simulated_evidence_is_not_verified_unless_it_is_named(coordinator: FakeCoordinator) -> None:
    done = run_main("evidence", "verify", coordinator.host)
    assert done.code == 1
    assert "SIMULATED" in done.err
    done = run_main("evidence", "verify", *recorded(GCE, "--tee", "simulated"))
    assert done.code == 1


def test_t01_old_evidence_of_a_coordinator_is_refused(coordinator: FakeCoordinator) -> None:
    coordinator.evidence = FakeTee().issue_evidence(bytes(64))
    done = run_main("evidence", "verify", coordinator.host, "--tee", "simulated")
    assert done.code == 1
    assert "(step B1" in done.err


@pytest.mark.parametrize("verb", ["show", "verify", "explain"])
def test_what_is_no_evidence_is_said_so(verb: str, tmp_path: Path) -> None:
    (tmp_path / "nonsense").write_bytes(b"not a quote")
    assert run_main("evidence", verb, tmp_path / "nonsense").code == 1
    assert run_main("evidence", verb, tmp_path / "nowhere").code == 2


def test_evidence_as_hexadecimal_text_is_read(tmp_path: Path) -> None:
    (tmp_path / "quote.hex").write_text(file_of(GCE).read_bytes().hex() + "\n")
    assert read("show", tmp_path / "quote.hex") == read("show", file_of(GCE))


def test_a_bundle_is_written_and_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tacit.cli.platform.gather as module

    first, second = own(OWN / "v3-phala-confighw"), own(GCE)
    bundle = tmp_path / "bundle.json"
    for case, folder in ((first, "v3-phala-confighw"), (second, GCE.name)):

        class Then:
            now = staticmethod(lambda zone, moment=case.now: moment)

        with pccs(case.read()) as service, monkeypatch.context() as patched:
            patched.setattr(module, "datetime", Then)
            done = run_main("evidence", "bundle", bundle, file_of(OWN / folder), "--collateral", service.url)
        assert done.code == 0, done.err
    assert len(parse_bundle(bundle.read_bytes())) == 2
    found = read("verify", file_of(GCE), "--at", second.now.isoformat(), "--collateral", bundle)
    assert found["Claims"]["TCBStatus"] == "UpToDate"


def test_a_bundle_of_what_does_not_verify_is_not_written(tmp_path: Path) -> None:
    done = run_main("evidence", "bundle", tmp_path / "b.json", file_of(GCE), "--collateral", GCE / "collateral.json")
    assert done.code == 1
    assert "expired" in done.err
    assert not (tmp_path / "b.json").exists()


# ---- package-info


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_package_is_read_out_of_evidence(folder: Path) -> None:
    expect = json.loads((folder / "expect.json").read_text())
    done = run_main("package-info", file_of(folder), "--output", "json")
    found = json.loads(done.out)
    assert "nothing of it was verified" in done.err
    package = parse_package(done.out.encode())
    assert (package.tee, package.debug) == (expect["tee"], expect["debug"])
    assert expect["measurement"] in (found.get("UniqueID"), *found.get("Measurements", {}).values())


def test_a_package_is_asked_of_a_running_coordinator(coordinator: FakeCoordinator) -> None:
    found = json.loads(run_main("package-info", coordinator.host, "--output", "json").out)
    tee = FakeTee()
    assert (found["TEE"], found["UniqueID"]) == ("simulated", tee.enclave.measurement.hex())


def firmware(*, reset: int = 0x80B004) -> bytes:
    """The smallest firmware with the two tables that SEV-SNP asks for."""

    def entry(guid: str, data: bytes) -> bytes:
        return data + (len(data) + 18).to_bytes(2, "little") + uuid.UUID(guid).bytes_le

    sections = [(0x800000, 0x9000, 1), (0x80D000, 0x1000, 2), (0x80E000, 0x1000, 3)]
    described = b"".join(value.to_bytes(4, "little") for one in sections for value in one)
    metadata = b"ASEV" + b"".join(value.to_bytes(4, "little") for value in (16 + len(described), 1, 3)) + described
    table = entry("dc886566-984a-4798-a75e-5585a7bf67cc", (1024).to_bytes(4, "little"))
    table += entry("00f771de-1a7e-4fcb-890e-68c77e2fb44e", reset.to_bytes(4, "little"))
    table += (len(table) + 18).to_bytes(2, "little") + uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
    content = bytearray(8192)
    content[-1024 : -1024 + len(metadata)] = metadata
    content[-32 - len(table) : -32] = table
    return bytes(content)


def test_the_measurement_of_a_guest_is_computed_from_its_firmware(tmp_path: Path) -> None:
    from sevsnpmeasure.guest import snp_calc_launch_digest
    from sevsnpmeasure.vcpu_types import CPU_SIGS

    file = tmp_path / "OVMF.fd"
    file.write_bytes(firmware())
    words = ("snp-measure", file, "--output", "json", "--vcpus")
    for vcpus, line, model in ((1, "milan", "EPYC-Milan"), (4, "genoa", "EPYC-Genoa"), (2, "turin", "EPYC-Turin")):
        found = json.loads(run_main(*words, vcpus, "--line", line).out)
        expected = snp_calc_launch_digest(vcpus, CPU_SIGS[model], str(file), None, None, "", 1, "")
        assert found == {"TEE": "snp", "Measurements": {"MEASUREMENT": expected.hex()}}
    one = run_main(*words, 1).out
    file.write_bytes(firmware(reset=0x80B008))
    assert run_main(*words, 1).out != one


def test_what_is_no_firmware_is_said_so(tmp_path: Path) -> None:
    file = tmp_path / "OVMF.fd"
    file.write_bytes(bytes(4096))
    done = run_main("snp-measure", file, "--vcpus", 1)
    assert done.code == 1
    assert "no firmware for SEV-SNP guests" in done.err
    assert run_main("snp-measure", file, "--vcpus", 1, "--line", "rome").code == 2
    assert "no such file" in run_main("snp-measure", tmp_path / "nowhere", "--vcpus", 1).err
