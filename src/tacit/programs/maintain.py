"""What `tacit-coordinator` does with its folder when it does not serve: back it up, and bring a backup back."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tacit.coordinator.store.backup import copy_folder, read_backup, restore_folder, write_backup
from tacit.programs.arguments import Parser


def run(argv: Sequence[str], *, folder: Path, program: str) -> None:
    """One command.

    Raises:
        UsageError: typed wrongly.
        BackupError: the backup cannot be made, read or brought back.
        StateError: the folder cannot be used.
    """
    options = _parser(program).parse_args(argv)
    if options.command == "backup":
        backup = copy_folder(folder)
        write_backup(backup, options.file)
        _say(f"State {backup.epoch} of {folder}, {len(backup.files)} files, written to {options.file}")
        return
    backup = read_backup(options.file)
    ending = restore_folder(backup, folder, replace=options.replace)
    before = f"what was there before ends in {ending}" if ending else "nothing else was there"
    _say(f"State {backup.epoch} brought back into {folder}; {before}")
    _say("Whoever saw a newer state of this coordinator will refuse it until they run `tacit trust HOST --forget`")


def _parser(program: str) -> argparse.ArgumentParser:
    parser = Parser(prog=program)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    backup = commands.add_parser("backup", help="copy the sealed state into one file, also while it is in use")
    backup.add_argument("file", type=Path, metavar="FILE", help="the file to write; it must not exist")
    restore = commands.add_parser("restore", help="put the sealed state of a backup into the folder")
    restore.add_argument("file", type=Path, metavar="FILE", help="what backup wrote")
    restore.add_argument("--replace", action="store_true", help="also in place of a newer state, or of another one")
    return parser


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 -- for the person who typed it
