"""Wrong input, for each program as it is started: one clear line, an exit code, no traceback, nothing half-written."""

import base64
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from fakes.hosts import ThisMachine
from fakes.journey import Person, small_resnet

pytestmark = [pytest.mark.slow, pytest.mark.journey, pytest.mark.timeout(600)]

COORDINATOR = (
    "EDG_COORDINATOR_CLIENT_ADDR=127.0.0.1:0 EDG_COORDINATOR_MESH_ADDR=127.0.0.1:0 EDG_COORDINATOR_SEAL_DIR=new"
)
MARBLE = "TACIT_ACTIVATION_TIMEOUT=1 EDG_MARBLE_TYPE=tf-server"
SERVE = "tacit-serve --model_name=m --model_base_path=plain --host=127.0.0.1"


@dataclass
class Scene:
    """A coordinator that runs, and files that are and are not what they are called."""

    person: Person
    client: int
    mesh: int
    closed: int


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Person(ThisMachine(), tmp_path_factory.mktemp("wrong")) as person, socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # by us, who do not listen: so nobody else does
        folder = person.folder
        person.types("tacit platform init")
        program = person.start(COORDINATOR.replace("=new", "=seal") + " tacit-coordinator")
        said = program.wait_for("client API listening")
        client, mesh = (int(re.findall(rf"{api} API listening on [\d.]+:(\d+)", said)[0]) for api in ("client", "mesh"))
        (folder / "graph.pb").write_bytes(small_resnet())
        (folder / "empty").write_bytes(b"")
        (folder / "noise").write_bytes(Random(1).randbytes(5000))  # the same each time: what it is taken for is known
        (folder / "a-folder").mkdir()
        (folder / "plain" / "1").mkdir(parents=True)
        (folder / "other_key").write_bytes(base64.b64encode(bytes(32)))
        (folder / "short_key").write_bytes(b"c2hvcnQ=")
        (folder / "broken.json").write_text('{"Packages": {"a": ')
        (folder / "wrong-ssl.cfg").write_text("server_key: 'no key' server_cert: 'no certificate'")
        (folder / "config" / "tacit").mkdir(parents=True)
        (folder / "config" / "tacit" / "trust.json").write_text("{")
        (folder / "uuid-file").write_text("no uuid")
        person.types("tacit model encrypt -k model_key -m graph.pb --name m")
        person.types(f"tacit trust localhost:{client} --tee simulated")
        yield Scene(person, client, mesh, held.getsockname()[1])


@dataclass
class Wrong:
    """What is typed, what the one line must name, and the exit code. CLIENT, MESH and CLOSED stand for ports."""

    line: str
    names: tuple[str, ...]
    code: int = 1


WRONG = {
    # tacit-coordinator
    "coordinator: used port": Wrong(
        f"{COORDINATOR} EDG_COORDINATOR_CLIENT_ADDR=127.0.0.1:CLIENT tacit-coordinator", ("127.0.0.1", "CLIENT")
    ),
    "coordinator: bad address": Wrong(
        f"{COORDINATOR} EDG_COORDINATOR_CLIENT_ADDR=nonsense tacit-coordinator", ("nonsense", "HOST:PORT"), 2
    ),
    "coordinator: missing platform": Wrong(
        f"{COORDINATOR} TACIT_PLATFORM=nowhere tacit-coordinator", ("nowhere", "tacit platform")
    ),
    "coordinator: missing startup manifest": Wrong(
        f"{COORDINATOR} EDG_STARTUP_MANIFEST=missing.json tacit-coordinator", ("missing.json",)
    ),
    "coordinator: broken startup manifest": Wrong(
        f"{COORDINATOR} EDG_STARTUP_MANIFEST=broken.json tacit-coordinator", ("manifest",)
    ),
    "coordinator: folder in use": Wrong(f"{COORDINATOR} EDG_COORDINATOR_SEAL_DIR=seal tacit-coordinator", ("seal",)),
    "coordinator: folder is a file": Wrong(
        f"{COORDINATOR} EDG_COORDINATOR_SEAL_DIR=noise tacit-coordinator", ("noise",)
    ),
    "coordinator: unknown option": Wrong("tacit-coordinator --attested", ("--attested",), 2),
    # tacit-premain
    "premain: no type": Wrong("tacit-premain true", ("EDG_MARBLE_TYPE",)),
    "premain: unreachable coordinator": Wrong(
        f"{MARBLE} EDG_MARBLE_COORDINATOR_ADDR=localhost:CLOSED tacit-premain", ("localhost:CLOSED", "running")
    ),
    "premain: bad address": Wrong(f"{MARBLE} EDG_MARBLE_COORDINATOR_ADDR=a:b:c tacit-premain", ("a:b:c",)),
    "premain: no manifest yet": Wrong(
        f"{MARBLE} EDG_MARBLE_COORDINATOR_ADDR=localhost:MESH tacit-premain", ("manifest",)
    ),
    "premain: missing platform": Wrong(
        f"{MARBLE} TACIT_PLATFORM=nowhere EDG_MARBLE_COORDINATOR_ADDR=localhost:MESH tacit-premain",
        ("nowhere", "TACIT_UNATTESTED=1"),
    ),
    "premain: the wrong one of the coordinator's ports": Wrong(
        f"{MARBLE} EDG_MARBLE_COORDINATOR_ADDR=localhost:CLIENT tacit-premain", ("localhost:CLIENT",)
    ),
    "premain: keys would lie on a disk": Wrong(
        f"{MARBLE} TACIT_MEMORY_DIR=a-folder EDG_MARBLE_COORDINATOR_ADDR=localhost:MESH tacit-premain", ("a-folder",)
    ),
    "premain: damaged id file": Wrong(
        f"{MARBLE} EDG_MARBLE_UUID_FILE=uuid-file EDG_MARBLE_COORDINATOR_ADDR=localhost:MESH tacit-premain", ("UUID",)
    ),
    "premain: missing certificate": Wrong(
        f"{MARBLE} TACIT_COORDINATOR_CERTIFICATE=missing.crt EDG_MARBLE_COORDINATOR_ADDR=localhost:MESH tacit-premain",
        ("missing.crt",),
    ),
    # tacit-serve
    "serve: used port": Wrong(f"{SERVE} --port=CLIENT", ("CLIENT",)),
    "serve: unknown flag": Wrong(f"{SERVE} --prot=8500", ("--prot",), 2),
    "serve: flag without a number": Wrong(f"{SERVE} --port=many", ("port", "many"), 2),
    "serve: nothing to serve": Wrong("tacit-serve --port=0", ("model_base_path",), 2),
    "serve: missing TLS file": Wrong(f"{SERVE} --port=-1 --ssl_config_file=missing.cfg", ("missing.cfg",)),
    "serve: TLS file without a certificate": Wrong(
        f"{SERVE} --port=-1 --ssl_config_file=wrong-ssl.cfg", ("wrong-ssl.cfg",)
    ),
    "serve: sealed model without a key": Wrong(f"{SERVE} --port=-1 --model_format=capsule", ("--model_key_file",), 2),
    "serve: wrong format": Wrong(f"{SERVE} --port=-1 --model_format=zip", ("zip", "capsule"), 2),
    "serve: short key": Wrong(f"{SERVE} --port=-1 --model_format=capsule --model_key_file=short_key", ("key",)),
    "serve: missing key": Wrong(
        f"{SERVE} --port=-1 --model_format=capsule --model_key_file=missing_key", ("missing_key",)
    ),
    "serve: attested without a certificate": Wrong(
        f"TACIT_TEE=simulated {SERVE} --port=-1", ("never serves plaintext",), 2
    ),
    # tacit
    "status: unreachable": Wrong("tacit status localhost:CLOSED --insecure", ("localhost:CLOSED",)),
    "status: nobody was trusted": Wrong("tacit status localhost:CLOSED", ("tacit trust",)),
    "status: a port that speaks something else": Wrong("tacit status localhost:MESH --insecure", ("localhost:MESH",)),
    "status: bad address": Wrong("tacit status localhost:99999", ("99999",)),
    "status: damaged trust file": Wrong("XDG_CONFIG_HOME=config tacit status localhost:CLIENT", ("trust.json",)),
    "trust: unknown TEE": Wrong("tacit trust localhost:CLIENT --tee magic", ("magic", "simulated")),
    "trust: missing platform": Wrong(
        "TACIT_PLATFORM=nowhere tacit trust localhost:CLIENT --tee simulated", ("nowhere", "tacit platform")
    ),
    "platform: exists already": Wrong("tacit platform init", ("platform",)),
    "platform: no such export": Wrong("tacit platform import missing.json --platform new", ("missing.json",)),
    "platform: noise": Wrong("tacit platform import noise --platform new", ("noise",)),
    "package-info: missing platform": Wrong("TACIT_PLATFORM=nowhere tacit package-info", ("nowhere",)),
    "manifest: missing file": Wrong("tacit manifest set missing.json localhost:CLIENT", ("missing.json",)),
    "manifest: broken": Wrong("tacit manifest set broken.json localhost:CLIENT", ("JSON",)),
    "manifest: a folder": Wrong("tacit manifest check a-folder", ("a-folder",)),
    "certificate: place is a folder": Wrong("tacit certificate root localhost:CLIENT -o a-folder", ("a-folder",)),
    "secret: missing certificate": Wrong(
        "tacit secret set broken.json localhost:CLIENT --cert missing.crt --key missing.key",
        (),
    ),
    "model: missing": Wrong("tacit model encrypt -k new_key -m missing.onnx", ("missing.onnx",)),
    "model: empty": Wrong("tacit model encrypt -k new_key -m empty", ("empty",)),
    "model: key too short": Wrong("tacit model encrypt -k short_key -m graph.pb --name other", ("short_key",)),
    "model: wrong key": Wrong("tacit model decrypt -k other_key -m encrypted/m.capsule -o /dev/shm/never", ("key",)),
    "model: onto a disk": Wrong("tacit model decrypt -k model_key -m encrypted/m.capsule -o plain-out", ("tmpfs",)),
    "model: ctr without the word": Wrong(
        "tacit model encrypt -k new_key -m graph.pb --format ctr", ("--unauthenticated",), 2
    ),
    "model: exists already": Wrong("tacit model encrypt -k model_key -m graph.pb --name m", ("--force",)),
    "model: no graph": Wrong(
        "tacit model convert --import_path noise --export_dir new --inputs input --outputs predict", ("noise",)
    ),
    "model: no such output": Wrong(
        "tacit model convert --import_path graph.pb --export_dir new --inputs input --outputs nothing", ("nothing",)
    ),
    "bench: unreachable": Wrong("tacit bench --url localhost:CLOSED --loop 1 --cnum 1", ("localhost:CLOSED",)),
    "bench: missing certificate": Wrong("tacit bench --crt missing.crt --loop 1", ("missing.crt",)),
    "bench: noise as certificate": Wrong("tacit bench --crt noise --loop 1", ("noise",)),
    "bench: bad address": Wrong("tacit bench --url localhost --loop 1", ("HOST:PORT",), 2),
    "predict: missing input": Wrong("tacit predict localhost:CLIENT m missing.npy", ("missing.npy",)),
    "up: noise": Wrong("tacit up --once noise", ("noise",)),
}


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything that lies there, but logs of programs, locks and ids, with size and time of change."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".log" and path.name not in {"uuid", "lock"}
    }


def is_quick(case: str) -> bool:
    """The owner's command line has tests of its own; here it is tried as a program, when there is time."""
    return case.startswith(("coordinator:", "premain:", "serve:", "status:"))


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if is_quick(case) else pytest.mark.slow) for case in WRONG]
)
def test_wrong_input_is_refused_in_one_clear_line(scene: Scene, case: str) -> None:
    wrong = WRONG[case]

    def fill(text: str) -> str:
        for word, port in (("CLIENT", scene.client), ("MESH", scene.mesh), ("CLOSED", scene.closed)):
            text = re.sub(rf"(?<![A-Z_]){word}(?![A-Z_])", str(port), text)
        return text

    before = listing(scene.person.folder)
    done = scene.person.try_to(fill(wrong.line))
    said = [
        line
        for line in done.stderr.splitlines()
        # What the programs' logs say before is for whoever reads logs; MarbleRun's premain marks each of its lines.
        if not line.startswith(("{", "Note:", "Warning:")) and not re.match(r"\[PreMain\] \S+ \S+ (?!Error)", line)
    ]
    assert len(said) == 1, done.stderr
    assert done.returncode == wrong.code, done.stderr
    assert [word for word in wrong.names if fill(word) not in said[0]] == [], said[0]
    assert "Traceback" not in done.stdout + done.stderr
    assert listing(scene.person.folder) == before


def test_a_server_with_the_wrong_key_says_so_and_serves_nothing(scene: Scene) -> None:
    line = SERVE.replace("=plain", "=encrypted/m.capsule") + " --port=-1 --model_format=capsule"
    program = scene.person.start(f"{line} --model_key_file=other_key")
    said = program.wait_for("capsule-key")
    assert program.stop() == 0
    assert '"ready"' not in said
    assert "Traceback" not in program.said
