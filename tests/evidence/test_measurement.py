"""What a measurement is made of, and what changes it."""

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tacit.errors import PlatformError
from tacit.evidence.issue import load_inventory
from tacit.evidence.issue import program as issuing
from tacit.evidence.simulated.measure import (
    Distribution,
    Inventory,
    Module,
    close_imports,
    hash_files,
    normal_record,
    parse_imports,
    parse_requirement,
)

SOURCE = Path(__file__).parents[2] / "src" / "tacit"


def module(name: str, source: str, *, is_package: bool = False, **data: bytes) -> Module:
    return Module(name, textwrap.dedent(source).encode(), is_package=is_package, data=data)


def finder(*modules: Module) -> Callable[[str], Module | None]:
    return {one.name: one for one in modules}.get


def closed(*modules: Module) -> set[str]:
    found, _ = close_imports([modules[0].name], finder(*modules))
    return set(found)


@pytest.mark.parametrize(
    "statement",
    [
        "import tacit.b",
        "import tacit.b as other, json",
        "from tacit import b",
        "from tacit.b import thing",
        "from . import b",
        "from .b import thing",
        "def f():\n    import tacit.b",
        "class C:\n    async def f(self):\n        from tacit.b import x",
        "if True:\n    try:\n        import tacit.b\n    except ImportError: pass",
        "import importlib; importlib.import_module('tacit.b')",
        "ENGINES = {'b': 'tacit.b'}",
    ],
)
def test_every_way_to_import_is_followed(statement: str) -> None:
    assert closed(module("tacit.a", statement), module("tacit.b", ""), module("tacit.c", "")) == {"tacit.a", "tacit.b"}


def test_relative_imports_of_a_package_are_its_own() -> None:
    package = module("tacit.a", "from .b import x\nfrom ..c import y", is_package=True)
    assert closed(package, module("tacit.a.b", ""), module("tacit.c", ""), module("tacit.b", "")) == {
        "tacit.a",
        "tacit.a.b",
        "tacit.c",
    }


def test_packages_above_a_module_are_measured_with_it() -> None:
    found = closed(
        module("tacit.a", "import tacit.room.b"),
        module("tacit.room", "import tacit.room.c", is_package=True),
        module("tacit.room.b", ""),
        module("tacit.room.c", ""),
    )
    assert found == {"tacit.a", "tacit.room", "tacit.room.b", "tacit.room.c"}


def test_lazy_attributes_of_a_package_passed_through_do_not_count() -> None:
    lazy = module("tacit.room", "def __getattr__(name):\n    from tacit.c import x", is_package=True)
    others = (lazy, module("tacit.room.b", ""), module("tacit.c", ""))
    assert "tacit.c" not in closed(module("tacit.a", "import tacit.room.b"), *others)
    assert "tacit.c" in closed(module("tacit.a", "from tacit.room import x"), *others)


def test_imports_for_type_checkers_do_not_count() -> None:
    source = (
        "if TYPE_CHECKING:\n    import tacit.b\nelse:\n    import tacit.c\nif typing.TYPE_CHECKING:\n    import tacit.b"
    )
    assert closed(module("tacit.a", source), module("tacit.b", ""), module("tacit.c", "")) == {"tacit.a", "tacit.c"}


def test_cycles_end() -> None:
    assert closed(module("tacit.a", "import tacit.b"), module("tacit.b", "import tacit.a")) == {"tacit.a", "tacit.b"}


def test_foreign_imports_are_told_apart() -> None:
    _, foreign = close_imports(["tacit.a"], finder(module("tacit.a", "import numpy.linalg\nfrom os import path")))
    assert foreign == {"numpy.linalg", "os", "os.path"}


def test_source_that_is_not_python_is_named() -> None:
    with pytest.raises(PlatformError, match=r"tacit\.a"):
        parse_imports(module("tacit.a", "def"), lazy=True)


def test_data_files_are_measured_with_their_package() -> None:
    files = hash_files([module("tacit.a", "", is_package=True, table=b"1")])
    assert set(files) == {"tacit.a", "tacit.a/table"}


INVENTORY = Inventory(
    python="CPython 3.11.7",
    files={"tacit.a": b"\1" * 32, "tacit.b": b"\2" * 32},
    distributions=(Distribution("numpy", "2.0", b"\3" * 32), Distribution("msgspec", "0.22", b"\4" * 32)),
    missing=frozenset({"absent"}),
)


def test_order_does_not_enter_the_measurement() -> None:
    turned = Inventory(
        python=INVENTORY.python,
        files=dict(reversed(INVENTORY.files.items())),
        distributions=tuple(reversed(INVENTORY.distributions)),
        missing=INVENTORY.missing,
    )
    assert turned.measurement() == INVENTORY.measurement()


@pytest.mark.parametrize(
    "other",
    [
        replace(INVENTORY, python="CPython 3.11.8"),
        replace(INVENTORY, files={**INVENTORY.files, "tacit.a": bytes(32)}),
        replace(INVENTORY, files={"tacit.a": b"\1" * 32}),
        replace(INVENTORY, files={"tacit.a": b"\2" * 32, "tacit.b": b"\1" * 32}),
        replace(INVENTORY, distributions=INVENTORY.distributions[:1]),
        replace(INVENTORY, distributions=(Distribution("numpy", "2.1", b"\3" * 32), INVENTORY.distributions[1])),
        replace(INVENTORY, distributions=(Distribution("numpy", "2.0", bytes(32)), INVENTORY.distributions[1])),
        replace(INVENTORY, missing=frozenset()),
    ],
    ids=["python", "file", "one-less", "swapped", "dependency-gone", "version", "record", "missing"],
)
def test_each_entry_enters_the_measurement(other: Inventory) -> None:
    assert other.measurement() != INVENTORY.measurement()


def test_record_of_an_installation_is_the_same_everywhere() -> None:
    here = textwrap.dedent("""\
        ../../../bin/tool,sha256=AAAA,200
        pkg/__init__.py,sha256=BBBB,10
        pkg/__pycache__/__init__.cpython-311.pyc,,
        pkg-1.dist-info/RECORD,,
        pkg-1.dist-info/INSTALLER,sha256=CCCC,4
        pkg-1.dist-info/METADATA,sha256=DDDD,4
        """)
    there = textwrap.dedent("""\
        pkg-1.dist-info/METADATA,sha256=DDDD,4
        pkg-1.dist-info/REQUESTED,sha256=EEEE,0
        pkg-1.dist-info/direct_url.json,sha256=FFFF,4
        ../../../bin/tool,sha256=GGGG,230
        pkg/__init__.py,sha256=BBBB,10
        """)
    assert normal_record(here) == normal_record(there)
    assert normal_record(here) != normal_record(here.replace("BBBB", "XXXX"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("numpy", "numpy"),
        ("Typing_Extensions (>=4)", "typing-extensions"),
        ("h2<5,>=3.1.0", "h2"),
        ("uvloop>=0.15; sys_platform != 'win32' and extra == 'standard'", None),
        ('colorama; sys_platform == "win32"', "colorama"),
        ("httpcore[asyncio]==1.*", "httpcore"),
        ("", None),
    ],
)
def test_requirements_without_extras_are_followed(text: str, expected: str | None) -> None:
    assert parse_requirement(text) == expected


# ---- on disk


SCRIPT = """
import json, sys
from tacit.errors import TacitError
from tacit.evidence import issue as issuing
from tacit.evidence.issue import load_inventory
try:
    found = load_inventory(sys.argv[1])
except TacitError as exc:
    print(json.dumps({"error": str(exc)}))
else:
    print(json.dumps({"measurement": found.measurement().hex(), "files": sorted(found.files),
                      "distributions": [one.name for one in found.distributions], "missing": sorted(found.missing)}))
"""


class Copy:
    """A copy of the room with a small coordinator, as if installed elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.package = folder / "tacit"
        self.package.mkdir(parents=True)
        (self.package / "__init__.py").write_text("")
        for name in ("errors.py", "status.py"):
            shutil.copy(SOURCE / name, self.package)
        shutil.copytree(SOURCE / "evidence", self.package / "evidence", ignore=shutil.ignore_patterns("__pycache__"))
        (self.package / "programs").mkdir()
        (self.package / "programs" / "__init__.py").write_text("")
        (self.package / "programs" / "coordinator.py").write_text("from tacit.evidence import issue, fetch\n")

    def measure(self, program: str = "coordinator", *flags: str) -> dict[str, object]:
        done = subprocess.run(
            [sys.executable, *flags, "-c", SCRIPT, program],
            env={"PYTHONPATH": str(self.package.parent)}, check=True, capture_output=True, text=True,
        )  # fmt: skip
        found: dict[str, object] = json.loads(done.stdout)
        return found


def test_measurement_is_of_the_files_and_not_of_their_place(tmp_path: Path) -> None:
    one, other = Copy(tmp_path / "one"), Copy(tmp_path / "far" / "away")
    first = one.measure("coordinator", "-B")
    assert first == other.measure()
    assert list(other.package.rglob("*.pyc"))
    assert first == other.measure()  # byte code lies there now
    assert {"tacit.programs.coordinator", "tacit.evidence.anchor.roots", "tacit.errors"} <= set(first["files"])  # type: ignore[call-overload]
    assert {"cryptography", "cffi", "dcap-qvl"} <= set(first["distributions"])  # type: ignore[call-overload]
    assert first["missing"] == []


def test_changed_file_changes_the_measurement(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    before = copy.measure()["measurement"]
    changed = copy.package / "evidence" / "verify" / "binding.py"
    changed.write_text(changed.read_text() + "\n# changed\n")
    assert copy.measure()["measurement"] != before


def test_file_that_no_program_loads_does_not_change_the_measurement(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    before = copy.measure()["measurement"]
    (copy.package / "elsewhere.py").write_text("")
    assert copy.measure()["measurement"] == before


@pytest.mark.parametrize("program", ["coordinator", "marble"])
def test_the_installed_programs_can_be_measured(program: str) -> None:
    found, again = load_inventory(program), load_inventory(program)
    assert found.measurement() == again.measurement()
    assert "tacit.evidence.anchor.roots" in found.files
    assert {"cryptography", "dcap-qvl"} <= {one.name for one in found.distributions}
    assert found.missing <= {"tensorflow", "uvloop"}, "what few need; that it is not here is measured too"


def test_no_program_is_measured_with_the_command_line_of_the_owner() -> None:
    # What no enclave image carries does not enter an enclave's measurement.
    for program in ("coordinator", "marble"):
        assert not [name for name in load_inventory(program).files if f"{name}.".startswith("tacit.cli.")]


def test_import_that_nothing_provides_is_written_down() -> None:
    distributions, missing = issuing._find_distributions(frozenset({"no_such_library.part", "json", "google.protobuf"}))
    assert missing == {"no_such_library"}
    assert [one.name for one in distributions] == ["protobuf"]


def test_module_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(PlatformError, match="Input/output error"):
        load_inventory("coordinator")


def test_program_that_nobody_knows_is_named() -> None:
    with pytest.raises(PlatformError, match="coordinator and marble"):
        load_inventory("spy")


def test_program_that_is_not_installed_is_named(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    assert "tacit.programs.premain" in str(copy.measure("marble")["error"])
    assert "there are coordinator and marble" in str(copy.measure("other")["error"])
