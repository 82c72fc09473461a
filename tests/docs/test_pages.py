"""What the pages say about the project is so: links, paths, commands, flags, variables, reasons, libraries."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tacit import errors
from tacit.cli.app import app
from tacit.evidence.issue import load_inventory
from tacit.serving.tfs.flags import FLAGS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "tacit"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/README.md")])
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent.name != "pb")

LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"`([a-z_]+(?:/[\w.-]+)+/?)`")
COMMAND = re.compile(r"[`'](tacit [a-z][^`'\n]*)[`']")
TYPED = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\S*/)?(tacit [a-z].*?)(?: [&|>].*| #.*)?$", re.MULTILINE)
FENCE = re.compile(r"^```(?:console|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CLI = typer.main.get_command(app)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


pages = pytest.mark.parametrize("page", PAGES, ids=name_of)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_a_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        target, _, anchor = link.partition("#")
        if target.startswith(("https:", "http:", "mailto:")):
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), link
        assert not anchor or anchor in anchors(file), link


@pages
def test_a_path_is_where_the_page_says(page: Path) -> None:
    for path in PATH.findall(page.read_text()):
        top = path.split("/")[0]
        if any((base / top).is_dir() for base in (ROOT, PACKAGE)):
            assert any((base / path).exists() for base in (ROOT, PACKAGE)), path


def test_the_tour_visits_every_room() -> None:
    tour = (ROOT / "docs" / "tour.md").read_text()
    rooms = {entry.name for entry in PACKAGE.iterdir() if (entry / "__init__.py").exists()}
    assert not [room for room in rooms if not re.search(rf"\b{room}\b", tour)]


# ---- the command line


def commands(text: str) -> Iterator[str]:
    """What is typed: in code blocks, and in the middle of a sentence."""
    for block in FENCE.findall(text):
        yield from TYPED.findall(block.replace("\\\n", " "))
    # `tacit ... v1` is a label that keys and hashes are made under.
    yield from (line for line in COMMAND.findall(text) if not re.search(r" v\d\b", line))


def check_command(line: str) -> None:
    """Follow the words of a command line down to a command, and look up its options there."""
    command = CLI
    for word in shlex.split(line.replace("|", " ").replace("...", " "), posix=True)[1:]:
        if word.startswith("-") and word != "-":
            known = {"--help", *(name for param in command.params for name in (*param.opts, *param.secondary_opts))}
            assert word.partition("=")[0] in known, f"{line}: {command.name} has no {word}"
        elif word not in getattr(command, "commands", ()) and hasattr(command, "default_command"):
            command = command.commands[command.default_command]
        elif hasattr(command, "commands") and word.islower():
            assert word in command.commands, f"{line}: {command.name} has no {word}"
            # The verbs of one noun, `init|export`, are looked up one beside the other.
            if "|" not in line or command is CLI:
                command = command.commands[word]


@pytest.mark.parametrize("file", [*PAGES, *SOURCES], ids=name_of)
def test_a_command_that_is_named_can_be_typed(file: Path) -> None:
    for line in commands(file.read_text()):
        check_command(line)


def test_the_commands_are_found_at_all() -> None:
    assert len(set(commands((ROOT / "examples" / "resnet50" / "README.md").read_text()))) > 15


def every_command(group: Any, words: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from every_command(command, f"{words} {name}")
        else:
            yield f"{words} {name}", command


@pytest.mark.parametrize(("words", "command"), [pytest.param(*one, id=one[0]) for one in every_command(CLI, "tacit")])
def test_every_command_has_an_example_that_can_be_typed(words: str, command: Any) -> None:
    found = re.search(r"Example: (tacit .*)", " ".join((command.help or "").split()))
    assert found is not None
    assert found[1].startswith(words)
    check_command(found[1])


@pages
def test_a_target_of_make_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", page.read_text())) <= targets


def test_the_readme_names_the_versions_of_which_evidence_was_recorded() -> None:
    recorded: dict[str, set[int]] = {"SGX": set(), "TDX": set(), "SEV-SNP": set()}
    for file in sorted((ROOT / "tests/vectors/evidence").glob("*/*.bin")):
        version, tdx = file.read_bytes()[0], file.read_bytes()[4] == 0x81
        recorded["SEV-SNP" if file.stem == "report" else "TDX" if tdx else "SGX"].add(version)
    page = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| (SGX|\[TDX|\[SEV-SNP)\b.* versions? ([\d, and]+) on recorded real ones", page, re.MULTILINE)
    assert {kind.strip("["): set(map(int, re.findall(r"\d", said))) for kind, said in rows} == recorded


def test_the_flags_of_the_server_are_its_own() -> None:
    text = (ROOT / "docs" / "serving.md").read_text()
    named = set(re.findall(r"`?--([a-z_]+)", text))
    assert named - {"help"} <= set(FLAGS)


@pages
def test_a_variable_is_one_that_something_reads(page: Path) -> None:
    code = "".join(path.read_text() for path in SOURCES)
    variables = set(re.findall(r"\b(?:EDG|TACIT|OE|MARBLE)_[A-Z_]+[A-Z]\b", page.read_text()))
    assert not [name for name in variables if name not in code]


# ---- reasons and libraries


@pytest.mark.parametrize("page", ["evidence.md", "format.md"])
def test_a_reason_is_that_of_an_error(page: str) -> None:
    known = {cls.reason for cls in vars(errors).values() if isinstance(cls, type) and hasattr(cls, "reason")}
    table = re.search(r"\| (?:error \(`reason`\)|reason) \|.*?\n\n", (ROOT / "docs" / page).read_text(), re.DOTALL)
    assert table is not None
    reasons = set(re.findall(r"^\| `([a-z-]+)`", table[0], re.MULTILINE))
    assert reasons
    assert reasons <= known


def test_every_library_in_the_trusted_code_is_listed_with_its_reason() -> None:
    table = (ROOT / "SECURITY.md").read_text().partition("| library |")[2].partition("\n\n")[0]
    listed = {
        re.sub(r" \(.*?\)", "", name).strip().lower()
        for row in table.splitlines()[2:]
        for name in row.split("|")[1].split(",")
    }
    measured = {one.name for program in ("coordinator", "marble") for one in load_inventory(program).distributions}
    assert measured == listed
