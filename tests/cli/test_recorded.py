"""MarbleRun's own command line was recorded; typed here, its commands give the same lines, files and exit codes.

The recording lies outside of the project. `tests/vectors/cli` has a transcript of our own with the same lines.
"""

import base64
import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from fakes.command_line import run_main
from fakes.transcript import Entry, Stage, parse_transcript, settled
from tacit.cli.coordinator.shares import load_recovery_key, load_share

pytestmark = pytest.mark.timeout(600)  # keys of RSA are made on the way, and the machine may be busy

CERTIFICATES = "coordinator-cert.pem"

# What happened to the coordinator before the command of this number.
EVENTS = {
    0: ["gone"],
    4: ["fresh"],
    59: ["gone"],
    60: ["fresh"],
    64: ["fresh"],
    67: ["fresh"],
    76: ["recovery"],
    87: ["fresh"],
    88: ["recovery"],
    92: ["fresh"],
}

# Commands whose refusal says more than MarbleRun's, in other words; each with what it says here.
OWN_WORDS = {
    **dict.fromkeys((0, 5), "say it once with `tacit trust"),
    **dict.fromkeys((11, 16), "give an era config with --era-config FILE; none is downloaded"),
    1: "Missing argument 'HOST:PORT'",
    2: "No such command 'nonsense'",
    **dict.fromkeys((3, 7, 59), "nobody answers at 127.0.0.1:"),
    17: "Missing argument 'HOST:PORT'",
    **dict.fromkeys((38, 42, 77), "Missing option"),
    47: 'expected {"NAME": {"Key": "BASE64"}}',
    64: "does not lead to the attested root",
    91: "server is not in expected state",  # a share of a threshold is taken in clear too
    **dict.fromkeys((95, 97), "shows no evidence (it runs unattested), expected TEE sgx"),
}
USAGE_ON_STDOUT = (1, 17)  # MarbleRun prints all of its usage there; here one line says where it is to be had
OTHER_LINES = (4, 11, 16)  # the version is our own, and no era config is downloaded
COUNT = 98


def entries(shared_vectors: Path) -> list[Entry]:
    return list(parse_transcript((shared_vectors / "marblerun" / "cli" / "transcript.txt").read_text()))


@pytest.fixture(scope="module")
def stage(shared_vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("recorded")
    for name in ("manifests", "pki"):
        (folder / name).symlink_to(shared_vectors / "marblerun" / name)
    shutil.copy(shared_vectors / "marblerun" / "cli" / "m.yaml", folder)
    (folder / "tok.json").write_text(json.dumps({"tok": {"Key": base64.b64encode(b"hello token").decode()}}))
    (folder / "bad.json").write_text("{")
    (folder / "era.json").write_text(json.dumps({"UniqueID": "ab" * 32}))
    made = Stage(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        patch.setenv("TACIT_PLATFORM", str(folder / "none"))
        patch.chdir(folder)
        yield made
        made.end()


def prepare(stage: Stage, number: int) -> None:
    """What the recording's author did between two commands."""
    for event in EVENTS.get(number, ()):
        stage.happen(event)
    if number == 64:
        assert run_main("manifest", "set", "manifests/users-roles.json", stage.host, "-i").code == 0
    if number == 97:
        (stage.folder / "era-config.json").write_text((stage.folder / "era.json").read_text())
    if number == 76:
        split_recovery_data(stage.folder, "rec-new.json", "rec")
    if number == 88:
        split_recovery_data(stage.folder, "rec4.json", "srec")


def split_recovery_data(folder: Path, name: str, prefix: str) -> None:
    for key, text in json.loads((folder / name).read_text())["RecoverySecrets"].items():
        secret = base64.b64decode(text)
        (folder / f"{prefix}{key[-1]}.enc").write_bytes(secret)
        holder = load_recovery_key((folder / "pki" / "users" / f"{key}.key").read_bytes())
        (folder / f"{prefix}{key[-1]}.plain").write_bytes(load_share(secret, holder))


def keep_as_marblerun_does(stage: Stage, entry: Entry) -> None:
    """MarbleRun's command line remembers certificates that nobody checked; here its own file stands for that."""
    if entry.words[:2] in (["manifest", "set"], ["manifest", "verify"]) and entry.code == 0:
        theirs = stage.folder / "config" / "marblerun" / CERTIFICATES
        theirs.parent.mkdir(parents=True, exist_ok=True)
        assert run_main("certificate", "chain", stage.host, "-i", "-o", theirs).code == 0


@pytest.mark.slow
def test_each_recorded_command_gives_the_recorded_lines(stage: Stage, shared_vectors: Path) -> None:
    recorded = entries(shared_vectors)
    assert len(recorded) == COUNT
    same = 0
    for number, entry in enumerate(recorded):
        prepare(stage, number)
        done = stage.type(entry)
        label = f"{number}: {' '.join(entry.words)}\n{done.out}{done.err}"
        if number == 2:  # a verb that there is not is nobody's, so wrong usage of ours
            assert done.code == 2, label
        else:
            assert done.code == entry.code, label
        if number in OWN_WORDS:
            assert OWN_WORDS[number] in done.err, label
        else:
            assert entry.refusal in done.err, label
        if number not in USAGE_ON_STDOUT + OTHER_LINES:
            assert settled(done.out.splitlines()) == settled(entry.out), label
            same += number not in OWN_WORDS
        keep_as_marblerun_does(stage, entry)
    assert same == COUNT - len(OWN_WORDS.keys() | {*USAGE_ON_STDOUT, *OTHER_LINES})
    check_files(stage, shared_vectors / "marblerun" / "cli")


def check_files(stage: Stage, recorded: Path) -> None:
    written = [
        *("r0.crt", "mg.json", "cc.pem", "q.bin", "log.txt", "s.json", "both.json", "rec.json", "rec-new.json"),
        *("rec2.sig", "rec2.eph", "eph.pem", "marblerunRootCA.crt", "marblerunIntermediateCA.crt"),
        "marblerunChainCA.crt",
    ]
    assert {stat.S_IMODE((stage.folder / name).stat().st_mode) for name in written} == {0o600}
    assert (stage.folder / "mg.json").read_bytes() == (recorded / "manifest-get-signature.json").read_bytes()
    assert (stage.folder / "s.json").read_bytes() == (recorded / "secret-get.json").read_bytes()
    assert (stage.folder / "q.bin").read_bytes() == b""
    sizes = {name: (stage.folder / name).stat().st_size for name in ("rec2.sig", "rec2.eph")}
    assert sizes == {"rec2.sig": 384, "rec2.eph": 512}
    for name in ("rec.json", "marblerunChainCA.crt", "marblerunRootCA.crt"):
        theirs = {"rec.json": "recovery-data.json"}.get(name, name)
        shape = [line.split(":")[0] for line in (recorded / theirs).read_text().splitlines()]
        assert len((stage.folder / name).read_text().splitlines()) == pytest.approx(len(shape), abs=1)
    both, ours = (
        json.loads(path.read_text()) for path in (recorded / "secret-get-cert-and-key.json", stage.folder / "both.json")
    )
    assert {name: list(value) for name, value in both.items()} == {name: list(value) for name, value in ours.items()}
    chain = x509.load_pem_x509_certificates((stage.folder / "cc.pem").read_bytes())
    assert "CN=MarbleRun Coordinator - Intermediate CA" in chain[0].subject.rfc4514_string()
    assert "CN=MarbleRun Coordinator" in chain[1].subject.rfc4514_string()
