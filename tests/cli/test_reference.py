"""`docs/cli.md` says what `--help` says: every command with its example and its options, and nothing that there is not."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tacit.cli import app as command_line

TEXT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
SECTIONS = dict(re.findall(r"^### `tacit ([a-z -]+)`\n(.*?)(?=^##|\Z)", TEXT, re.DOTALL | re.MULTILINE))


def commands(group: Any = None, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by its words."""
    group = group or typer.main.get_command(command_line.app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path}{name} ")
        else:
            yield path + name, command


COMMANDS = dict(commands())


def words_of(text: str) -> str:
    return " ".join(text.split())


def test_the_reference_names_every_command_and_no_other() -> None:
    assert sorted(SECTIONS) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_stands_there_as_its_help_says(name: str) -> None:
    help_text = COMMANDS[name].help or ""
    section = words_of(SECTIONS.get(name, ""))
    assert words_of(help_text.split("\n\n")[0]) in section
    example = re.search(r"Example: (.*)", help_text)
    assert example
    assert example[1] in section


@pytest.mark.parametrize("name", COMMANDS)
def test_its_options_stand_there_with_their_letters(name: str) -> None:
    given = set(re.findall(r"^- (.*?): ", SECTIONS.get(name, ""), re.MULTILINE))
    expected = set()
    for parameter in COMMANDS[name].params:
        names = [*parameter.opts, *parameter.secondary_opts]
        if parameter.param_type_name == "option" and "--help" not in names:
            expected.add(
                ", ".join(f"`{option}`" for option in sorted(names, key=lambda each: (each[:2] == "--", each)))
            )
    assert given == expected


def test_the_options_of_marbleruns_that_are_refused_are_named() -> None:
    assert {option for option in command_line.FOREIGN_OPTIONS if f"`{option}`" not in TEXT} == set()
