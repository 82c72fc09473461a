"""The audit log: everything that was done stands in it, in one chain, and nobody can fill it or read it unasked."""

import base64
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fakes.core import PLAIN_MANIFEST, UUID, Made, encode, make_coordinator, make_order
from fakes.officers import LOGGED, OFFICER, OWNER, events, read_log
from fakes.tee import NOW, FakeTee
from tacit.coordinator.api.rest import ClientApi
from tacit.coordinator.log import refusals as refusals_module
from tacit.coordinator.log.refusals import BURST
from tacit.coordinator.secrets import NewValue
from tacit.coordinator.store import DATA_NAME, KEY_NAME, MemoryStore, SealedFolder
from tacit.coordinator.store import logfiles as logfiles_module
from tacit.coordinator.updates import ledger as ledger_module
from tacit.edge import HttpRequest
from tacit.errors import (
    ActivationError,
    ForbiddenError,
    IllegalTransitionError,
    RecoveryError,
    SealedStateError,
    StateError,
)
from tacit.pki.leaf import LeafIdentity
from tacit.wire.log import LOG_START, line_digest, log_mark_message

KEY = {"key": NewValue(key=bytes(range(32)))}


def make(store: Any = None, **more: Any) -> Made:
    made = make_coordinator(store=store, **more)
    made.core.set_manifest(encode(LOGGED))
    return made


class Folder:
    """A coordinator over a folder, opened as often as a test wants."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store: SealedFolder | None = None

    def open(self) -> Made:
        self.close()
        self.store = SealedFolder(self.path, None)
        contents = self.store.load()
        made = make_coordinator(store=self.store, contents=contents)
        if contents is None:
            made.core.set_manifest(encode(LOGGED))
        return made

    def close(self) -> None:
        if self.store is not None:
            self.store.close()
            self.store = None


MANY = 40
"""Entries of which some are in log files, with the small numbers of `folder`."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Entries gather to some ten before they are copied, and a log file holds some twenty."""
    monkeypatch.setattr(ledger_module, "TAIL", 3000)
    monkeypatch.setattr(logfiles_module, "FILE_SIZE", 5000)
    made = Folder(tmp_path / "seal")
    yield made
    made.close()


# ---- what stands in it


def test_everything_that_was_done_has_an_entry_with_who_and_what() -> None:
    core = make().core
    core.write_secrets("owner", KEY)
    core.read_secrets("owner", ["key"])
    core.activate(make_order())
    core.activate(make_order("counted"))
    core.updates.update("owner", b'{"Packages":{"p":{"SecurityVersion":2}}}')
    core.updates.update("owner", encode({**LOGGED, "Marbles": {"m": {"Package": "p"}}}))
    entries = read_log(core)
    assert [(entry["number"], entry["event"]) for entry in entries] == list(
        enumerate(
            [
                "manifest set",
                "secrets set",
                "secrets read",
                "marble activated",
                "marble activated",
                "security versions raised",
                "update proposed",
                "manifest updated",
            ],
            1,
        )
    )
    assert entries[1]["user"] == entries[2]["user"] == entries[5]["user"] == "owner"
    assert entries[1]["secrets"] == entries[2]["secrets"] == ["key"]
    released = entries[3]
    assert (released["marbleType"], released["package"], released["secrets"]) == ("m", "p", ["shared"])
    assert (released["tee"], released["measurement"]) == ("unattested", "")
    assert entries[5]["packages"] == {"p": 2}
    assert {entry["time"] for entry in entries} == {"2026-11-24T12:00:00.000Z"}


def test_a_release_names_the_measurement_that_was_proven() -> None:
    tee = FakeTee()
    package = {"TEE": "simulated", "UniqueID": tee.package_info.unique_id.hex()}
    made = make_coordinator(tee=tee)
    made.core.set_manifest(
        encode({**LOGGED, "Packages": {"p": package}, "Roles": {}, "Users": {"officer": LOGGED["Users"]["officer"]}})
    )
    made.core.activate(make_order(tee=tee))
    entry = read_log(made.core)[-1]
    assert (entry["tee"], entry["measurement"]) == ("simulated", tee.package_info.unique_id.hex())


def test_an_update_is_followed_through_its_agreements() -> None:
    second = {"owner2": {"Certificate": OFFICER.certificate_pem.decode(), "Roles": ["update"], "ReadLog": True}}
    manifest = {**LOGGED, "Users": {"owner": LOGGED["Users"]["owner"], **second}}
    core = make_coordinator().core
    core.set_manifest(encode(manifest))
    changed = encode({**manifest, "Marbles": {"m": {"Package": "p"}}})
    core.updates.update("owner", changed)
    core.updates.cancel("owner2")
    core.updates.update("owner", changed)
    core.updates.acknowledge("owner2", changed)
    told = [(entry["event"], entry.get("user")) for entry in read_log(core, "owner2")]
    assert told == [
        ("manifest set", None),
        ("update proposed", "owner"),
        ("update cancelled", "owner2"),
        ("update proposed", "owner"),
        ("update acknowledged", "owner2"),
        ("manifest updated", None),
    ]


def test_a_counter_and_a_signed_quote_have_entries() -> None:
    tee = FakeTee()
    core = make_coordinator(tee=tee).core
    gates = {"FeatureGates": ["SignQuoteEndpoint", "MonotonicCounter"]}
    core.set_manifest(encode({**LOGGED, "Config": gates}))
    marble = LeafIdentity("m", UUID)
    core.raise_counter(marble, "boots", 7)
    core.raise_counter(marble, "boots", 7)  # not greater: nothing happens
    quote = tee.issue_evidence(bytes(64))
    core.sign_quote(quote)
    raised, signed = read_log(core)[-2:]
    assert raised["event"] == "counter raised"
    assert (raised["marbleType"], raised["uuid"], raised["counter"], raised["value"]) == ("m", UUID, "boots", 7)
    assert (signed["event"], signed["tcbStatus"]) == ("quote signed", "UpToDate")
    assert signed["quote"] == hashlib.sha256(quote).hexdigest()


def test_t57_quotes_that_anybody_has_signed_do_not_fill_the_log() -> None:
    tee = FakeTee()
    core = make_coordinator(tee=tee).core
    core.set_manifest(encode({**LOGGED, "Config": {"FeatureGates": ["SignQuoteEndpoint"]}}))
    quote = tee.issue_evidence(bytes(64))
    for _ in range(BURST + 5):
        core.sign_quote(quote)
    told = events(core)
    assert told.count("quote signed") == BURST
    assert read_log(core)[-1]["counts"] == {"UpToDate": 5}


def test_t24_no_secret_value_stands_in_the_audit_log() -> None:
    core = make().core
    core.write_secrets("owner", {"key": NewValue(key=b"canary-7f3a91".ljust(32, b"#"))})
    released = core.activate(make_order())
    text = json.dumps(read_log(core))
    held = core.holdings
    for value in (held.root_secret, *(one.private for one in held.secrets.values()), released.env["K"]):
        for shown in (value.hex(), base64.b64encode(value).decode(), value.decode("latin-1")):
            assert shown not in text


def test_a_recovery_has_an_entry_with_what_was_tried_before(tmp_path: Path) -> None:
    holder = rsa.generate_private_key(65537, 2048)
    pem = holder.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    store = SealedFolder(tmp_path, None)
    made = make_coordinator(store=store)
    handed = made.core.set_manifest(encode({**LOGGED, "RecoveryKeys": {"rec": pem}}))
    made.core.activate(make_order())
    store.close()
    (tmp_path / KEY_NAME).unlink()
    store = SealedFolder(tmp_path, None)
    core = make_coordinator(store=store, recovery=True).core
    with pytest.raises(RecoveryError):
        core.recover(bytes(32), b"")
    key = holder.decrypt(handed["rec"], padding.OAEP(padding.MGF1(SHA256()), SHA256(), None))
    core.recover(key, holder.sign(key, padding.PKCS1v15(), SHA256()))
    entry = read_log(core)[-1]
    assert events(core) == ["manifest set", "marble activated", "state recovered"]
    assert (entry["secretsGiven"], entry["secretsRefused"], entry["holders"]) == (1, 1, ["rec"])
    store.close()


def test_a_manifest_set_over_a_state_that_cannot_be_opened_says_so(folder: Folder) -> None:
    folder.open()
    folder.close()
    (folder.path / KEY_NAME).unlink()
    store = SealedFolder(folder.path, None)
    core = make_coordinator(store=store, recovery=True).core
    core.set_manifest(encode(LOGGED))
    assert [(entry["number"], entry["oldStateSetAside"]) for entry in read_log(core)] == [(1, True)]
    store.close()


# ---- who may read it


@pytest.mark.parametrize("user", ["owner", "officer"])
def test_t60_only_a_user_whom_the_manifest_names_reads_the_log(user: str) -> None:
    core = make().core
    if user == "officer":
        assert core.audit.page(user, 0).lines
        return
    with pytest.raises(ForbiddenError, match=r'Users.owner needs "ReadLog": true'):
        core.audit.page(user, 0)


def test_before_a_manifest_there_is_no_log() -> None:
    core = make_coordinator().core
    with pytest.raises(IllegalTransitionError):
        core.audit.page("officer", 0)
    with pytest.raises(IllegalTransitionError):
        core.audit.digests(0)


def test_digests_give_the_head_and_tell_no_line_twice_alike() -> None:
    core = make().core
    core.activate(make_order())
    core.activate(make_order())
    page = core.audit.digests(0)
    position = LOG_START
    for digest in page.lines:
        position = position.after(digest)
    assert (position.number, position.head.hex()) == (page.mark.entries, page.mark.head)
    assert len(set(page.lines)) == 3


def test_t62_the_head_is_signed_together_with_the_states() -> None:
    core = make().core
    core.activate(make_order())
    status, mark = core.status(), core.audit.page("officer", 0).mark
    assert (mark.entries, mark.head) == (status.log.number, status.log.head.hex())
    assert (mark.epoch, mark.state) == (status.position.epoch, status.position.head.hex())
    key: Any = core.holdings.identity.root.certificate.public_key()
    signed = log_mark_message(status.log, status.position.epoch, status.position.head)
    key.verify(mark.signature, signed, ECDSA(SHA384()))


# ---- refusals


def test_a_refused_activation_has_an_entry() -> None:
    core = make().core
    with pytest.raises(ActivationError):
        core.activate(make_order("nobody" * 100))
    entry = read_log(core)[-1]
    assert (entry["event"], entry["reason"], len(entry["marbleType"])) == ("activation refused", "activation", 200)


def test_a_flood_of_refusals_is_counted_and_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make()
    order = make_order("nobody")
    for _ in range(BURST + 500):
        with pytest.raises(ActivationError):
            made.core.activate(order)
    assert made.core.status().log.number == 1 + BURST
    entries = read_log(made.core)
    assert entries[-1]["event"] == "refusals not listed"
    assert entries[-1]["counts"] == {"activation": 500}
    # A while later some are listed again.
    monkeypatch.setattr(refusals_module, "REFILL", 0.0001)
    moved = [NOW + timedelta(minutes=1)]
    made.core.audit._clock = lambda: moved[0]
    with pytest.raises(ActivationError):
        made.core.activate(order)
    assert events(made.core)[-1] == "activation refused"


async def test_requests_that_were_refused_have_entries_and_strangers_hide_no_users() -> None:
    made = make()
    executor = ThreadPoolExecutor(1)
    api = ClientApi(made.core, executor=executor, log=made.world.log)
    stranger = make_order().certificate

    async def send(method: str, path: str, query: str, certificate: bytes | None) -> int:
        return (await api.handle(HttpRequest(method, path, query, {}, b"", certificate))).status

    for _ in range(BURST + 20):
        assert await send("GET", "/api/v2/secrets", "s=key", None) == 401
    assert await send("POST", "/api/v2/secrets", "", stranger) == 401
    assert await send("GET", "/api/v2/secrets", "s=key", OFFICER.certificate_der) == 500
    assert await send("GET", "/api/v2/log", "after=0", OWNER.certificate_der) == 500
    assert await send("GET", "/nowhere", "", None) == 405
    executor.shutdown(wait=True)
    entries = read_log(made.core)
    listed = [entry for entry in entries if entry["event"] == "request refused"]
    assert len([entry for entry in listed if entry["caller"] == ""]) == BURST
    assert [(entry["caller"], entry["reason"], entry["path"]) for entry in listed[-2:]] == [
        ("officer", "forbidden", "/api/v2/secrets"),
        ("owner", "forbidden", "/api/v2/log"),
    ]
    counts = [entry["counts"] for entry in entries if entry["event"] == "refusals not listed"]
    assert sum(count["unauthorized"] for count in counts) == 21


@pytest.mark.parametrize(
    "query", ["after=x", "after=-1", "after=", "after=1.5", "after=9999999999999999999", "after=%D9%A1"]
)
async def test_a_query_that_names_no_entry_is_refused(query: str) -> None:
    made = make()
    with ThreadPoolExecutor(1) as executor:
        api = ClientApi(made.core, executor=executor, log=made.world.log)
        for path in ("/api/v2/log", "/api/v2/log/digests"):
            answer = await api.handle(HttpRequest("GET", path, query, {}, b"", OFFICER.certificate_der))
            assert answer.status == 400
            assert b"expected the number of an entry" in answer.body


async def test_pages_over_the_api_are_those_of_the_log() -> None:
    made = make()
    made.core.activate(make_order())
    with ThreadPoolExecutor(1) as executor:
        api = ClientApi(made.core, executor=executor, log=made.world.log)
        answer = await api.handle(HttpRequest("GET", "/api/v2/log", "after=1", {}, b"", OFFICER.certificate_der))
        said = json.loads(answer.body)["data"]
        digests = json.loads((await api.handle(HttpRequest("GET", "/api/v2/log/digests", "", {}, b"", None))).body)[
            "data"
        ]
    page = made.core.audit.page("officer", 1)
    assert list(said) == ["after", "head", "lines", "mark"]
    assert (said["after"], said["head"]) == (1, page.begins.head.hex())
    assert [line.encode() for line in said["lines"]] == list(page.lines)
    assert base64.b64decode(digests["digests"])[32:] == line_digest(page.lines[0])
    assert digests["mark"] == said["mark"]


def test_a_log_that_cannot_be_written_refuses_no_more_than_before() -> None:
    class Full(MemoryStore):
        def append(self, payload: bytes) -> None:
            raise StateError("cannot write: No space left on device")

    made = make(Full())
    with pytest.raises(ActivationError, match="unknown marble type"):
        made.core.activate(make_order("nobody"))
    # What would release something is refused: a release that nobody can see in the log does not happen.
    for act in (lambda: made.core.activate(make_order()), lambda: made.core.read_secrets("owner", ["key"])):
        with pytest.raises(StateError):
            act()


# ---- how it is kept


def activate(made: Made, times: int = MANY) -> None:
    order = make_order()
    for _ in range(times):
        made.core.activate(order)


def test_the_log_goes_on_after_restarts_and_lives_in_files_of_its_own(folder: Folder) -> None:
    made = folder.open()
    for _ in range(3):
        activate(made)
        made = folder.open()
    assert [entry["number"] for entry in read_log(made.core)] == list(range(1, 3 * MANY + 2))
    assert len(list(folder.path.glob("sealed_log.*"))) > 3
    assert sum(map(len, made.core._ledger.held.journal.tail)) < 4000


def test_a_page_begins_anywhere(folder: Folder) -> None:
    made = folder.open()
    activate(made)
    whole: list[bytes] = []
    while lines := made.core.audit.page("officer", len(whole)).lines:
        whole += lines
    assert len(whole) == MANY + 1
    for after in range(MANY + 1):
        page = made.core.audit.page("officer", after)
        assert page.lines == tuple(whole[after : after + len(page.lines)])
        assert page.lines
        assert page.begins == LOG_START.after_lines(whole[:after])
    assert not made.core.audit.page("officer", 10**9).lines


def test_a_snapshot_holds_the_newest_entries_alone(folder: Folder) -> None:
    made = folder.open()
    sizes = []
    for _ in range(3):
        activate(made)
        rewrite(made)
        sizes.append((folder.path / DATA_NAME).stat().st_size)
    assert max(sizes) - min(sizes) < 4000
    assert len(read_log(folder.open().core)) == 3 * (MANY + 1) + 1


def rewrite(made: Made) -> None:
    """The next thing written is a snapshot, as after a failed write."""
    made.store._damaged = True  # type: ignore[attr-defined]
    made.core.activate(make_order())


def fill(folder: Folder) -> list[Path]:
    """Several log files, oldest first, and a state that begins after all of them."""
    made = folder.open()
    activate(made, 2 * MANY)
    rewrite(made)
    folder.close()
    files = sorted(folder.path.glob("sealed_log.*"))
    assert len(files) > 2
    return files


def test_t62_the_oldest_files_may_go_and_the_log_says_where_it_begins(folder: Folder) -> None:
    first, second, *_ = fill(folder)
    first.unlink()
    page = folder.open().core.audit.page("officer", 0)
    begins = int(second.name.rpartition(".")[2]) - 1
    assert page.begins.number == begins
    assert json.loads(page.lines[0])["number"] == begins + 1


def test_t62_a_log_whose_end_was_taken_away_says_so_itself(folder: Folder) -> None:
    _, *later = fill(folder)
    for path in later:
        path.unlink()
    made = folder.open()
    assert any(line["msg"] == "entries of the audit log are missing" for line in made.lines())
    activate(made)
    last = json.loads(made.core.audit.page("officer", 0).lines[-1])["number"]
    beyond = made.core.audit.page("officer", last)
    assert beyond.begins.number > last
    missing = next(json.loads(line) for line in beyond.lines if b"entries missing" in line)
    assert (missing["first"], missing["last"]) == (last + 1, beyond.begins.number)
    # Said once, not at every start.
    made = folder.open()
    activate(made)
    assert json.dumps(read_page_after(made, beyond.begins.number)).count("log entries missing") == 1


def read_page_after(made: Made, after: int) -> list[Any]:
    return [json.loads(line) for line in made.core.audit.page("officer", after).lines]


def test_t62_a_log_file_that_was_altered_is_refused_by_name(folder: Folder) -> None:
    first, *_ = fill(folder)
    data = bytearray(first.read_bytes())
    data[len(data) // 4] ^= 1
    first.write_bytes(data)
    core = folder.open().core
    with pytest.raises(SealedStateError, match=r"sealed_log\.[0-9a-f]{16}\.0+1: record 1 of the log file .* altered"):
        core.audit.page("officer", 0)


def test_t62_log_files_that_were_exchanged_do_not_pass_for_each_other(folder: Folder) -> None:
    first, second, *_ = fill(folder)
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    assert folder.open().core.audit.page("officer", 0).begins.number > 0


def test_a_newest_log_file_that_cannot_be_read_stops_no_start(folder: Folder) -> None:
    *_, last = fill(folder)
    last.write_bytes(b"TACIT\x00LG nonsense")
    made = folder.open()
    activate(made)
    with pytest.raises(SealedStateError):
        read_log(made.core)


def test_t31_a_state_that_is_older_than_its_log_is_refused(folder: Folder) -> None:
    folder.open()
    folder.close()
    older = (folder.path / DATA_NAME).read_bytes()
    activate(folder.open())
    folder.close()
    (folder.path / DATA_NAME).write_bytes(older)
    with pytest.raises(SealedStateError, match="an older copy of the state"):
        folder.open()


def test_t34_a_log_of_another_history_is_refused(folder: Folder, tmp_path: Path) -> None:
    folder.open()
    folder.close()
    older = (folder.path / DATA_NAME).read_bytes()
    for _ in range(2):
        (folder.path / DATA_NAME).write_bytes(older)
        for path in folder.path.glob("sealed_log.*"):
            path.rename(tmp_path / path.name)
        activate(folder.open(), 12)
        folder.close()
    for path in folder.path.glob("sealed_log.*"):
        (tmp_path / path.name).rename(path)
    with pytest.raises(SealedStateError, match="different histories"):
        folder.open()


def test_with_sealing_disabled_the_log_is_in_memory_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfiles_module.MemoryLog, "LINES", 30)
    monkeypatch.setattr(ledger_module, "TAIL", 3000)
    store = SealedFolder(tmp_path, None)
    core = make_coordinator(store=store).core
    core.set_manifest(encode({**LOGGED, "Config": {"SealMode": "Disabled"}}))
    order = make_order()
    for _ in range(100):
        core.activate(order)
    entries = read_log(core)
    assert entries[-1]["number"] == 101
    assert 30 <= len(entries) < 50
    assert not list(tmp_path.iterdir())
    store.close()


def test_nothing_is_logged_before_there_is_a_state() -> None:
    made = make_coordinator()
    with pytest.raises(IllegalTransitionError):
        made.core.activate(make_order())
    made.core.set_manifest(encode({**PLAIN_MANIFEST, "Users": {"officer": LOGGED["Users"]["officer"]}}))
    assert events(made.core) == ["manifest set"]
