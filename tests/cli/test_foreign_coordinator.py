"""A coordinator that is not ours: no field of ours in its answers, perhaps only the API v1, and no evidence."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fakes.command_line import run_main
from fakes.coordinator import FakeCoordinator
from tacit.pki import issue_self_signed

WARNING = "Warning: skipping quote verification\n"
MANIFEST = '{"Packages": {"p": {"Debug": true}}, "Marbles": {"m": {"Package": "p"}}}'
HOSTILE = "Secret \x1b[2Jtaken\x9b1A.\u202e"


@pytest.fixture(params=[False, True], ids=["v2", "v1"])
def foreign(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeCoordinator]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.json").write_text(MANIFEST)
    with FakeCoordinator(tee=None, marked=None, only_v1=request.param) as coordinator:
        yield coordinator


def test_its_status_has_no_mark(foreign: FakeCoordinator) -> None:
    done = run_main("status", foreign.host, "-i")
    assert (done.code, done.out) == (0, "3: Coordinator is running.\n")
    assert json.loads(run_main("status", foreign.host, "-i", "--output", "json").out)["State"] is None


def test_it_takes_a_manifest_and_gives_it_back(foreign: FakeCoordinator) -> None:
    foreign.code = 2
    done = run_main("manifest", "set", "m.json", foreign.host, "-i")
    assert done.lines[-1] == "Manifest successfully set", done.err
    assert foreign.manifest == MANIFEST.encode()
    assert run_main("manifest", "verify", "m.json", foreign.host, "-i").out == WARNING + "OK\n"
    assert MANIFEST in run_main("manifest", "get", foreign.host, "-i").out


@pytest.mark.parametrize("verb", ["get", "verify m.json"])
def test_before_any_manifest_the_way_out_is_told(foreign: FakeCoordinator, verb: str) -> None:
    foreign.code = 2
    answer = b'{"status":"error","message":"requested value not set","data":null}'
    foreign.answers = {("GET", path): (500, answer) for path in ("/api/v2/manifest", "/manifest")}
    if foreign.only_v1:
        del foreign.answers["GET", "/api/v2/manifest"]
    done = run_main("manifest", *verb.split(), foreign.host, "-i")
    assert "requested value not set: it has no manifest yet; set one with `tacit manifest set FILE" in done.err
    foreign.code = 3
    assert run_main("manifest", *verb.split(), foreign.host, "-i").err.endswith("requested value not set\n")


def test_a_server_that_is_no_coordinator_is_told_from_one(foreign: FakeCoordinator) -> None:
    foreign.answers = {("GET", path): (200, b"<html>") for path in ("/api/v2/status", "/status")}
    done = run_main("status", foreign.host, "-i")
    assert "A coordinator's client API is on port 4433 unless" in done.err


@pytest.mark.parametrize(
    ("words", "path", "data", "shown"),
    [
        ("status", "/status", {"code": 3, "message": "\x1b[2Jgood"}, r"3: \x1b[2Jgood"),
        ("manifest log", "/update", {"updateLog": ['{"user":"\x9b2J\u202eé"}']}, r'{"user":"\u009b2J\u202eé"}'),
        (
            "manifest update get --missing",
            "/update-manifest",
            {"manifest": "", "message": "", "missingUsers": ["a\x1b[2J", "b"]},
            r"the update: [a\x1b[2J b]",
        ),
    ],
)
def test_what_it_calls_things_steers_no_terminal(words: str, path: str, data: object, shown: str) -> None:
    with FakeCoordinator(tee=None, marked=None) as foreign:
        foreign.answers["GET", f"/api/v2{path}"] = 200, json.dumps({"status": "success", "data": data}).encode()
        done = run_main(*words.split(), foreign.host, "-i")
    assert done.code == 0, done.err
    assert shown in done.out
    assert not set("\x1b\x9b\u202e") & set(done.out)


@pytest.mark.parametrize("verb", ["recover", "recover-with-signature"])
@pytest.mark.parametrize(
    ("path", "said"),
    [("/api/v2/recover", {"remaining": 0, "message": HOSTILE}), ("/recover", {"StatusMessage": HOSTILE})],
    ids=["v2", "v1"],
)
def test_what_it_says_of_a_recovery_steers_no_terminal(tmp_path: Path, verb: str, path: str, said: object) -> None:
    holder = rsa.generate_private_key(65537, 2048)
    (tmp_path / "rec.key").write_bytes(holder.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "secret").write_bytes(bytes(32))
    proof = ("--key", tmp_path / "rec.key") if verb == "recover" else ("--signature", tmp_path / "secret")
    with FakeCoordinator(tee=None, marked=None, only_v1=path == "/recover") as foreign:
        foreign.code = 1
        foreign.answers["POST", path] = 200, json.dumps({"status": "success", "data": said}).encode()
        done = run_main(verb, tmp_path / "secret", foreign.host, "-i", *proof)
        foreign.answers["POST", path] = 500, json.dumps({"status": "error", "message": HOSTILE}).encode()
        refused = run_main(verb, tmp_path / "secret", foreign.host, "-i", *proof)
    assert (done.code, done.out) == (0, WARNING + r"Secret \x1b[2Jtaken\x9b1A.\u202e" + "\n"), done.err
    assert (refused.code, refused.out) == (1, WARNING)
    assert "error: Secret \ufffd[2Jtaken\ufffd1A.\ufffd\n" in refused.err
    assert not set("\x1b\x9b\u202e") & set(refused.err)


ZEROS = "00" * 32
MARK = {"entries": 3, "head": ZEROS, "epoch": 1, "stateHead": ZEROS, "signature": ""}


@pytest.mark.parametrize("line", ["not JSON", "[1]", "3", "{}", '{"number": 1}', '{"begins": 3}', "[" * 5000])
def test_a_line_that_is_no_entry_of_a_log_is_told(tmp_path: Path, line: str) -> None:
    user = issue_self_signed([], common_name="u", now=datetime.now(UTC))
    (tmp_path / "u.crt").write_bytes(user.certificate_pem)
    (tmp_path / "u.key").write_bytes(user.key_pem)
    with FakeCoordinator(tee=None, marked=None) as foreign:
        page = {"status": "success", "data": {"after": 0, "head": ZEROS, "lines": [line], "mark": MARK}}
        foreign.answers["GET", "/api/v2/log"] = 200, json.dumps(page).encode()
        done = run_main("log", foreign.host, "-i", "-c", tmp_path / "u.crt", "-k", tmp_path / "u.key")
    assert done.code == 1
    assert "gave a line that is no entry of an audit log" in done.err


def test_it_is_trusted_as_unattested_only_by_that_name(foreign: FakeCoordinator) -> None:
    assert "tacit trust" in run_main("status", foreign.host).err
    assert run_main("trust", foreign.host, "--tee", "unattested").code == 0
    assert run_main("status", foreign.host).out == "3: Coordinator is running.\n"
    assert run_main("certificate", "chain", foreign.host).out == "Certificate chain written to marblerunChainCA.crt\n"


def test_t06_without_evidence_it_is_never_taken_for_an_sgx_coordinator(
    foreign: FakeCoordinator, tmp_path: Path
) -> None:
    era = tmp_path / "era.json"
    era.write_text(json.dumps({"SignerID": "ab" * 32, "ProductID": 1, "SecurityVersion": 1}))
    done = run_main("manifest", "verify", "m.json", foreign.host, "--era-config", era)
    assert done.code == 1
    assert "expected TEE sgx" in done.err or "has only the API v1" in done.err
