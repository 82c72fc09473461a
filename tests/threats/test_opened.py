"""T59: what a program opens before it is ready, file by file, and that docs/inputs.md lists all of it.

Python reports each opening to an audit hook before it happens, so a program started with one tells on itself.
"""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fakes import models
from fakes.programs import CoordinatorProcess, make_platform_folder
from tacit.pki import issue_self_signed
from tacit.vault import seal_folder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "inputs.md"
HOOK = """
import sys
_out = open(sys.argv.pop(1), "a", buffering=1)
def _tell(event, arguments):
    if event in ("open", "os.listdir", "os.scandir", "socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen",
                 "os.exec", "os.system", "os.posix_spawn", "ctypes.dlopen"):
        try:
            _out.write(event + "\\t" + str(arguments[1] if event.startswith("socket.connect") else arguments[0]) + "\\n")
        except Exception:
            pass
sys.addaudithook(_tell)
from tacit.programs.{program} import main
sys.argv[0] = "{program}"
main()
"""


def start(program: str, folder: Path, arguments: list[str], environ: dict[str, str]) -> tuple[list[str], str]:
    """What `program` opened until it ended or was ready, and what it said."""
    told, said = folder / "told", folder / "said"
    told.touch()
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), **environ}
    command = [sys.executable, "-P", "-c", HOOK.replace("{program}", program), str(told), *arguments]
    with said.open("wb") as log:
        running = subprocess.Popen(command, cwd=folder, env=env, stderr=log, stdout=log)
        try:
            for _ in range(1800):
                if re.search(rb'mesh API listening|PreMain. .* starting |"event": "ready"', said.read_bytes()):
                    break
                try:
                    running.wait(0.05)
                    break
                except subprocess.TimeoutExpired:
                    continue
            running.wait(1)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
    return told.read_text().splitlines(), said.read_text()


def listed(section: str) -> list[re.Pattern[str]]:
    """The patterns that the page lists for a program: `*` for a part of a name, `**` for any number of folders."""
    text = PAGE.read_text().partition(f"## {section}\n")[2].partition("\n## ")[0]
    shown = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    return [
        re.compile(re.escape(one).replace(r"\*\*", ".{0,}").replace(r"\*", "[^/]*").replace(r"\[0\-9\]", r"\d+"))
        for one in shown
    ]


def unlisted(told: list[str], section: str, places: dict[str, Path]) -> set[str]:
    """What was opened and no line of the page names. Places of this run are written as the page writes them."""
    patterns, found = listed(section), set()
    assert patterns
    named = {**places, "PYTHON": Path(sys.base_prefix), "VENV": Path(sys.prefix), "SOURCE": ROOT / "src"}
    by_length = sorted(named.items(), key=lambda item: -len(str(item[1])))
    for line in told:
        event, _, what = line.partition("\t")
        for name, path in by_length:
            what = what.replace(str(path.resolve()), name).replace(str(path), name)
        if not any(one.fullmatch(f"{event} {what}") for one in patterns):
            found.add(f"{event} {what}")
    return found


@pytest.mark.timeout(600)
def test_t59_the_coordinator_opens_what_the_page_lists_and_nothing_else(tmp_path: Path) -> None:
    platform = make_platform_folder(tmp_path / "platform")
    environ = {f"EDG_COORDINATOR_{kind}_ADDR": "127.0.0.1:0" for kind in ("CLIENT", "MESH")}
    environ |= {"TACIT_PLATFORM": str(platform), "EDG_COORDINATOR_SEAL_DIR": str(tmp_path / "seal")}
    told, said = start("coordinator", tmp_path, [], environ)
    assert "mesh API listening" in said
    assert not [line for line in told if line.startswith(("socket.connect", "subprocess", "os.exec", "os.system"))]
    places = {"PLATFORM": platform, "SEAL": tmp_path / "seal", "HOME": tmp_path}
    assert unlisted(told, "tacit-coordinator", places) == set()


@pytest.mark.timeout(600)
def test_t59_premain_opens_what_the_page_lists_and_nothing_else(tmp_path: Path) -> None:
    from tacit.evidence.issue import load_package_info

    platform = make_platform_folder(tmp_path / "platform")
    ids = {name: load_package_info(platform, program=name).unique_id.hex() for name in ("coordinator", "marble")}
    (tmp_path / "marble").mkdir()
    package = tmp_path / "marble" / "coordinator.json"
    package.write_text(json.dumps({"TEE": "simulated", "UniqueID": ids["coordinator"]}))
    manifest = {
        "Packages": {"p": {"TEE": "simulated", "UniqueID": ids["marble"]}},
        "Marbles": {"m": {"Package": "p", "Parameters": {"Argv": ["true"], "Files": {"f": "x"}}}},
    }
    with CoordinatorProcess(tmp_path, platform=platform) as coordinator, coordinator.http() as api:
        api.post("/manifest", content=json.dumps(manifest).encode()).raise_for_status()
        environ = {
            "TACIT_PLATFORM": str(platform),
            "EDG_MARBLE_TYPE": "m",
            "EDG_MARBLE_COORDINATOR_ADDR": coordinator.mesh,
            "TACIT_COORDINATOR_API": coordinator.client.replace("127.0.0.1", "localhost"),
            "TACIT_COORDINATOR_PACKAGE": str(package),
        }
        told, said = start("premain", tmp_path / "marble", [], environ)
        ports = {coordinator.mesh.rpartition(":")[2], coordinator.client.rpartition(":")[2]}
    assert "starting true" in said, said
    assert not [line for line in told if line.startswith(("subprocess", "os.system"))]
    connected = [re.findall(r", (\d+)", line)[0] for line in told if line.startswith("socket.connect\t")]
    assert set(connected) == ports
    places = {"PLATFORM": platform, "WORK": tmp_path / "marble", "HOME": tmp_path}
    assert unlisted(told, "tacit-premain", places) == set()


@pytest.mark.timeout(600)
def test_t59_an_attested_model_server_opens_what_the_page_lists_and_nothing_else(tmp_path: Path) -> None:
    source, keys, key = tmp_path / "source", tmp_path / "private" / "keys", bytes(range(32))
    for folder in (source, keys):
        folder.mkdir(parents=True)
    (source / "model.onnx").write_bytes(models.onnx_model())
    (keys / "m").write_bytes(key)
    (tmp_path / "storage").mkdir()
    info = seal_folder(source, tmp_path / "storage" / "m.capsule", key, name="m", version=5)
    identity = issue_self_signed(["localhost"], common_name="server", now=datetime.now(UTC))
    environ = {
        "TACIT_TEE": "simulated",
        "TACIT_KEY_DIR": str(keys),
        "TACIT_MODELS": json.dumps({"m": {"format": "capsule", "id": info.id.hex(), "minVersion": 5, "key": "k"}}),
        "TACIT_CLIENTS": json.dumps({"c": {"token": "00" * 32, "models": ["m"]}}),
        "MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN": identity.certificate_pem.decode(),
        "MARBLE_PREDEFINED_PRIVATE_KEY": identity.key_pem.decode(),
    }
    base = tmp_path / "storage" / "m.capsule"
    flags = ["--model_name=m", f"--model_base_path={base}", "--host=127.0.0.1", "--port=-1", "--rest_api_port=-1"]
    told, said = start("serve", tmp_path, flags, environ)
    assert '"event": "ready"' in said, said
    assert not [line for line in told if line.startswith(("socket.connect", "os.exec", "os.system"))]
    # The process in which a model is tried out.
    assert {line for line in told if line.startswith("subprocess")} == {f"subprocess.Popen\t{sys.executable}"}
    places = {"STORAGE": tmp_path / "storage", "KEYS": keys, "HOME": tmp_path}
    assert unlisted(told, "tacit-serve", places) == set()
