"""Coordinator, server and client on three hosts: the platform travels in a file, the name leads to the server's host.

Each host has an address, a hosts file and a user of its own; what one has to give another is copied, as by scp.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from fakes import journey
from fakes.hosts import hosts
from fakes.journey import PROGRAMS, Person, Program, follow, make_model, unpack

pytestmark = [pytest.mark.journey, pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(600)]

COORDINATOR = "coordinator.tf-serving.service.com"
SERVER = "grpc.tf-serving.service.com"
CLIENT = Path(journey.__file__).with_name("journey_original_client.py")


@dataclass
class Three:
    """The people at the three hosts, somebody at a fourth, and the server that runs."""

    owner: Person
    operator: Person
    client: Person
    stranger: Person
    server: Program


def give(file: str, giver: Person, taker: Person) -> None:
    target = taker.folder / file
    target.parent.mkdir(exist_ok=True)
    shutil.copy(giver.folder / file, target)


def set_up_owner(owner: Person) -> None:
    """Platform, coordinator, model, manifest and key: everything of the page up to the server."""
    unpack(owner)
    owner.env["MARBLERUN"] = f"{COORDINATOR}:4433"
    follow(owner, "1.", instead=[(f"DNS_NAMES={SERVER}", f"DNS_NAMES={COORDINATOR}")])
    make_model(owner)
    follow(owner, "3.")
    follow(owner, "4.")
    follow(owner, "5.")
    follow(owner, "Several machines")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    names = ["coordinator", "server", "client", "stranger"]
    folder = tmp_path_factory.mktemp("three")
    with ExitStack() as stack:
        by_name = stack.enter_context(hosts(names, resolve={COORDINATOR: "coordinator", SERVER: "server"}))
        owner, operator, client, stranger = (
            stack.enter_context(Person(by_name[name], folder / name)) for name in names
        )
        set_up_owner(owner)
        give("platform.json", owner, operator)
        operator.types("tacit platform import platform.json")
        address = (f"ADDR={SERVER}:2001", f"ADDR={COORDINATOR}:2001")
        owner.types("tacit certificate intermediate $MARBLERUN -o tensorflow.crt")
        give("tensorflow.crt", owner, operator)
        operator.env["TACIT_COORDINATOR_CERTIFICATE"] = "tensorflow.crt"
        follow(operator, "6.", instead=[address])
        server = operator.programs[-1]
        server.wait_for("model-awaited")
        give("encrypted/resnet50.capsule", owner, operator)
        for file in ("platform-public.json", "manifest.json"):
            give(file, owner, client)
        client.env["MARBLERUN"] = f"{COORDINATOR}:4433"
        client.types("tacit platform import platform-public.json && tacit trust $MARBLERUN --tee simulated")
        client.types("tacit manifest verify manifest.json $MARBLERUN")
        client.types("tacit certificate intermediate $MARBLERUN -o tensorflow.crt")
        server.wait_for('"ready"')
        yield Three(owner, operator, client, stranger, server)


def test_the_name_resolves_to_the_servers_address_on_the_clients_host(three: Three) -> None:
    assert three.client.types(f"getent hosts {SERVER}").split()[0] == three.operator.host.address
    assert three.operator.host.address != three.client.host.address != three.owner.host.address


def test_the_client_measures_the_server_over_the_network(three: Three) -> None:
    said = three.client.types(f"tacit bench --url {SERVER}:8500 --crt tensorflow.crt --batch 2 --cnum 2 --loop 3")
    assert said.count("query: secure channel") == 6
    assert "summary: cnum 2, batch 2, " in said


def test_the_original_client_works_over_the_network(three: Three) -> None:
    line = f"{PROGRAMS}/python {CLIENT} --url {SERVER}:8500 --crt tensorflow.crt --batch 1 --cnum 1 --loop 1"
    assert "rows: [1, 1000]" in three.client.types(line)


def test_a_session_checks_the_coordinator_and_predicts_over_tls(three: Three) -> None:
    script = (
        "import numpy as np, tacit\n"
        f"session = tacit.connect('{COORDINATOR}:4433')\n"
        f"model = session.model('resnet50', address='{SERVER}:8500')\n"
        "print(float(np.asarray(model.predict(np.full((1, 224, 224, 3), 7, np.float32))).sum()))"
    )
    (three.client.folder / "ask.py").write_text(script)
    assert float(three.client.types(f"{PROGRAMS}/python ask.py")) == pytest.approx(1, abs=1e-4)


def test_the_key_lies_on_the_owners_host_alone(three: Three) -> None:
    key = (three.owner.folder / "model_key").read_bytes()
    for person in (three.operator, three.client):
        files = [path for path in person.folder.rglob("*") if path.is_file()]
        assert files
        assert [path for path in files if key in path.read_bytes()] == []


def test_a_clients_platform_holds_no_private_key(three: Three) -> None:
    public = three.client.folder / "platform-public.json"
    assert b"PRIVATE" not in public.read_bytes()
    done = three.client.try_to(
        f"EDG_MARBLE_TYPE=tf-server EDG_MARBLE_COORDINATOR_ADDR={COORDINATOR}:2001 tacit-premain"
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Error:" in done.stderr.splitlines()[-1]
    assert "public" in done.stderr.splitlines()[-1]


def test_a_client_without_the_platform_is_refused_in_one_line(three: Three) -> None:
    said = three.stranger.fail(f"tacit trust {COORDINATOR}:4433 --tee simulated")
    assert "tacit platform import" in said or "tacit platform init" in said


def test_a_client_that_was_told_nothing_is_refused_in_one_line(three: Three) -> None:
    said = three.stranger.fail(f"tacit certificate root {COORDINATOR}:4433")
    assert "tacit trust" in said


def test_a_client_of_another_platform_does_not_believe_the_coordinator(three: Three) -> None:
    line = f"tacit platform init && tacit trust {COORDINATOR}:4433 --tee simulated"
    three.stranger.types(line, TACIT_PLATFORM="own-1", XDG_CONFIG_HOME="config")
    line = f"tacit certificate root {COORDINATOR}:4433 -o root.crt"
    said = three.stranger.fail(line, TACIT_PLATFORM="own-1", XDG_CONFIG_HOME="config")
    assert "ends at another root" in said
    assert not (three.stranger.folder / "root.crt").exists()


def test_a_server_of_another_platform_gets_nothing(three: Three) -> None:
    line = (
        f"tacit platform init && EDG_MARBLE_TYPE=tf-server EDG_MARBLE_COORDINATOR_ADDR={COORDINATOR}:2001 tacit-premain"
    )
    done = three.stranger.try_to(line, TACIT_PLATFORM="own-2")
    assert done.returncode == 1
    assert "invalid quote" in done.stderr.splitlines()[-1]
    assert not (three.stranger.folder / "ssl.cfg").exists()


def test_a_server_that_knows_its_coordinator_takes_no_other(three: Three) -> None:
    line = "EDG_COORDINATOR_CLIENT_ADDR=:14433 EDG_COORDINATOR_MESH_ADDR=:12001 tacit-coordinator --unattested"
    false = three.stranger.start(line)
    false.wait_for("client API listening")
    address = f"EDG_MARBLE_COORDINATOR_ADDR={three.stranger.host.address}:12001"
    done = three.operator.try_to(f"EDG_MARBLE_TYPE=tf-server {address} EDG_MARBLE_UUID_FILE=other tacit-premain")
    assert false.stop() == 0
    assert done.returncode == 1
    assert "its key is not that of the expected certificate" in done.stderr.splitlines()[-1]


def test_a_name_that_the_manifest_does_not_allow_is_not_certified(three: Three) -> None:
    done = three.operator.try_to(
        f"EDG_MARBLE_TYPE=tf-server EDG_MARBLE_COORDINATOR_ADDR={COORDINATOR}:2001 "
        f"EDG_MARBLE_DNS_NAMES={COORDINATOR} EDG_MARBLE_UUID_FILE=other tacit-premain"
    )
    assert done.returncode == 1
    assert COORDINATOR in done.stderr.splitlines()[-1]


def test_a_coordinator_that_cannot_be_reached_is_one_line(three: Three) -> None:
    said = three.client.fail("tacit status $MARBLERUN", MARBLERUN=f"{SERVER}:4433")
    assert said.startswith("Error:")
