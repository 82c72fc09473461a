"""The templates for Gramine keep every rule of its syntax and of our programs, and a template that breaks one is refused."""

import importlib.util
import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from fakes.command_line import run_main
from fakes.sigstruct import Signer
from tacit.manifest import check_manifest, parse_manifest_strict
from tacit.manifest.codec import parse_package
from tacit.pki import issue_self_signed
from tacit.programs import coordinator

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "gramine"
SOURCE = "".join(path.read_text() for path in (ROOT / "src" / "tacit").rglob("*.py"))
VARIANTS = {
    "coordinator": {"default": {}, "edmm": {"edmm": "true"}, "large": {"size": "4G", "threads": "64", "state": "/s"}},
    "server": {
        "default": {},
        "edmm": {"edmm": "true"},
        "everything": {"encrypted": "/encrypted", "uuid": "/server-uid", "plaintext": "/plain", "size": "8G"},
    },
}
ALL = [pytest.param(name, given, id=f"{name}-{label}") for name in VARIANTS for label, given in VARIANTS[name].items()]


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gramine_script", ROOT / "scripts" / "gramine.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


gramine = load_script()


def rendered(name: str, **variables: str) -> str:
    return str(gramine.render((FOLDER / f"{name}.manifest.template").read_text(), **variables))


def rules(text: str) -> set[str]:
    return {defect.rule for defect in gramine.check(text)}


@pytest.mark.parametrize(("name", "variables"), ALL)
def test_a_template_keeps_every_rule(name: str, variables: dict[str, str]) -> None:
    assert gramine.check(rendered(name, **variables)) == []


@pytest.mark.parametrize("name", VARIANTS)
def test_a_template_does_not_depend_on_the_machine_that_renders_it(name: str) -> None:
    text = (FOLDER / f"{name}.manifest.template").read_text()
    assert "env." not in text.replace("loader.env.", "")
    assert not {"python.", "ldd("} & {word for word in ("python.", "ldd(") if f"{{{{ {word}" in text}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variable_of_a_template_is_one_that_a_program_reads(name: str) -> None:
    manifest = gramine.Manifest(gramine.tomllib.loads(rendered(name)))
    ours = {one for one in manifest.env if one.startswith(("EDG_", "TACIT_"))}
    assert ours
    assert not [one for one in ours | gramine.HOST_MAY_SAY | gramine.PRETENCE if one not in SOURCE]


def test_what_ends_a_program_in_a_real_tee_is_what_the_rule_refuses() -> None:
    from tacit.programs.tee import surroundings

    assert set(surroundings._PRETENCE) == gramine.PRETENCE


def test_the_coordinator_has_a_thread_for_each_of_its_workers() -> None:
    workers = 2 * coordinator.WORKERS
    assert gramine.THREADS["tacit-coordinator"] >= workers + 4 + 2  # Gramine's own; main, and what refreshes collateral


# ---- each way to break one

BROKEN: list[tuple[str, str, str, str]] = [
    # template, what stands there, what is put there, the rule that refuses it
    ("server", "sgx.debug = false", "sgx.debug = true", "fixed"),
    ("server", "sgx.debug = false\n", "", "fixed"),
    ("server", '"dcap"', '"none"', "fixed"),
    ("server", '"dcap"', '"epid"', "value"),
    ("server", '"strict"', '"allow_all_but_log"', "fixed"),
    ("server", "sys.enable_sigterm_injection = true\n", "", "fixed"),
    ("server", "sys.experimental__enable_flock = true\n", "", "fixed"),
    ("coordinator", "sys.disallow_subprocesses = true", "sys.disallow_subprocesses = false", "fixed"),
    ("coordinator", 'log_level = "error"', 'log_level = "warning"', "log-level"),
    ("coordinator", 'log_level = "error"', 'log_level = "loud"', "value"),
    ("coordinator", "sgx.max_threads", "sgx.thread_num", "gone-key"),
    ("coordinator", "libos.entrypoint", 'loader.entrypoint = "file:libsysdb.so"\nlibos.entrypoint', "gone-key"),
    ("coordinator", "libos.entrypoint", 'loader.preload = "file:x"\nlibos.entrypoint', "gone-key"),
    ("coordinator", "libos.entrypoint", "sgx.nonpie_binary = true\nlibos.entrypoint", "gone-key"),
    ("coordinator", "libos.entrypoint", 'fs.mount.lib.path = "/lib"\nlibos.entrypoint', "gone-key"),
    ("coordinator", "libos.entrypoint", 'sgx.protected_files = ["file:/x"]\nlibos.entrypoint', "gone-key"),
    ("coordinator", "libos.entrypoint", "sgx.require_avx = true\nlibos.entrypoint", "gone-key"),
    ("coordinator", "libos.entrypoint", 'loader.pal_internal_mem_size = "1G"\nlibos.entrypoint', "gone-key"),
    ("coordinator", "sgx.max_threads", "sgx.max_thread", "unknown-key"),
    ("coordinator", 'libos.entrypoint = "/usr/bin/python3.11"\n', "", "missing-key"),
    ("coordinator", "sgx.max_threads = 32", 'sgx.max_threads = "32"', "value"),
    ("coordinator", "sgx.isvprodid = 1", "sgx.isvprodid = true", "value"),
    ("coordinator", '"1G"', '"1 GB"', "value"),
    ("coordinator", "libos.entrypoint", "loader.insecure__use_host_env = true\nlibos.entrypoint", "insecure"),
    ("coordinator", "libos.entrypoint", "loader.insecure__use_cmdline_argv = true\nlibos.entrypoint", "insecure"),
    ("coordinator", "libos.entrypoint", "loader.insecure__disable_aslr = true\nlibos.entrypoint", "insecure"),
    ("coordinator", "libos.entrypoint", "sgx.insecure__rpc_thread_num = 4\nlibos.entrypoint", "insecure"),
    ("coordinator", "libos.entrypoint", f'fs.insecure__keys.k = "{"0" * 32}"\nlibos.entrypoint', "insecure"),
    ("coordinator", "libos.entrypoint", "sgx.enable_stats = true\nlibos.entrypoint", "insecure"),
    ("coordinator", "libos.entrypoint", 'sgx.profile.enable = "all"\nlibos.entrypoint', "insecure"),
    ("coordinator", "loader.argv = [", "loader.argv = []\nx = [", "argv"),
    ("coordinator", 'loader.argv = ["/usr/bin/python3.11", ', 'loader.argv = ["python3", ', "argv"),
    ("coordinator", "bin/tacit-coordinator", "bin/other", "argv"),
    ("coordinator", '"-I", ', "", "argv"),
    ("server", 'bin/tacit-premain"]', 'bin/tacit-premain", "sh"]', "argv"),
    ("server", "libos.entrypoint", 'loader.argv_src_file = "file:/args"\nlibos.entrypoint', "argv"),
    ("server", "libos.entrypoint", 'loader.env_src_file = "file:/env"\nlibos.entrypoint', "env"),
    ("server", "TACIT_KDS = { passthrough = true }", "TACIT_KDS = { passthrough = false }", "env"),
    ("server", "TACIT_KDS = { passthrough = true }", "TACIT_KDS = 1", "env"),
    ("server", 'MALLOC_ARENA_MAX = "1"', 'MALLOC_ARENA_MAX = "8"', "env"),
    ("server", 'TACIT_MEMORY_DIR = "/dev/shm"', "TACIT_MEMORY_DIR = { passthrough = true }", "passthrough"),
    ("server", "libos.entrypoint", "loader.env.LD_PRELOAD = { passthrough = true }\nlibos.entrypoint", "passthrough"),
    ("server", "libos.entrypoint", 'loader.env.TACIT_UNATTESTED = "1"\nlibos.entrypoint', "pretence"),
    ("coordinator", "libos.entrypoint", "loader.env.OE_SIMULATION = { passthrough = true }\nlibos.entrypoint", "pretence"),
    ("coordinator", '"1G"', '"3G"', "enclave-size"),
    ("coordinator", '"1G"', '"256M"', "enclave-size"),
    ("server", '"4G"', '"1G"', "enclave-size"),
    ("coordinator", "sgx.max_threads = 32", "sgx.max_threads = 512", "enclave-size"),
    ("coordinator", "sgx.max_threads = 32", "sgx.max_threads = 8", "threads"),
    ("coordinator", 'sys.stack.size = "2M"', 'sys.stack.size = "256K"', "stack"),
    ("coordinator", "sys.fds.limit = 8192", "sys.fds.limit = 70000", "fds"),
    ("coordinator", "sgx.preheat_enclave = true", "sgx.preheat_enclave = true\nsgx.edmm_enable = true", "edmm"),
    ("coordinator", "sgx.preheat_enclave = true\n", "", "edmm"),
    ("coordinator", "sgx.isvsvn = 1", "sgx.isvsvn = 0", "identity"),
    ("coordinator", "sgx.isvprodid = 1\n", "", "identity"),
    ("coordinator", "libos.entrypoint", 'sgx.seal_key.flags_mask = "all"\nlibos.entrypoint', "identity"),
    ("server", '{ type = "tmpfs", path = "/dev/shm" }', '{ type = "untrusted_shm", path = "/dev/shm", uri = "dev:/x" }', "mount"),
    ("server", "libos.entrypoint", 'fs.root.uri = "file:/"\nlibos.entrypoint', "mount"),
    ("server", 'path = "/models", uri = "file:/models"', 'path = "/models", uri = "file:models"', "mount"),
    ("server", 'path = "/models", uri = "file:/models"', 'path = "/models", uri = "file:/"', "mount"),
    ("server", 'path = "/models", uri = "file:/models"', 'path = "/dev/attestation", uri = "file:/models"', "mount"),
    ("server", 'path = "/models", uri', 'path = "/models", readonly = true, uri', "mount"),
    ("server", 'type = "tmpfs", path = "/tmp"', 'type = "chroot", path = "/tmp", uri = "file:/tmp"', "memory"),
    ("server", 'TACIT_MEMORY_DIR = "/dev/shm"', 'TACIT_MEMORY_DIR = "/models"', "memory"),
    ("server", 'HOME = "/tmp"', 'HOME = "/marble"', "memory"),
    ("server", ", enable_recovery = true", "", "recovery"),
    ("server", 'key_name = "_sgx_mrsigner"', 'key_name = "default"', "key-name"),
    ("server", 'key_name = "_sgx_mrsigner", ', "", "key-name"),
    ("server", "enable_recovery = true }", "enable_recoveri = true }", "mount"),
    ("server", '  "file:/models/",', '  "file:/models/",\n  "file:/marble/",', "files"),
    ("server", '  "file:/models/",', "", "files"),
    ("server", '  "file:/models/",', '  "file:/models/",\n  "file:/usr/",', "files"),
    ("server", '  "file:/models/",', '  "file:/",', "files"),
    ("server", '  "file:/models/",', '  "file:/models/",\n  "file:/usr/local/lib/x.py",', "files"),
    ("server", '  "file:/usr/lib/x86_64-linux-gnu/",', '  "file:/usr/lib/x86_64-linux-gnu",', "measured"),
    ("server", '  "file:/usr/bin/tacit-premain",\n', "", "measured"),
    ("server", '  "file:/lib/x86_64-linux-gnu/",', '  "file:/lib/x86_64-linux-gnu",', "measured"),
    ("server", '  "file:/etc/tacit/coordinator.json",\n', "", "measured"),
    ("server", 'TACIT_COORDINATOR_PACKAGE = "/etc/tacit/coordinator.json"', 'X = "y"', "measured"),
    ("server", 'TACIT_TRUST_DIR = "/marble/trust"', 'TACIT_TRUST_DIR = "/models"', "trust"),
    ("server", 'TACIT_TRUST_DIR = "/marble/trust"', 'X = "y"', "trust"),
    ("coordinator", 'SEAL_DIR = "/coordinator/data"', 'SEAL_DIR = "/tmp/state"', "state"),
    ("coordinator", 'SEAL_DIR = "/coordinator/data"', 'SEAL_DIR = "/usr/lib/state"', "state"),
    ("coordinator", "sgx.debug = false", "sgx.debug = ", "syntax"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "there", "put", "rule"), BROKEN)
def test_a_broken_template_is_refused_by_name(name: str, there: str, put: str, rule: str) -> None:
    text = rendered(name)
    assert there in text
    assert rule in rules(text.replace(there, put))


def test_every_rule_has_a_template_that_breaks_it() -> None:
    named = set(gramine.re.findall(r'Defect\(\s*"([a-z-]+)"', (ROOT / "scripts" / "gramine.py").read_text()))
    elsewhere = {"key-order", "key-placed", "server-env"}  # below: they need an encrypted mount, or two manifests
    assert named - elsewhere == {rule for *_, rule in BROKEN}


@pytest.mark.parametrize(
    ("there", "put"),
    [
        ('TACIT_MEMORY_DIR = "/dev/shm"', 'TACIT_MEMORY_DIR = "/encrypted/x"'),
        ('LD_LIBRARY_PATH = "', 'LD_LIBRARY_PATH = "/encrypted:'),
        ('{ path = "/models",', '{ path = "/encrypted/models",'),
        ("libos.entrypoint", 'fs.start_dir = "/encrypted"\nlibos.entrypoint'),
    ],
)
def test_nothing_touches_an_encrypted_mount_before_its_key_is_there(there: str, put: str) -> None:
    text = rendered("server", encrypted="/encrypted")
    assert there in text
    assert "key-order" in rules(text.replace(there, put))


def test_two_mounts_of_one_encrypted_folder_are_refused() -> None:
    assert "mount" in rules(rendered("server", encrypted="/marble/models"))


# ---- with the coordinator's manifest

MARBLE = (FOLDER / "marble.json").read_text()


def together(marble: Any, **variables: str) -> list[str]:
    return [str(one) for one in gramine.check_together(rendered("server", **variables), json.dumps(marble))]


def test_the_manifest_for_marbles_in_gramine_fits_the_template() -> None:
    assert together(json.loads(MARBLE), encrypted="/encrypted") == []
    assert together(json.loads(MARBLE), encrypted="/encrypted", edmm="true") == []


def test_an_encrypted_mount_without_a_key_among_the_files_is_refused() -> None:
    marble = json.loads(MARBLE)
    del marble["Marbles"]["server"]["Parameters"]["Files"]
    assert any("key-placed" in one and "never opens" in one for one in together(marble, encrypted="/encrypted"))


def test_a_key_for_no_mount_is_refused() -> None:
    assert any("key-placed" in one and "no mount" in one for one in together(json.loads(MARBLE)))


def test_a_server_that_would_not_find_its_libraries_is_refused() -> None:
    marble = json.loads(MARBLE)
    del marble["Marbles"]["server"]["Parameters"]["Env"]["LD_LIBRARY_PATH"]
    assert any("server-env" in one for one in together(marble, encrypted="/encrypted"))


def test_a_signed_enclave_gives_the_package_that_the_other_side_pins(
    tmp_path: Path,
) -> None:
    signature = tmp_path / "coordinator.sig"
    numbers = gramine.Manifest(gramine.tomllib.loads(rendered("coordinator"))).flat
    signer = Signer(product_id=numbers["sgx.isvprodid"], security_version=numbers["sgx.isvsvn"])
    signature.write_bytes(signer.sign())
    package = parse_package(run_main("package-info", signature, "--output", "json").out.encode())
    assert (package.product_id, package.security_version, package.debug) == (1, 1, False)


def test_the_manifest_for_marbles_is_accepted_once_it_is_filled_in() -> None:
    owner = issue_self_signed(["owner"], common_name="owner", now=datetime(2026, 11, 1, tzinfo=UTC))
    marble = json.loads(MARBLE.replace("YOUR_SIGNER_ID_HERE", "ab" * 32).replace("YOUR_MODEL_ID_HERE", "cd" * 32))
    marble["Users"]["owner"]["Certificate"] = owner.certificate_pem.decode()
    manifest = parse_manifest_strict(json.dumps(marble).encode())
    assert check_manifest(manifest) == ()
    numbers = gramine.Manifest(gramine.tomllib.loads(rendered("server"))).flat
    assert manifest.packages["server"].product_id == numbers["sgx.isvprodid"]
    assert manifest.packages["server"].security_version == numbers["sgx.isvsvn"]


# ---- the command


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = [sys.executable, str(ROOT / "scripts" / "gramine.py"), *arguments]
    return subprocess.run(done, capture_output=True, text=True, check=False)


def test_the_command_names_each_defect_and_fails(tmp_path: Path) -> None:
    file = tmp_path / "server.manifest"
    file.write_text(script("render", str(FOLDER / "server.manifest.template"), "-Dencrypted=/e").stdout)
    good = script("check", str(file), "--marble", str(FOLDER / "marble.json"))
    assert (good.returncode, good.stderr) == (0, "")
    file.write_text(file.read_text().replace("sgx.debug = false", "sgx.debug = true"))
    bad = script("check", str(file))
    assert bad.returncode == 1
    assert bad.stderr == "Error: fixed: sgx.debug: has to be false: the host reads the memory of a debug enclave\n"


@pytest.mark.tools
@pytest.mark.parametrize(("name", "variables"), ALL)
def test_gramine_s_own_tool_accepts_the_template(name: str, variables: dict[str, str], tmp_path: Path) -> None:
    tool = shutil.which("gramine-manifest")
    if tool is None:
        pytest.fail("gramine-manifest is not on this machine; install Gramine 1.9 and run this again")
    given = [f"-D{key}={value}" for key, value in variables.items()]
    made = tmp_path / "made.manifest"
    subprocess.run([tool, *given, FOLDER / f"{name}.manifest.template", made], check=True)
    assert gramine.check(made.read_text()) == []


# ---- gsc


@pytest.mark.parametrize("name", VARIANTS)
def test_gsc_is_told_what_the_template_says(name: str) -> None:
    template = gramine.Manifest(gramine.tomllib.loads(rendered(name)))
    told = gramine.Manifest(gramine.tomllib.loads((FOLDER / "gsc" / f"{name}.manifest").read_text()))
    own = {"libos.entrypoint", "loader.argv", "loader.log_level", "sgx.debug", "sgx.trusted_files"}
    assert set(template.flat) - set(told.flat) == own
    for key in set(told.flat) - {"fs.mounts", "loader.env"}:
        assert told.flat[key] == template.flat[key], key
    assert told.env == {key: value for key, value in template.env.items() if key != "LD_LIBRARY_PATH"}
    memory_and_sealed = [one for one in template.mounts if one.get("type", "chroot") != "chroot"]
    assert told.mounts == memory_and_sealed


def test_gsc_builds_on_the_distribution_that_its_image_has() -> None:
    config = yaml.safe_load((FOLDER / "gsc" / "config.yaml").read_text())
    assert set(config) == {"Distro", "Registry", "Gramine", "SGXDriver"}
    assert config["Gramine"]["Branch"] == "v1.9"
    assert f"FROM {config['Distro']}-slim\n" in (FOLDER / "gsc" / "Dockerfile").read_text()
