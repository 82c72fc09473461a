"""The simulated platform's folder, and the TEE that lives in it."""

import json
import os
import stat
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fakes.tee import NOW, other_platform, shared_platform
from fakes.tee_kinds import shared_chip, snp_report, td_quote
from tacit.errors import CollateralTimeError, EvidenceFormatError, FileInputError, InputError, PlatformError, TacitError
from tacit.evidence import Claims, Tee, verify_evidence
from tacit.evidence.fetch import fetch_collateral, load_anchor, simulated_kind
from tacit.evidence.issue import (
    SimulatedTee,
    default_platform_folder,
    export_platform,
    import_platform,
    init_platform,
    load_package_info,
    load_simulated_tee,
)
from tacit.evidence.issue import simulated as issuing
from tacit.evidence.issue.program import find_program
from tacit.evidence.simulated.measure import Inventory
from tacit.evidence.simulated.platform import parse_platform, refresh_platform, render_platform
from tacit.evidence.simulated.snp import Guest, issue_report

LATER = NOW + timedelta(days=340)


@pytest.fixture(autouse=True)
def _measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs have fixed contents here; what a measurement is made of has its own tests."""
    monkeypatch.setattr(
        issuing,
        "load_inventory",
        lambda program: Inventory("CPython 3", {find_program(program).roots[0]: bytes(32)}, (), frozenset()),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the platform that all tests share."""
    folder = tmp_path / "platform"
    folder.mkdir()
    (folder / "platform.json").write_bytes(render_platform(shared_platform()))
    return folder


def verify(tee: SimulatedTee, folder: Path, *, now: datetime = NOW) -> Claims:
    evidence = tee.issue_evidence(bytes(64))
    return verify_evidence(evidence, fetch_collateral(evidence, folder=folder), load_anchor(folder), now=now)


def test_new_platform_proves_its_programs(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "platform"
    init_platform(folder, now=NOW)
    tee = load_simulated_tee(folder, program="coordinator", now=NOW)
    claims = verify(tee, folder)
    info = load_package_info(folder, program="coordinator")
    assert tee.package_info == info
    assert (claims.tee, claims.measurement, claims.signer) == (info.tee, info.unique_id, info.signer_id)
    assert (claims.product_id, claims.security_version, claims.debug) == (1, 1, False)
    assert tee.tee is Tee.SIMULATED


def test_platform_is_for_its_owners_eyes_alone(tmp_path: Path) -> None:
    folder = tmp_path / "platform"
    init_platform(folder, now=NOW)
    export_platform(folder, tmp_path / "export.json", public=False)
    import_platform(tmp_path / "export.json", tmp_path / "other")
    for held in (folder, tmp_path / "other"):
        assert stat.S_IMODE(held.stat().st_mode) == 0o700
        assert [stat.S_IMODE(file.stat().st_mode) for file in held.iterdir()] == [0o600]
    assert stat.S_IMODE((tmp_path / "export.json").stat().st_mode) == 0o600


def test_second_init_is_refused_and_changes_nothing(folder: Path) -> None:
    before = (folder / "platform.json").read_bytes()
    with pytest.raises(PlatformError, match="already holds"):
        init_platform(folder, now=NOW)
    assert (folder / "platform.json").read_bytes() == before
    assert os.listdir(folder) == ["platform.json"]


def test_init_where_a_file_stands_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(PlatformError, match="cannot be made"):
        init_platform(tmp_path / "file", now=NOW)


def test_two_machines_with_one_platform_trust_each_other(folder: Path, tmp_path: Path) -> None:
    export_platform(folder, tmp_path / "export.json", public=False)
    import_platform(tmp_path / "export.json", tmp_path / "other")
    other = load_simulated_tee(tmp_path / "other", program="marble", now=NOW)
    assert verify(other, folder).product_id == 2


def test_public_part_verifies_but_makes_no_evidence(folder: Path, tmp_path: Path) -> None:
    export_platform(folder, tmp_path / "public.json", public=True)
    import_platform(tmp_path / "public.json", tmp_path / "client")
    tee = load_simulated_tee(folder, program="coordinator", now=NOW)
    verify(tee, tmp_path / "client")
    assert load_package_info(tmp_path / "client", program="coordinator") == tee.package_info
    with pytest.raises(PlatformError, match="only the public part"):
        load_simulated_tee(tmp_path / "client", program="coordinator", now=NOW)
    with pytest.raises(PlatformError, match="only the public part"):
        export_platform(tmp_path / "client", tmp_path / "whole.json", public=False)


def test_public_export_holds_no_secret(folder: Path, tmp_path: Path) -> None:
    export_platform(folder, tmp_path / "public.json", public=True)
    text = (tmp_path / "public.json").read_text()
    secrets = json.loads((folder / "platform.json").read_text())["private"]
    assert "PRIVATE" not in text
    assert secrets["seal_secret"] not in text


def test_another_platform_is_not_pushed_out_unless_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_bytes(render_platform(other_platform()))
    before = (folder / "platform.json").read_bytes()
    with pytest.raises(PlatformError, match="another simulated platform"):
        import_platform(tmp_path / "other.json", folder)
    assert (folder / "platform.json").read_bytes() == before
    import_platform(tmp_path / "other.json", folder, replace=True)
    assert (folder / "platform.json").read_bytes() == (tmp_path / "other.json").read_bytes()


def test_public_import_keeps_the_keys_that_are_there(folder: Path, tmp_path: Path) -> None:
    export_platform(folder, tmp_path / "public.json", public=True)
    import_platform(tmp_path / "public.json", folder)
    load_simulated_tee(folder, program="coordinator", now=NOW)


def test_same_platform_can_be_imported_again(folder: Path, tmp_path: Path) -> None:
    export_platform(folder, tmp_path / "whole.json", public=False)
    import_platform(tmp_path / "whole.json", folder)
    import_platform(tmp_path / "whole.json", folder)


@pytest.mark.parametrize("name", ["nowhere.json", "."])
def test_import_of_what_cannot_be_read_says_so(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileInputError, match="cannot be read"):
        import_platform(tmp_path / name, tmp_path / "platform")
    assert not (tmp_path / "platform").exists()


def test_export_to_where_nothing_can_be_written_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileInputError, match="cannot be written"):
        export_platform(folder, tmp_path / "nowhere" / "file", public=True)


def test_an_export_goes_into_a_pipe_and_through_a_link_and_replaces_neither(folder: Path, tmp_path: Path) -> None:
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    link.symlink_to(target)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for place in (pipe, link):
        export_platform(folder, place, public=True)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert link.is_symlink()
    assert os.read(reader, 1 << 20) == target.read_bytes()
    os.close(reader)


def test_missing_platform_says_how_to_make_one(tmp_path: Path) -> None:
    evidence = bytes(4)
    calls: list[Callable[[], object]] = [
        lambda: load_simulated_tee(tmp_path, program="coordinator", now=NOW),
        lambda: load_package_info(tmp_path, program="coordinator"),
        lambda: load_anchor(tmp_path),
        lambda: export_platform(tmp_path, tmp_path / "x", public=True),
    ]
    for call in calls:
        with pytest.raises(PlatformError, match="tacit platform init"):
            call()
    with pytest.raises(EvidenceFormatError):
        fetch_collateral(evidence, folder=tmp_path)


def test_platform_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "platform.json").mkdir()
    for call in (load_anchor, lambda folder: load_package_info(folder, program="coordinator")):
        with pytest.raises(PlatformError, match="cannot be read"):
            call(tmp_path)


def test_full_disk_leaves_nothing_behind(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_platform(folder, tmp_path / "export.json", public=False)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PlatformError, match="No space left"):
        init_platform(tmp_path / "new", now=NOW)
    with pytest.raises(PlatformError, match="No space left"):
        import_platform(tmp_path / "export.json", tmp_path / "other")
    assert os.listdir(tmp_path / "new") == os.listdir(tmp_path / "other") == []


def test_race_of_two_inits_has_one_winner(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "platform.json").read_bytes()
    monkeypatch.setattr(Path, "exists", lambda path: False)  # as it looked when this one began
    with pytest.raises(PlatformError, match="already holds"):
        init_platform(folder, now=NOW)
    assert (folder / "platform.json").read_bytes() == before


def test_collateral_that_expired_is_made_anew_too(folder: Path) -> None:
    much_later = NOW + timedelta(days=500)
    tee = load_simulated_tee(folder, program="coordinator", now=much_later)
    assert verify(tee, folder, now=much_later).tcb_status == "UpToDate"


def test_program_that_nobody_knows_is_refused(folder: Path) -> None:
    with pytest.raises(PlatformError, match="coordinator and marble"):
        load_simulated_tee(folder, program="spy", now=NOW)


# ---- damage


def change(edit: Callable[[dict[str, Any]], object]) -> bytes:
    value = json.loads(render_platform(shared_platform()))
    edit(value)
    return json.dumps(value).encode()


OTHER = json.loads(render_platform(other_platform()))
DAMAGE = {
    "empty": b"",
    "no-json": b"\0\1\2",
    "list": b"[]",
    "other-format": change(lambda value: value.update(format="v9")),
    "no-public": change(lambda value: value.pop("public")),
    "no-root": change(lambda value: value["public"]["certificates"].pop("root")),
    "root-is-text": change(lambda value: value["public"]["certificates"].update(root="x")),
    "foreign-root": change(
        lambda value: value["public"]["certificates"].update(root=OTHER["public"]["certificates"]["root"])
    ),
    "foreign-pck": change(
        lambda value: value["public"]["certificates"].update(pck=OTHER["public"]["certificates"]["pck"])
    ),
    "foreign-key": change(lambda value: value["private"]["keys"].update(root=OTHER["private"]["keys"]["root"])),
    "foreign-enclave-signer": change(
        lambda value: value["private"]["keys"].update(enclave_signer=OTHER["private"]["keys"]["enclave_signer"])
    ),
    "rsa-for-ec": change(
        lambda value: value["private"]["keys"].update(root=value["private"]["keys"]["enclave_signer"])
    ),
    "ec-for-rsa": change(
        lambda value: value["private"]["keys"].update(enclave_signer=value["private"]["keys"]["root"])
    ),
    "short-secret": change(lambda value: value["private"].update(seal_secret="00")),
    "short-signer": change(lambda value: value["public"].update(signer_id="00")),
    "no-collateral": change(lambda value: value["public"].update(collateral={})),
    "number-for-text": change(lambda value: value["public"].update(signer_id=1)),
    "text-for-object": change(lambda value: value.update(private="x")),
    "huge": b"[" * 2_000_000,
    "deep": b'{"format":' + b"[" * 5000,
    "twice": b'{"format": 1, "format": 2}',
}


@pytest.mark.parametrize("name", list(DAMAGE))
def test_damaged_platform_is_refused(name: str, folder: Path) -> None:
    (folder / "platform.json").write_bytes(DAMAGE[name])
    with pytest.raises(PlatformError, match="cannot be used") as caught:
        load_simulated_tee(folder, program="coordinator", now=NOW)
    assert "PRIVATE" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["empty", "list", "no-public", "foreign-root", "foreign-pck", "no-collateral", "twice"]
)
def test_verifier_refuses_a_damaged_platform_too(name: str, folder: Path) -> None:
    (folder / "platform.json").write_bytes(DAMAGE[name])
    with pytest.raises(PlatformError, match="cannot be used"):
        load_anchor(folder)


def test_damaged_import_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_bytes(b"{}")
    with pytest.raises(PlatformError):
        import_platform(tmp_path / "bad.json", tmp_path / "platform")
    assert not (tmp_path / "platform").exists()


def test_platform_survives_its_file_unchanged() -> None:
    raw = render_platform(shared_platform())
    assert render_platform(parse_platform(raw, source="memory")) == raw


def test_keys_are_silent_in_logs() -> None:
    platform = shared_platform()
    assert platform.keys is not None
    assert platform.keys.seal_secret.hex() not in repr(platform)
    assert "PlatformKeys(...)" in repr(platform)


# ---- time


def test_collateral_is_made_anew_in_its_last_month(folder: Path) -> None:
    tee = load_simulated_tee(folder, program="coordinator", now=LATER)
    assert verify(tee, folder, now=NOW + timedelta(days=700)).tcb_status == "UpToDate"


def test_collateral_with_months_left_is_left_alone(folder: Path) -> None:
    before = (folder / "platform.json").read_bytes()
    load_simulated_tee(folder, program="coordinator", now=NOW + timedelta(days=300))
    assert (folder / "platform.json").read_bytes() == before


def test_public_part_cannot_renew_itself(folder: Path, tmp_path: Path) -> None:
    export_platform(folder, tmp_path / "public.json", public=True)
    import_platform(tmp_path / "public.json", tmp_path / "client")
    tee = load_simulated_tee(folder, program="coordinator", now=LATER)
    with pytest.raises(CollateralTimeError, match="expired"):
        verify(tee, tmp_path / "client", now=NOW + timedelta(days=366))
    public = shared_platform().public()
    assert refresh_platform(public, now=LATER) is public


# ---- sealing


def test_seal_key_is_the_same_after_a_restart(folder: Path) -> None:
    first, second = (load_simulated_tee(folder, program="coordinator", now=NOW) for _ in range(2))
    assert first.derive_seal_key(bound_to="signer") == second.derive_seal_key(bound_to="signer")
    assert len(first.derive_seal_key(bound_to="signer")) == 32


def test_machines_with_one_platform_seal_each_for_itself(folder: Path) -> None:
    names = ["", "node-0", "node-1"]
    tees = [load_simulated_tee(folder, program="coordinator", now=NOW, machine=name) for name in names]
    assert len({tee.derive_seal_key(bound_to="signer") for tee in tees}) == 3
    again = load_simulated_tee(folder, program="coordinator", now=NOW, machine="node-1")
    assert again.derive_seal_key(bound_to="signer") == tees[2].derive_seal_key(bound_to="signer")
    assert verify(tees[1], folder).measurement == verify(tees[2], folder).measurement


def test_t26_seal_keys_of_different_purposes_differ(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_bytes(render_platform(other_platform()))
    import_platform(tmp_path / "other.json", tmp_path / "other")
    keys = set()
    for place in (folder, tmp_path / "other"):
        for program in ("coordinator", "marble"):
            tee = load_simulated_tee(place, program=program, now=NOW)
            keys |= {tee.derive_seal_key(bound_to="signer"), tee.derive_seal_key(bound_to="measurement")}
    # The fakes' platforms share their seal secret, so signer and measurement alone keep these apart:
    # a measurement names no platform, so the keys bound to it are the same on both.
    assert len(keys) == 6


def test_changed_program_gets_another_measurement_key_and_the_same_signer_key(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = load_simulated_tee(folder, program="coordinator", now=NOW)
    changed = Inventory("CPython 3", {"coordinator": b"\1" * 32}, (), frozenset())
    monkeypatch.setattr(issuing, "load_inventory", lambda program: changed)
    new = load_simulated_tee(folder, program="coordinator", now=NOW)
    assert old.package_info.unique_id != new.package_info.unique_id
    assert old.derive_seal_key(bound_to="signer") == new.derive_seal_key(bound_to="signer")
    assert old.derive_seal_key(bound_to="measurement") != new.derive_seal_key(bound_to="measurement")


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_t04_report_data_of_another_size_is_refused(size: int, folder: Path) -> None:
    tee = load_simulated_tee(folder, program="coordinator", now=NOW)
    with pytest.raises(InputError, match="64 bytes"):
        tee.issue_evidence(bytes(size))


# ---- where


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"TACIT_PLATFORM": "/p", "XDG_DATA_HOME": "/x", "HOME": "/h"}, "/p"),
        ({"XDG_DATA_HOME": "/x", "HOME": "/h"}, "/x/tacit/platform"),
        ({"HOME": "/h"}, "/h/.local/share/tacit/platform"),
        ({"TACIT_PLATFORM": "", "HOME": "/h"}, "/h/.local/share/tacit/platform"),
    ],
)
def test_platform_lies_where_the_environment_says(environ: dict[str, str], expected: str) -> None:
    assert default_platform_folder(environ) == Path(expected)


def test_no_home_is_an_error_with_its_fix() -> None:
    with pytest.raises(TacitError, match="set TACIT_PLATFORM"):
        default_platform_folder({})


# ---- kinds beside SGX


def old_file() -> bytes:
    """The platform's file as versions before TDX and SNP wrote it."""
    value = json.loads(render_platform(shared_platform()))
    del value["public"]["td_collateral"]
    return json.dumps(value).encode()


@pytest.fixture
def fast_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    """AMD's key sizes take seconds to make, so one chip serves all tests."""
    monkeypatch.setattr(issuing, "generate_chip", lambda **_: shared_chip())


def verify_kind(tee: SimulatedTee, folder: Path, *, now: datetime = NOW) -> Claims:
    evidence = tee.issue_evidence(bytes(64))
    assert simulated_kind(evidence) is tee.tee
    anchor = load_anchor(folder, tee=tee.tee)
    return verify_evidence(evidence, fetch_collateral(evidence, folder=folder), anchor, now=now)


@pytest.mark.usefixtures("fast_chip")
@pytest.mark.parametrize("kind", [Tee.SIMULATED, Tee.SIMULATED_TDX, Tee.SIMULATED_SNP])
def test_a_program_proves_itself_as_each_simulated_kind(kind: Tee, folder: Path) -> None:
    tee = load_simulated_tee(folder, program="marble", now=NOW, tee=kind)
    claims, info = verify_kind(tee, folder), load_package_info(folder, program="marble", tee=kind)
    assert tee.package_info == info
    assert (claims.tee, claims.measurement) == (info.tee, info.unique_id) == (kind, info.unique_id)
    other = load_simulated_tee(folder, program="coordinator", now=NOW, tee=kind)
    assert verify_kind(other, folder).measurement != claims.measurement


@pytest.mark.usefixtures("fast_chip")
def test_each_kind_seals_for_itself(folder: Path) -> None:
    tees = [load_simulated_tee(folder, program="marble", now=NOW, tee=kind) for kind in Tee if kind.is_simulated]
    assert len({tee.derive_seal_key(bound_to="signer") for tee in tees}) == 3


@pytest.mark.parametrize("kind", [Tee.SGX, Tee.TDX, Tee.SNP])
def test_t07_a_simulated_platform_makes_no_real_evidence(kind: Tee, folder: Path) -> None:
    with pytest.raises(PlatformError, match=f"no evidence of {kind}"):
        load_simulated_tee(folder, program="marble", now=NOW, tee=kind)
    with pytest.raises(PlatformError, match="never vouches"):
        load_anchor(folder, tee=kind)


@pytest.mark.usefixtures("fast_chip")
def test_an_old_folder_keeps_working_and_learns_the_new_kinds(folder: Path) -> None:
    (folder / "platform.json").write_bytes(old_file())
    assert verify(load_simulated_tee(folder, program="marble", now=NOW), folder).tcb_status == "UpToDate"
    for kind in (Tee.SIMULATED_TDX, Tee.SIMULATED_SNP):
        assert verify_kind(load_simulated_tee(folder, program="marble", now=NOW, tee=kind), folder).tee is kind
    assert parse_platform((folder / "platform.json").read_bytes(), source="it").anchor == shared_platform().anchor


def test_a_public_part_from_before_a_kind_says_what_is_missing(folder: Path) -> None:
    old = json.loads(old_file())
    (folder / "platform.json").write_bytes(json.dumps({name: old[name] for name in ("format", "public")}).encode())
    td, report = td_quote(), snp_report()
    for evidence, name in ((td, "TDX"), (report, "SNP")):
        with pytest.raises(PlatformError, match=f"no {name} part"):
            fetch_collateral(evidence, folder=folder)
    with pytest.raises(PlatformError, match="no SNP part"):
        load_anchor(folder, tee=Tee.SIMULATED_SNP)


@pytest.mark.usefixtures("fast_chip")
def test_the_public_export_verifies_every_kind_and_holds_no_key(folder: Path, tmp_path: Path) -> None:
    tee = load_simulated_tee(folder, program="marble", now=NOW, tee=Tee.SIMULATED_SNP)
    export_platform(folder, tmp_path / "public.json", public=True)
    assert "PRIVATE" not in (tmp_path / "public.json").read_text()
    import_platform(tmp_path / "public.json", tmp_path / "client")
    assert verify_kind(tee, tmp_path / "client").tee is Tee.SIMULATED_SNP


@pytest.mark.usefixtures("fast_chip")
def test_a_chip_outlives_an_import_from_before_it(folder: Path, tmp_path: Path) -> None:
    export_platform(folder, tmp_path / "before.json", public=False)
    load_simulated_tee(folder, program="marble", now=NOW, tee=Tee.SIMULATED_SNP)
    import_platform(tmp_path / "before.json", folder)
    held = parse_platform((folder / "platform.json").read_bytes(), source="it")
    assert held.snp is not None
    assert held.snp.keys is not None


def test_a_chip_that_cannot_be_stored_makes_no_evidence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(issuing, "store", refuse)
    monkeypatch.setattr(issuing, "generate_chip", lambda **_: shared_chip())
    with pytest.raises(PlatformError, match="cannot be written"):
        load_simulated_tee(folder, program="marble", now=NOW, tee=Tee.SIMULATED_SNP)


@pytest.mark.usefixtures("fast_chip")
def test_lists_and_collateral_of_every_kind_are_made_anew_in_time(folder: Path) -> None:
    for kind in (Tee.SIMULATED_TDX, Tee.SIMULATED_SNP):
        tee = load_simulated_tee(folder, program="marble", now=NOW, tee=kind)
        with pytest.raises(CollateralTimeError):
            verify_kind(tee, folder, now=NOW + timedelta(days=366))
        later = load_simulated_tee(folder, program="marble", now=LATER, tee=kind)
        assert verify_kind(later, folder, now=NOW + timedelta(days=366)).tee is kind
        (folder / "platform.json").write_bytes(render_platform(shared_platform()))


def test_keys_of_another_chip_are_refused(folder: Path) -> None:
    value = json.loads(render_platform(shared_platform().with_chip(shared_chip())))
    value["private"]["snp_keys"]["vcek"] = value["private"]["keys"]["pck"]
    with pytest.raises(PlatformError, match="not that of its certificate"):
        parse_platform(json.dumps(value).encode(), source="it")
    value = json.loads(render_platform(shared_platform().with_chip(shared_chip())))
    value["public"]["snp"]["ask"] = value["public"]["snp"]["ark"]
    with pytest.raises(PlatformError):
        parse_platform(json.dumps(value).encode(), source="it")


@pytest.mark.parametrize("size", [0, 63, 65])
def test_report_data_of_another_size_is_refused_for_every_kind(size: int) -> None:
    for issue in (td_quote, snp_report):
        with pytest.raises(InputError, match="64 bytes"):
            issue(data=bytes(size))
    with pytest.raises(PlatformError, match="public part"):
        issue_report(Guest(bytes(48)), bytes(64), chip=shared_platform().with_chip(shared_chip()).public().snp)  # type: ignore[arg-type]
