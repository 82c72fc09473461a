"""Power cuts along the way: coordinator and server are killed at several moments, and everything goes on as before.

One machine with the demo's ports and names; the example's page is followed, with a `kill -9` after each step.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from fakes.hosts import hosts
from fakes.journey import Person, Program, follow, make_model, unpack

pytestmark = [pytest.mark.journey, pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(600)]

NAME = "grpc.tf-serving.service.com"
COORDINATOR = f"EDG_COORDINATOR_DNS_NAMES={NAME} tacit-coordinator"
SERVER = f"EDG_MARBLE_TYPE=tf-server EDG_MARBLE_COORDINATOR_ADDR={NAME}:2001 EDG_MARBLE_DNS_NAMES={NAME} tacit-premain"
BENCH = f"tacit bench --url {NAME}:8500 --crt tensorflow.crt --batch 1 --cnum 1 --loop 1"
SECRET = "tacit secret get model_key $MARBLERUN --cert owner.crt --key owner.key"
MEMORY = "find /dev/shm -name 'tacit-*' -maxdepth 1 | wc -l"


@dataclass
class Life:
    """What was seen before and after each cut."""

    person: Person
    seen: dict[str, list[str]] = field(default_factory=dict)

    def note(self, what: str, line: str) -> None:
        self.seen.setdefault(what, []).append(self.person.types(line))

    def coordinator(self) -> Program:
        program = self.person.start(COORDINATOR)
        program.wait_for("client API listening")
        return program

    def server(self) -> Program:
        program = self.person.start(SERVER)
        program.wait_for('"ready"')
        return program


def cut_and_restart(life: Life, program: Program) -> Program:
    program.kill()
    return life.coordinator()


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    with (
        hosts(["machine"], resolve={}) as by_name,
        Person(by_name["machine"], tmp_path_factory.mktemp("life")) as person,
    ):
        unpack(person)
        follow(person, "Names")
        make_model(person)
        follow(person, "3.")
        person.types("tacit platform init && tacit trust $MARBLERUN --tee simulated")
        follow(person, "4.")
        life = Life(person)
        _before_the_server(life)
        _with_the_server(life)
        yield life


def _before_the_server(life: Life) -> None:
    person = life.person
    program = life.coordinator()
    # Cut while it waits for a manifest: nothing is stored yet, so it comes back as a new one, which the client takes.
    life.note("root before a manifest", "tacit certificate root $MARBLERUN -o root.crt && cat root.crt")
    life.note("stored before a manifest", "ls marblerun-coordinator-data")
    program = cut_and_restart(life, program)
    life.note("root with a manifest", "tacit certificate root $MARBLERUN -o root.crt && cat root.crt")
    person.types("tacit manifest set manifest.json $MARBLERUN")
    program = cut_and_restart(life, program)
    life.note("root with a manifest", "tacit certificate root $MARBLERUN -o root.crt && cat root.crt")
    follow(person, "5.", instead=[("tacit manifest set manifest.json $MARBLERUN", "true")])
    for _ in range(2):
        life.note("manifest", "tacit manifest get $MARBLERUN -s")
        life.note("secret", SECRET)
        life.note("chain", "tacit certificate chain $MARBLERUN -o chain.crt && cat chain.crt")
        program = cut_and_restart(life, program)
    # The server asks while there is nobody.
    program.kill()
    server = person.start(SERVER)
    server.wait_for("trying again")
    life.coordinator()
    server.wait_for('"ready"')


def _with_the_server(life: Life) -> None:
    person = life.person
    coordinator, server = life.person.programs[-1], life.person.programs[-2]
    person.types("tacit certificate intermediate $MARBLERUN -o tensorflow.crt")
    life.note("uuid", "cat uuid")
    coordinator.kill()
    life.note("while the coordinator is down", BENCH)
    server.kill()
    server = person.start(SERVER)
    coordinator = life.coordinator()
    server.wait_for('"ready"')
    life.note("after both were cut", BENCH)
    server.kill()
    for moment in ("activating as", "activated as", '"listening"'):
        server = person.start(SERVER)
        server.wait_for(moment)
        server.kill()
    server = life.server()
    life.note("uuid", "cat uuid")
    life.note("after the server was cut", BENCH)
    life.note("memory folders", MEMORY)
    life.note("manifest", "tacit manifest get $MARBLERUN -s")
    life.note("chain", "tacit certificate chain $MARBLERUN -o chain.crt && cat chain.crt")
    assert server.stop() == 0
    coordinator.kill()


def test_before_there_is_a_manifest_nothing_is_stored_and_a_client_takes_the_next_root(life: Life) -> None:
    assert not {"sealed_data", "sealed_key"} & set(life.seen["stored before a manifest"][0].split())
    assert life.seen["root before a manifest"][0] != life.seen["root with a manifest"][0]


def test_from_the_manifest_on_the_root_is_the_same(life: Life) -> None:
    first, second = life.seen["root with a manifest"]
    assert first == second


def test_manifest_secret_and_certificates_are_the_same_after_every_cut(life: Life) -> None:
    assert len(life.seen["manifest"]) == 3
    for what in ("manifest", "secret", "chain"):
        assert len(set(life.seen[what])) == 1, what


def test_a_server_that_runs_goes_on_while_the_coordinator_is_down(life: Life) -> None:
    assert "summary: cnum 1" in life.seen["while the coordinator is down"][0]


def test_a_certificate_that_a_client_kept_still_counts_after_both_were_cut(life: Life) -> None:
    assert "summary: cnum 1" in life.seen["after both were cut"][0]


def test_a_server_that_was_cut_comes_back_as_the_same_marble(life: Life) -> None:
    assert "summary: cnum 1" in life.seen["after the server was cut"][0]
    assert len(set(life.seen["uuid"])) == 1


def test_a_server_that_was_cut_while_it_started_leaves_nothing_half_written(life: Life) -> None:
    folder = life.person.folder
    assert [path.name for path in folder.iterdir() if path.name.endswith((".tmp", ".part"))] == []
    assert [path.name for path in folder.glob(".*ssl.cfg*")] == []


def test_keys_of_servers_that_were_cut_do_not_stay_in_memory(life: Life) -> None:
    assert life.seen["memory folders"] == ["1\n"]


def test_without_its_sealed_key_the_coordinator_is_in_recovery_mode_and_no_client_believes_it(life: Life) -> None:
    folder = life.person.folder / "marblerun-coordinator-data"
    key = folder / "sealed_key"
    kept = key.read_bytes()
    key.unlink()
    program = life.coordinator()
    try:
        assert "recovery mode" in program.said
        assert life.person.types("tacit status $MARBLERUN --insecure").startswith("1: ")
        said = life.person.fail("tacit manifest get $MARBLERUN")
        assert said.startswith("Error:")
        server = life.person.start(f"TACIT_ACTIVATION_TIMEOUT=2 {SERVER}")
        assert server.wait_for_end() == 1
        assert "cannot accept marbles in current state" in server.said.splitlines()[-1]
    finally:
        program.kill()
        key.write_bytes(kept)
    program = life.coordinator()
    life.note("manifest", "tacit manifest get $MARBLERUN -s")
    program.kill()
    assert len(set(life.seen["manifest"])) == 1


def test_a_client_that_saw_a_newer_state_refuses_an_older_copy_of_it(life: Life) -> None:
    folder = life.person.folder / "marblerun-coordinator-data"
    older = life.person.folder / "older"
    shutil.copytree(folder, older)
    program = life.coordinator()
    life.person.types("tacit secret set model_key.json $MARBLERUN --cert owner.crt --key owner.key")
    life.person.types("tacit status $MARBLERUN")
    program.kill()
    newest = folder.rename(life.person.folder / "newest")
    older.rename(folder)
    program = life.coordinator()
    try:
        said = life.person.fail("tacit manifest get $MARBLERUN")
        assert "older copy of its state" in said
    finally:
        program.kill()
        shutil.rmtree(folder)
        newest.rename(folder)


def test_a_state_file_that_was_altered_is_refused_in_one_line_and_left_as_it_is(life: Life) -> None:
    data = life.person.folder / "marblerun-coordinator-data" / "sealed_data"
    kept = data.read_bytes()
    altered = bytearray(kept)
    altered[len(altered) // 2] ^= 1
    data.write_bytes(altered)
    try:
        program = life.person.start(COORDINATOR)
        assert program.wait_for_end() == 1
        lines = [line for line in program.said.splitlines() if not line.startswith("{")]
        assert len(lines) == 1
        assert lines[0].startswith("tacit-coordinator: ")
        assert data.read_bytes() == bytes(altered)
    finally:
        data.write_bytes(kept)
