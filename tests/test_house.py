"""The rules of the house that no linter holds: sizes, names, doors, I/O census, and what the project speaks of."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "tacit"
GENERATED = PACKAGE / "wire" / "pb"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if GENERATED not in path.parents)
ROOMS = sorted(
    folder
    for folder in PACKAGE.rglob("*")
    if folder.is_dir() and folder != GENERATED and folder.name != "__pycache__" and (folder / "__init__.py").exists()
)

MAX_MODULE = 600  # lines; modules aim at 400
MAX_FUNCTION = 40  # lines of code: no blank lines, no comments, no docstring
MAX_ROOM = 10  # modules and sub-rooms
MAX_DOOR = 10  # names in a room's __all__
FORBIDDEN_NAMES = {"util", "utils", "common", "helpers", "helper", "misc", "base"}

# What touches the world. Nothing else may open a file, a socket or a process.
WORLD = (
    "programs/",
    "cli/",
    "edge/",
    "client/",
    "kube/cluster.py",
    "kube/helm.py",
    "kube/forward.py",
    "coordinator/store/",
    "coordinator/api/",
    "marble/premain.py",
    "marble/place.py",
    "marble/write.py",
    "serving/bundle.py",
    "serving/repository.py",
    "serving/sources.py",
    "serving/engines/",
    "serving/loading/",
    "serving/tfs/",
    "evidence/issue/",
    "evidence/fetch/",
    "vault/files.py",
    "pki/tls/",
)


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def touches_the_world(path: Path) -> bool:
    return relative(path).startswith(WORLD)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, source: list[str]) -> int:
    """Lines of a function that are code: docstring, blank lines and comments do not count."""
    body = function.body
    first = body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        body = body[1:]
    if not body:
        return 0
    lines = source[body[0].lineno - 1 : function.end_lineno]
    return sum(1 for line in lines if line.strip() and not line.strip().startswith("#"))


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_module_is_small_and_says_what_it_is(path: Path) -> None:
    source = path.read_text().splitlines()
    tree = tree_of(path)
    assert len(source) <= MAX_MODULE
    assert ast.get_docstring(tree), "a module opens with what it answers"
    too_long = {
        node.name: size
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (size := code_lines(node, source)) > MAX_FUNCTION
    }
    assert not too_long


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_name_says_what_a_module_is_for(path: Path) -> None:
    assert path.stem not in FORBIDDEN_NAMES
    assert path.parent.name not in FORBIDDEN_NAMES


@pytest.mark.parametrize("room", ROOMS, ids=relative)
def test_a_room_has_one_question_and_a_small_door(room: Path) -> None:
    inside = [
        entry
        for entry in room.iterdir()
        if (entry.suffix == ".py" and entry.stem != "__init__") or (entry / "__init__.py").exists()
    ]
    assert len(inside) <= MAX_ROOM, f"{len(inside)} modules and sub-rooms"
    door = importlib.import_module("tacit." + relative(room).replace("/", "."))
    assert door.__doc__
    names = getattr(door, "__all__", ())
    assert len(names) <= MAX_DOOR
    for name in names:
        assert hasattr(door, name), f"{name} is on the door and not in the room"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_only_the_modules_of_the_census_open_files(path: Path) -> None:
    if touches_the_world(path):
        return
    opened = [
        node.lineno
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Name) and node.func.id == "open")
            or (
                isinstance(node.func, ast.Attribute)
                and node.func.attr in {"read_bytes", "read_text", "write_bytes", "write_text", "unlink", "mkdir"}
            )
        )
    ]
    assert not opened, f"lines {opened} touch the disk outside the census"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_nothing_dangerous_is_called(path: Path) -> None:
    names = {
        node.func.id
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not names & {"eval", "exec", "__import__", "print_exc"}


def test_every_error_has_its_own_reason_and_stands_in_the_drawn_tree() -> None:
    errors = importlib.import_module("tacit.errors")
    classes = [
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.TacitError)
    ]
    reasons = [cls.reason for cls in classes]
    assert len(set(reasons)) == len(reasons)
    for cls in classes:
        assert cls.__name__ in (errors.__doc__ or "")


PROGRAMS = {
    # What each program must never bring into its process: the trusted code stays small.
    "tacit.programs.coordinator": {
        "tacit.kube",
        "tacit.cli",
        "tacit.serving",
        "tacit.marble",
        "tacit.client",
        "openvino",
        "typer",
        "grpc",
        "grpclib",
        "uvicorn",
        "prometheus_client",
    },
    "tacit.programs.premain": {
        "tacit.kube",
        "tacit.cli",
        "tacit.serving",
        "tacit.coordinator",
        "openvino",
        "typer",
        "numpy",
        "httpx",
        "grpc",
        "dcap_qvl",
    },
    "tacit.programs.model_server.server": {
        "tacit.kube",
        "tacit.cli",
        "tacit.coordinator",
        "tacit.marble",
        "tacit.client",
        "typer",
        "dcap_qvl",
        "grpc",
        "grpclib",
        "uvicorn",
    },
    # It starts the process for the first model before anything large is read.
    "tacit.programs.serve": {
        "numpy",
        "structlog",
        "google.protobuf",
        "cryptography",
        "asyncio",
        "tacit.edge",
        "msgspec",
    },
    "tacit.programs.injector": {
        *("tacit.cli", "tacit.coordinator", "tacit.serving", "tacit.marble", "tacit.client", "tacit.evidence"),
        *("openvino", "typer", "grpc", "grpclib", "numpy", "dcap_qvl", "kr8s", "httpx"),
    },
    "tacit.programs.tacit": {"tacit.coordinator", "tacit.serving", "tacit.marble", "openvino", "uvicorn", "kr8s"},
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_imports_only_what_it_needs(program: str) -> None:
    script = f"import sys, {program}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & PROGRAMS[program]


def test_a_command_starts_without_arrays_and_calls() -> None:
    # Only `predict`, `bench`, `model compare` and `up` need them, and they take longer to import than all else.
    script = "import sys, tacit.cli.app; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"numpy", "grpc", "google.protobuf", "kr8s", "dcap_qvl"} & set(done.stdout.split())


# The project speaks of itself alone.
# Neither the folders of the machine that it is written on, nor what lies beside a checkout, nor who asked for what.
HERE = "|".join(re.escape(str(place)) for place in (ROOT, ROOT.parent / "shared"))
FOREIGN = re.compile(rf"{HERE}|\b(?:issue|ticket|session) #?\d+|\bshared/(?!vectors)\w|\bscratch\b", re.IGNORECASE)
SPOKEN = [
    path
    for pattern in (
        "src/**/*.py",
        "docs/**/*.md",
        "*.md",
        "proto/**/*.proto",
        "scripts/*",
        "examples/**/*",
        "benchmarks/*.py",
    )
    for path in ROOT.glob(pattern)
    if path.is_file() and path.suffix != ".pyc"
]


@pytest.mark.parametrize("path", SPOKEN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_project_speaks_of_itself_alone(path: Path) -> None:
    found = [line for line in path.read_text().splitlines() if FOREIGN.search(line)]
    assert not found
