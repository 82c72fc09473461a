"""The images as they were built: what is in them, that their programs start, and that the same inputs give the same ones."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest

import tacit
from fakes.containers import IMAGES, LIMITS, OUT, package_of, podman, reference, require_images, run_python

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

ROOMS: Mapping[str, tuple[str, ...]] = {
    "tacit-coordinator": ("coordinator",),
    "tacit-serve": ("premain", "serve"),
    "tacit-premain": ("premain",),
    "tacit-injector": ("injector",),
}
ALL = (*ROOMS, "tacit-cli")
ENCLAVES = ("tacit-coordinator", "tacit-serve", "tacit-premain")
LIST_MODULES = """
import importlib.util, pathlib
root = pathlib.Path(importlib.util.find_spec("tacit").origin).parent
print("\\n".join(sorted(str(one.relative_to(root)) for one in root.rglob("*") if one.is_file() and one.suffix != ".pyc")))
"""
LIST_PROGRAMS = """
import os
folders = [at for at in ("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin") if os.path.isdir(at)]
print("\\n".join({one for at in folders for one in os.listdir(at)}))
"""
UNWANTED = set(
    [
        "sh",
        "bash",
        "dash",
        "busybox",
        "apt",
        "apt-get",
        "dpkg",
        "pip",
        "pip3",
        "gcc",
        "cc",
        "perl",
        "tacit",
        "tar",
        "openssl",
    ]
)
UNWANTED_MODULES = "('pip', 'ensurepip', 'setuptools', 'typer')"
CONFINED = ("--rm", "--network", "none", "--read-only", "--read-only-tmpfs=false", "--cap-drop", "all")


@pytest.fixture(autouse=True)
def images() -> None:
    require_images()


@pytest.fixture(scope="module")
def contents() -> ModuleType:
    """The part of the build that says what belongs into an image."""
    spec = importlib.util.spec_from_file_location("contents", IMAGES / "contents.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("image", ROOMS)
def test_an_image_holds_only_the_rooms_that_its_program_may_load(image: str, contents: ModuleType) -> None:
    package = Path(tacit.__file__).parent
    allowed = {one.relative_to(package).as_posix() for one in contents.close_rooms(package, ROOMS[image])}
    assert set(run_python(image, LIST_MODULES).split()) == allowed


@pytest.mark.parametrize("image", ROOMS)
def test_a_program_can_load_each_of_its_modules_in_its_image(image: str) -> None:
    """Nothing was left out that it needs: every module in the image can be imported there."""
    script = """
import importlib, pkgutil, tacit
optional = {"onnxruntime", "tensorflow"}
for one in pkgutil.walk_packages(tacit.__path__, "tacit."):
    try:
        importlib.import_module(one.name)
    except ModuleNotFoundError as exc:
        if exc.name.split(".")[0] not in optional:
            raise
print("loaded")
"""
    assert "loaded" in run_python(image, script)


@pytest.mark.parametrize("image", ENCLAVES)
def test_an_enclave_has_no_shell_no_compiler_no_pip_and_no_command_line(image: str) -> None:
    programs = set(run_python(image, LIST_PROGRAMS).split())
    assert not programs & UNWANTED
    script = f"import importlib.util as u; print([u.find_spec(name) for name in {UNWANTED_MODULES}])"
    assert run_python(image, script).strip() == "[None, None, None, None]"


@pytest.mark.parametrize(
    ("image", "words", "said"),
    [
        ("tacit-coordinator", ["--version"], "tacit-coordinator"),
        ("tacit-serve", ["--help"], "tacit-premain"),
        ("tacit-premain", ["--help"], "tacit-premain"),
        ("tacit-injector", ["--help"], "tacit-injector"),
        ("tacit-cli", ["--help"], "Confidential machine learning"),
    ],
)
def test_a_program_starts_from_its_image_without_root_and_without_writing(
    image: str, words: list[str], said: str
) -> None:
    done = podman("run", *CONFINED, *LIMITS, reference(image), *words)
    assert said in done.stdout
    assert run_python(image, "import os; print(os.getuid(), os.getgid())") == "65532 65532\n"


@pytest.mark.parametrize("image", ENCLAVES)
def test_what_is_measured_is_what_the_build_wrote_for_manifests(image: str) -> None:
    program = "coordinator" if image == "tacit-coordinator" else "marble"
    script = f"from tacit.evidence.issue.program import load_inventory as l; print(l({program!r}).measurement().hex())"
    assert package_of(image) == {"TEE": "simulated", "UniqueID": run_python(image, script).strip()}


def test_the_environment_brings_no_module_into_a_program(tmp_path: Path) -> None:
    (tmp_path / "tacit").mkdir(mode=0o755)
    (tmp_path / "tacit" / "__init__.py").write_text("raise SystemExit('somebody else')")
    tmp_path.chmod(0o755)
    place = ("--volume", f"{tmp_path}:/more:ro", "--env", "PYTHONPATH=/more", "--workdir", "/more")
    done = podman("run", *CONFINED, *LIMITS, *place, reference("tacit-premain"), "--help")
    assert "tacit-premain" in done.stdout


@pytest.mark.parametrize("image", ALL)
def test_the_bill_of_materials_names_everything_that_is_in_the_image(image: str) -> None:
    text = (OUT / f"{image}.sbom.json").read_text()
    assert run_python(image, f"print(open('/usr/share/sbom/{image}.cdx.json').read(), end='')") == text
    named = {one["purl"].partition("?")[0] for one in json.loads(text)["components"]}
    script = """
import importlib.metadata as m, pathlib, re
for one in m.distributions():
    name = re.sub("[-_.]+", "-", one.metadata["Name"]).lower()
    print(f"pkg:pypi/{name}@{one.version}")
for one in pathlib.Path("/var/lib/dpkg/status.d").iterdir():
    fields = dict(line.split(": ", 1) for line in one.read_text().splitlines() if re.match("(Package|Version): ", line))
    print(f"pkg:deb/debian/{fields['Package']}@{fields['Version']}")
"""
    there = set(run_python(image, script).split())
    assert len(there) > 25
    assert {_plain(one) for one in there} <= {_plain(unquote(one)) for one in named}


def _plain(purl: str) -> str:
    return re.sub("[-_.]+", "-", purl).lower()


def test_the_same_inputs_give_the_same_digest_twice() -> None:
    """Two builds that know nothing of each other, of the smallest image; `make images-twice` does all of them."""
    done = subprocess.run([str(IMAGES / "reproduce.sh"), "tacit-premain"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"localhost/tacit-premain:\S+ sha256:[0-9a-f]{64}\nthe same, twice\n", done.stdout)


def test_a_name_that_is_no_image_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, str(IMAGES / "build.py"), "tacit-all"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: no image tacit-all; there are tacit-coordinator, ")
    assert len(done.stderr.splitlines()) == 1
