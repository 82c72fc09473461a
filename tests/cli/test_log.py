"""`tacit log`: read, exported and checked; and a coordinator whose state was put back is found out, however far it went on."""

import asyncio
import json
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fakes.command_line import Outcome, run_main
from fakes.core import UUID
from fakes.programs import CoordinatorProcess, activate, make_platform_folder
from tacit.cli.coordinator.log import _beginning, _for_a_person, _lines
from tacit.client.log import MAX_LINE
from tacit.evidence.issue import load_simulated_tee
from tacit.pki import issue_self_signed

pytestmark = pytest.mark.slow


@dataclass
class Place:
    """A coordinator that can be started again over its folder, on the same port, and three people."""

    folder: Path
    platform: Path
    coordinator: CoordinatorProcess

    @property
    def host(self) -> str:
        return self.coordinator.client

    def restart(self) -> None:
        self.coordinator = CoordinatorProcess(
            self.folder, platform=self.platform, environ={"EDG_COORDINATOR_CLIENT_ADDR": self.host}
        )

    def activate(self, times: int = 1) -> None:
        tee = load_simulated_tee(self.platform, program="marble", now=datetime.now(UTC))
        for _ in range(times):
            asyncio.run(activate(self.coordinator.mesh, "m", uuid=UUID, issuer=tee))

    def log(self, *words: object, user: str = "officer") -> Outcome:
        return run_main("log", self.host, "-c", self.folder / f"{user}.crt", "-k", self.folder / f"{user}.key", *words)


def store_user(folder: Path, name: str) -> str:
    user = issue_self_signed([], common_name=name, now=datetime.now(UTC))
    (folder / f"{name}.crt").write_bytes(user.certificate_pem)
    (folder / f"{name}.key").write_bytes(user.key_pem)
    return user.certificate_pem.decode()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("log")
    platform = make_platform_folder(folder / "platform")
    tee = load_simulated_tee(platform, program="marble", now=datetime.now(UTC))
    content: dict[str, Any] = {
        "Packages": {"p": {"TEE": "simulated", "UniqueID": tee.package_info.unique_id.hex()}},
        "Marbles": {"m": {"Package": "p"}},
        "Secrets": {"word": {"Type": "plain", "UserDefined": True}},
        "Users": {
            "owner": {"Certificate": store_user(folder, "owner"), "Roles": ["write"]},
            "officer": {"Certificate": store_user(folder, "officer"), "ReadLog": True},
        },
        "Roles": {"write": {"ResourceType": "Secrets", "ResourceNames": ["word"], "Actions": ["WriteSecret"]}},
    }
    store_user(folder, "stranger")
    (folder / "manifest.json").write_text(json.dumps(content))
    (folder / "word.json").write_text('{"word": {"Key": "Y2FuYXJ5"}}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        patch.setenv("TACIT_PLATFORM", str(platform))
        patch.chdir(folder)
        made = Place(folder, platform, CoordinatorProcess(folder, platform=platform))
        assert run_main("trust", made.host, "--tee", "simulated").code == 0
        assert run_main("manifest", "set", "manifest.json", made.host).code == 0
        user = ("-c", folder / "owner.crt", "-k", folder / "owner.key")
        assert run_main("secret", "set", "word.json", made.host, *user).code == 0
        made.activate()
        yield made
        made.coordinator.kill()


def test_the_officer_reads_who_did_what(place: Place) -> None:
    said = place.log()
    assert said.code == 0
    first, second, third = said.lines[:3]
    assert "manifest set" in first
    assert 'secrets set  user=owner secrets=["word"]' in second
    assert "marble activated  marbleType=m" in third
    assert "canary" not in said.out
    assert "tee=simulated" in third


@pytest.mark.parametrize(("user", "reason"), [("owner", "not allowed to read the log"), ("stranger", "did not match")])
def test_t60_nobody_else_reads_it(place: Place, user: str, reason: str) -> None:
    refused = place.log(user=user)
    assert refused.code == 1
    assert reason in refused.err
    assert "reading the log" in refused.err


def test_an_export_is_private_and_checked_without_the_coordinator(place: Place) -> None:
    assert place.log("-o", "log.jsonl").code == 0
    file = place.folder / "log.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    checked = run_main("log", "verify", "log.jsonl", place.host)
    assert checked.out.startswith("Entries 1 to ")
    assert checked.err == ""
    assert run_main("certificate", "root", place.host, "-o", "root.crt").code == 0
    assert run_main("log", "verify", "log.jsonl", "--root", "root.crt").code == 0
    lines = file.read_text().splitlines()
    assert place.log("--format", "json").out.splitlines()[: len(lines) - 1] == lines[:-1]


def test_t62_an_export_that_was_tampered_with_is_refused(place: Place) -> None:
    place.log("-o", "whole.jsonl")
    lines = (place.folder / "whole.jsonl").read_text().splitlines()
    for bad in (lines[:-1], lines[1:], [lines[1], lines[0], *lines[2:]], [*lines[:2], lines[-1]]):
        (place.folder / "bad.jsonl").write_text("".join(f"{line}\n" for line in bad))
        assert run_main("log", "verify", "bad.jsonl", place.host).code == 1


def test_a_log_is_read_on_from_where_it_was_kept(place: Place) -> None:
    assert place.log("--after", "2", "-o", "later.jsonl").code == 0
    assert "Entries 3 to" in run_main("log", "verify", "later.jsonl", place.host, "--after", "2").out
    assert "give" not in run_main("log", "verify", "later.jsonl", place.host, "--after", "2").err
    assert "--after 2" in run_main("log", "verify", "later.jsonl", place.host).err


def test_what_an_export_says_of_checking_it_can_be_typed(place: Place) -> None:
    said = place.log("--after", "1", "-o", "on.jsonl").out
    command = said.partition("check it with: tacit ")[2].split()
    assert command[-2:] == ["--after", "1"]
    assert run_main(*command).code == 0, said


def test_where_older_entries_are_gone_checking_begins_after_them() -> None:
    assert _beginning(b'{"begins":{"after":1500,"head":"00"}}\n') == " --after 1500"
    assert _beginning(b'{"number":1}\n') == ""


def test_after_the_end_there_is_a_line_that_says_so(place: Place) -> None:
    for words in ((), ("-o", "none.jsonl")):
        done = place.log("--after", "99999", *words)
        assert done.code == 0
        assert "The log has no entry after 99999: it ends at entry" in done.err
    assert "no entry after" not in place.log().err


def test_an_export_from_before_the_log_was_seen_last_is_checked_as_that(place: Place) -> None:
    place.log("-o", "old.jsonl")
    place.activate()
    assert run_main("status", place.host).code == 0
    refused = run_main("log", "verify", "old.jsonl", place.host)
    assert refused.code == 1
    assert "say so with --older" in refused.err
    done = run_main("log", "verify", "old.jsonl", place.host, "--older")
    assert done.out.startswith("Entries 1 to ")
    assert "an end that was cut off cannot be told" in done.err


def test_whose_log_it_is_has_to_be_said(place: Place) -> None:
    assert "Give HOST:PORT" in run_main("log", "verify", "log.jsonl").err
    assert "nothing is known" in run_main("log", "verify", "log.jsonl", "elsewhere:4433").err
    assert "no such file" in run_main("log", "verify", "nothing.jsonl", place.host).err


def test_the_port_for_marbles_is_told_from_the_one_for_clients(place: Place) -> None:
    done = run_main("status", place.coordinator.mesh, "-i")
    assert done.code == 1
    assert "is it a coordinator's mesh port, which is for marbles? The client API is another, 4433" in done.err


def test_t44_of_a_line_without_end_no_more_is_read_than_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "endless").open("wb") as file:
        file.truncate(3 * MAX_LINE)
    lines = _lines(tmp_path / "endless")
    assert len(next(lines)) == MAX_LINE + 2
    lines.close()
    (tmp_path / "lines").write_bytes(b"a\n\nb")
    assert list(_lines(tmp_path / "lines")) == [b"a", b"", b"b"]


@pytest.mark.slow
def test_t31_a_state_that_was_put_back_is_refused_even_after_it_grew_past_what_was_seen(place: Place) -> None:
    folder = place.coordinator.seal_folder
    place.coordinator.end()
    shutil.copytree(folder, place.folder / "older")
    place.restart()
    place.activate(2)
    assert run_main("status", place.host).code == 0
    place.coordinator.end()
    newest = folder.rename(place.folder / "newest")
    (place.folder / "older").rename(folder)
    place.restart()
    place.activate(6)
    refused = run_main("status", place.host)
    assert refused.code == 1
    assert "another history than the one that was seen" in refused.err
    # The true one goes on as before.
    place.coordinator.end()
    shutil.rmtree(folder)
    newest.rename(folder)
    place.restart()
    place.activate()
    assert run_main("status", place.host).code == 0


def test_what_somebody_called_himself_steers_no_terminal() -> None:
    entry = {
        "number": 1,
        "time": "2026-01-01T00:00:00Z",
        "event": "refused",
        "marbleType": "\x1b]0;mine\x07",
        "uuid": "a",
    }
    shown = _for_a_person(json.dumps(entry).encode())
    assert shown.endswith(r'refused  marbleType="\u001b]0;mine\u0007" uuid=a')
