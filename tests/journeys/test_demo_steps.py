"""The TensorFlow and MarbleRun demo, typed word by word as the example's README tells, on a host of its own.

The host has the demo's ports and names. Only the download is exchanged: for a graph with ResNet-50's input and output
and no depth, or, in the slow test, for the real network with made-up weights.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import requires
from pathlib import Path

import pytest
from cryptography import x509

from fakes import journey
from fakes.hosts import hosts
from fakes.journey import DOWNLOAD, PROGRAMS, RESNET50, Person, Program, follow, make_model, steps, unpack

pytestmark = [pytest.mark.journey, pytest.mark.netns, pytest.mark.timeout(600)]

NAME = "grpc.tf-serving.service.com"
CLIENT = Path(journey.__file__).with_name("journey_original_client.py")
QUERY = re.compile(r"query: secure channel, task 0, batch 1, loop_idx \d+, latency\(ms\) \d+\.\d, tps: \d+\.\d")
SUMMARY = re.compile(r"summary: cnum 1, batch 1, e2e time\(s\) [\d.e-]+, average latency\(ms\) [\d.e-]+, tps: [\d.e-]+")


@dataclass
class Done:
    """What was printed in each section, by its number, and who did it."""

    person: Person
    printed: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.person.folder

    def program(self, name: str) -> Program:
        return next(one for one in self.person.programs if name in one.log.name)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """Sections 1 to 7."""
    with (
        hosts(["machine"], resolve={}) as by_name,
        Person(by_name["machine"], tmp_path_factory.mktemp("demo")) as person,
    ):
        done = Done(person)
        unpack(person)
        done.printed["0"] = follow(person, "Names")
        done.printed["1"] = follow(person, "1.")
        done.printed["2"] = make_model(person)
        for section in "3456":
            done.printed[section] = follow(person, f"{section}.")
        done.program("tacit-premain").wait_for('"ready"')
        done.printed["7"] = follow(person, "7.")
        yield done


# ---- the table's rows, one after the other


def test_the_client_is_installed_without_an_engine_and_without_a_server() -> None:
    client = {line.split(";")[0] for line in requires("tacit") or () if "extra == 'client'" in line}
    assert client
    assert not [line for line in client if re.match("openvino|uvicorn|grpclib|httptools", line)]


def test_the_name_is_mapped_as_the_original_maps_it(demo: Done) -> None:
    assert NAME in demo.person.types("getent hosts grpc.tf-serving.service.com")


def test_the_coordinator_takes_its_names_from_the_originals_variable(demo: Done) -> None:
    demo.person.types("tacit certificate root $MARBLERUN -o root.crt")
    root = x509.load_pem_x509_certificate((demo.folder / "root.crt").read_bytes())
    names = root.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert NAME in names.get_values_for_type(x509.DNSName)


def test_the_coordinator_listens_where_the_original_does(demo: Done) -> None:
    log = demo.program("tacit-coordinator").said
    assert re.search(r"client API listening on \S*:4433", log)
    assert re.search(r"mesh API listening on \S*:2001", log)


def test_a_download_that_cannot_be_reached_is_one_line_and_leaves_nothing(demo: Done) -> None:
    said = demo.person.fail(f"{DOWNLOAD} --dir elsewhere")
    assert "storage.googleapis.com" in said
    assert not list(demo.folder.glob("elsewhere/**/*.pb*"))


def test_converting_prints_the_originals_lines(demo: Done) -> None:
    assert demo.printed["2"] == "Exporting trained model to models/resnet50-v15-fp32/1\nDone!\n"
    assert (demo.folder / "models/resnet50-v15-fp32/1/saved_model.pb").is_file()


def test_encrypting_prints_the_originals_line_and_writes_the_key_as_the_original_does(demo: Done) -> None:
    assert "Saved encrypted file to: encrypted/resnet50.capsule\n" in demo.printed["3"]
    key = (demo.folder / "model_key").read_bytes()
    assert len(base64.b64decode(key, validate=True)) == 32
    assert b"\n" not in key


def test_the_manifest_is_filled_in_with_what_the_commands_print(demo: Done) -> None:
    manifest = json.loads((demo.folder / "manifest.json").read_text())
    info = json.loads(demo.person.types("tacit package-info marble --output json"))
    assert manifest["Packages"]["tf-server"]["UniqueID"] == info["UniqueID"]
    assert f"ID: {manifest['Models']['resnet50']['ID']}" in demo.printed["3"]
    assert demo.printed["4"] == "OK: 1 packages, 1 marbles, 1 secrets\n"


def test_setting_the_manifest_prints_marbleruns_lines(demo: Done) -> None:
    digest = hashlib.sha256((demo.folder / "manifest.json").read_bytes()).hexdigest()
    assert demo.printed["5"].splitlines() == [
        "Successfully verified Coordinator, now uploading manifest",
        f"Manifest signature: {digest}",
        "Manifest successfully set",
        "Secret successfully set",
        "Intermediate certificate written to tensorflow.crt",
    ]


def test_the_server_is_started_with_the_certificate_of_its_coordinator(demo: Done) -> None:
    assert "nothing says which coordinator to expect" not in demo.program("tacit-premain").said


def test_the_key_is_nowhere_in_the_manifest_nor_in_a_file_beside_the_server(demo: Done) -> None:
    text = (demo.folder / "model_key").read_bytes()
    raw = base64.b64decode(text)
    own = {"model_key", "model_key.json"}
    files = [path for path in demo.folder.rglob("*") if path.is_file() and path.name not in own]
    assert demo.folder / "manifest.json" in files
    assert [path for path in files if raw in (content := path.read_bytes()) or text in content] == []


def test_premain_places_the_servers_certificate_file(demo: Done) -> None:
    placed = demo.folder / "ssl.cfg"
    assert placed.read_text().startswith("server_key: '-----BEGIN PRIVATE KEY-----\\n")
    assert placed.stat().st_mode & 0o777 == 0o600


def test_the_server_says_that_it_is_simulated_and_takes_its_arguments_from_the_manifest(demo: Done) -> None:
    log = demo.program("tacit-premain").said
    assert "activated as tf-server, SIMULATED" in log
    assert "SIMULATED: a simulated TEE protects nothing" in log
    assert '"grpc": 8500' in log


def test_certificates_are_written_root_intermediate_and_chain(demo: Done) -> None:
    said = demo.person.types(
        "tacit certificate root $MARBLERUN -o r.crt && tacit certificate intermediate $MARBLERUN -o i.crt "
        "&& tacit certificate chain $MARBLERUN -o c.crt"
    )
    assert said.splitlines() == [
        "Root certificate written to r.crt",
        "Intermediate certificate written to i.crt",
        "Certificate chain written to c.crt",
    ]
    root, intermediate, chain = ((demo.folder / name).read_bytes() for name in ("r.crt", "i.crt", "c.crt"))
    assert chain == intermediate + root
    assert intermediate == (demo.folder / "tensorflow.crt").read_bytes()
    demo.person.types("openssl verify -CAfile r.crt i.crt")


def test_the_log_says_who_got_the_key_and_its_copy_is_whole(demo: Done) -> None:
    said = follow(demo.person, "8.")
    released = [line for line in said.splitlines() if "marble activated" in line]
    assert released
    assert all("tf-server" in line and "model_key" in line for line in released)
    assert "Entries 1 to " in said
    assert "are whole and signed" in said


def test_bench_prints_the_originals_lines_and_summary(demo: Done) -> None:
    rest = demo.printed["7"].splitlines()
    assert len([line for line in rest if QUERY.fullmatch(line)]) == 10
    assert "'outputs': {'predict': " in rest[10]
    assert SUMMARY.fullmatch(rest[11])
    assert rest[12].startswith("percentiles: latency(ms) min ")


def test_the_original_client_works_unchanged(demo: Done) -> None:
    said = demo.person.types(
        f"{PROGRAMS}/python {CLIENT} --url {NAME}:8500 --crt tensorflow.crt --batch 2 --cnum 3 --loop 2"
    )
    assert said.count("query: secure channel") == 6
    assert "rows: [2, 1000]" in said


def test_a_client_without_the_coordinators_certificate_is_not_served(demo: Done) -> None:
    assert "does it speak TLS?" in demo.person.fail(f"tacit bench --url {NAME}:8500 --loop 1 --cnum 1")


def test_a_prediction_needs_no_certificate_file_once_the_coordinator_is_trusted(demo: Done) -> None:
    script = (
        "import numpy as np, tacit\n"
        f"session = tacit.connect('{NAME}:4433')\n"
        f"model = session.model('resnet50', address='{NAME}:8500')\n"
        "print(np.asarray(model.predict(np.zeros((1, 224, 224, 3), np.float32))).shape)"
    )
    (demo.folder / "ask.py").write_text(script)
    assert demo.person.types(f"{PROGRAMS}/python ask.py") == "(1, 1000)\n"


def test_the_status_says_in_which_tee_the_coordinator_runs(demo: Done) -> None:
    done = demo.person.try_to("tacit status $MARBLERUN")
    assert done.stdout.startswith("3: ")
    assert "SIMULATED" in done.stderr


@pytest.mark.slow
def test_the_originals_manifest_starts_nothing_on_an_attesting_coordinator(demo: Done, tmp_path: Path) -> None:
    person = Person(demo.person.host, tmp_path)
    unpack(person)
    person.env["TACIT_PLATFORM"] = demo.person.types("echo $HOME/.local/share/tacit/platform").strip()
    variables = "EDG_COORDINATOR_CLIENT_ADDR=:14433 EDG_COORDINATOR_MESH_ADDR=:12001"
    with person:
        person.start(f"{variables} tacit-coordinator").wait_for("client API listening")
        person.types("tacit trust localhost:14433 --tee simulated")
        person.types("tacit manifest set tf-server-manifest.json localhost:14433")
        server = person.start(
            "EDG_MARBLE_TYPE=tf-server EDG_MARBLE_COORDINATOR_ADDR=localhost:12001 tacit-premain tacit-serve"
        )
        assert server.wait_for_end() == 1
        last = server.said.splitlines()[-1]
        assert "invalid quote: evidence is from a simulated TEE" in last
        assert "the package allows sgx" in last


# ---- the original's own manifests, unchanged


@pytest.fixture(scope="module")
def unattested(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """The section about the demo's own manifest; the model arrives after the server was started."""
    with (
        hosts(["machine"], resolve={}) as by_name,
        Person(by_name["machine"], tmp_path_factory.mktemp("unattested")) as person,
    ):
        done = Done(person)
        unpack(person)
        follow(person, "Names")
        make_model(person)
        arrives = ""
        for line, stays in steps("The demo's own manifest"):
            if line.startswith("sudo mkdir"):
                arrives = line
            elif stays:
                person.start(line)
            else:
                done.printed["set"] = done.printed.get("set", "") + person.types(line)
        server = done.program("tacit-premain")
        done.printed["waiting"] = server.wait_for("model-awaited")
        person.types(arrives)
        server.wait_for('"ready"')
        person.types("tacit certificate intermediate $MARBLERUN -o tensorflow.crt")
        yield done


def test_the_old_manifest_is_set_as_it_is_with_the_key_by_sed(unattested: Done) -> None:
    assert "Manifest successfully set" in unattested.printed["set"]
    key = (unattested.folder / "model_key").read_text()
    assert (unattested.folder / "manifest.json").read_text() == (
        (RESNET50 / "tf-server-manifest.json").read_text().replace("YOUR_KEY_HERE", key)
    )


def test_a_server_waits_for_a_model_that_arrives_later(unattested: Done) -> None:
    assert '"ready"' not in unattested.printed["waiting"]
    assert "waiting for it" in unattested.printed["waiting"]


def test_the_old_manifest_serves_over_tls_what_the_demo_encrypted(unattested: Done) -> None:
    said = unattested.person.types(f"tacit bench --url {NAME}:8500 --crt tensorflow.crt --batch 1 --cnum 1 --loop 1")
    assert SUMMARY.search(said)


def test_the_old_clients_rest_call_works(unattested: Done) -> None:
    said = unattested.person.types(f"curl -sS --cacert tensorflow.crt https://{NAME}:8501/v1/models/resnet50")
    assert '"state": "AVAILABLE"' in said


def test_without_evidence_status_certificate_and_logs_say_unattested(unattested: Done) -> None:
    assert "UNATTESTED" in unattested.person.try_to("tacit status $MARBLERUN").stderr
    chain = x509.load_pem_x509_certificate((unattested.folder / "tensorflow.crt").read_bytes())
    assert "UNATTESTED" in chain.subject.rfc4514_string()
    assert "UNATTESTED" in unattested.program("tacit-coordinator").said
    assert "UNATTESTED: nobody checked what this server is" in unattested.program("tacit-premain").said


def test_premain_says_that_the_key_of_the_old_manifest_reaches_a_disk(unattested: Done) -> None:
    said = unattested.program("tacit-premain").said
    warned = next(line for line in said.splitlines() if "on a disk, not in memory" in line)
    assert "model_key" in warned
    assert "ssl.cfg" in warned


def premain(rest: str, **more: str) -> str:
    words = " ".join(f"{name}={value}" for name, value in more.items())
    return (
        f"EDG_MARBLE_TYPE=tf-server EDG_MARBLE_COORDINATOR_ADDR={NAME}:2001 EDG_MARBLE_DNS_NAMES={NAME} "
        f"TACIT_UNATTESTED=1 {words} tacit-premain {rest}"
    )


def test_a_foreign_server_finds_the_decrypted_model_in_memory(unattested: Done) -> None:
    person = unattested.person
    person.install(
        "tensorflow_model_server",
        'echo "argv: $*"; sha256sum /dev/shm/models/1/saved_model.pb; stat -f -c %T /dev/shm/models/1; '
        'echo "env: $OMP_NUM_THREADS $MARBLE_PREDEFINED_PRIVATE_KEY" | head -1; head -c 11 ssl.cfg',
    )
    try:
        flags = "--model_name=resnet50 --model_base_path=/dev/shm/models --port=18500"
        done = person.try_to(premain(f"tensorflow_model_server {flags}", EDG_DECRYPT_MODEL="1"))
    finally:
        (unattested.folder / "bin" / "tensorflow_model_server").unlink()
    assert done.returncode == 0, done.stderr
    plain = (unattested.folder / "models/resnet50-v15-fp32/1/saved_model.pb").read_bytes()
    lines = done.stdout.splitlines()
    assert lines[0] == f"argv: {flags}"
    assert lines[1].split()[0] == hashlib.sha256(plain).hexdigest()
    assert lines[2] == "tmpfs"
    assert lines[3] == "env: 2 -----BEGIN PRIVATE KEY-----"
    assert lines[4] == "server_key:"


def test_a_foreign_servers_model_is_never_decrypted_onto_a_disk(unattested: Done) -> None:
    person = unattested.person
    person.install("other_server", "exit 0")
    place = unattested.folder / "on-disk"
    done = person.try_to(premain(f"other_server --model_base_path={place}", EDG_DECRYPT_MODEL="1"))
    assert done.returncode == 1
    assert "mount -t tmpfs" in done.stderr.splitlines()[-1]
    assert not place.exists()


def test_any_other_command_is_started_unchanged_and_its_exit_code_is_premains(unattested: Done) -> None:
    done = unattested.person.try_to(premain("sh -c 'echo \"$0:$1\"; exit 7' a 'b c'"))
    assert done.returncode == 7
    assert done.stdout == "a:b c\n"


def test_decrypting_without_a_base_path_is_refused_in_the_originals_words(unattested: Done) -> None:
    done = unattested.person.try_to(premain("true", EDG_DECRYPT_MODEL="1"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("missing required flag [--model_base_path]")


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """The demo's newer manifest: its key is a secret of 128 bits that user tf-admin sets, for Gramine's encrypted files."""
    with (
        hosts(["machine"], resolve={}) as by_name,
        Person(by_name["machine"], tmp_path_factory.mktemp("newer")) as person,
    ):
        done = Done(person)
        unpack(person)
        follow(person, "Names")
        make_model(person)
        done.printed = {"newer": follow(person, "The demo's newer manifest")}
        done.program("tacit-premain").wait_for('"ready"')
        person.types("tacit certificate intermediate $MARBLERUN -o tensorflow.crt")
        yield done


@pytest.mark.slow
def test_the_newer_manifest_and_its_secret_are_set(newer: Done) -> None:
    lines = newer.printed["newer"].splitlines()
    assert lines[-2:] == ["Manifest successfully set", "Secret successfully set"]


@pytest.mark.slow
def test_the_newer_manifests_key_is_placed_for_gramine(newer: Done) -> None:
    placed = newer.person.types("base64 -w0 /dev/attestation/keys/tf-key")
    assert placed == (newer.folder / "wrap_key").read_text()
    assert len(base64.b64decode(placed)) == 16


@pytest.mark.slow
def test_the_newer_manifest_serves_by_its_own_argv(newer: Done) -> None:
    log = newer.program("tacit-premain").said
    assert "tensorflow_model_server is not installed; tacit-serve takes its flags and its place" in log
    said = newer.person.types(f"tacit bench --url {NAME}:8500 --crt tensorflow.crt --batch 1 --cnum 1 --loop 1")
    assert SUMMARY.search(said)


@pytest.mark.slow
def test_another_user_may_not_set_the_newer_manifests_secret(newer: Done) -> None:
    newer.person.types(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=stranger -keyout s.key -out s.crt 2>/dev/null"
    )
    assert "setting secrets" in newer.person.fail("tacit secret set pfKey.json $MARBLERUN --cert s.crt --key s.key")


# ---- the real network


@pytest.mark.slow
def test_the_real_resnet50_goes_the_whole_way_and_arrives_after_its_server(tmp_path: Path) -> None:
    with hosts(["machine"], resolve={}) as by_name, Person(by_name["machine"], tmp_path) as person:
        unpack(person)
        for section in ("Names", "1."):
            follow(person, section)
        follow(person, "2.", instead=[(DOWNLOAD, "tacit model make resnet50")])
        for section in "345":
            follow(person, f"{section}.")
        person.types("mv encrypted elsewhere")
        follow(person, "6.")
        server = person.programs[-1]
        server.wait_for("model-awaited")
        person.types("mkdir encrypted && mv elsewhere/resnet50.capsule encrypted/")
        server.wait_for('"ready"', seconds=120)
        printed = follow(person, "7.")
        assert len(QUERY.findall(printed)) == 10
        assert SUMMARY.search(printed)
